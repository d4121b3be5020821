"""The load generator counts what was answered and no more, whatever the feed loses or says twice."""

import itertools

import msgspec
from websockets.asyncio.server import serve

from benchmarks.pipeline.load import LoadResult, Schedule, run_bare_load
from server.wire.ingest import UtteranceIn

OUTPUTS = ("intent", "sentiment")


async def load(answers: dict[str, tuple[str, ...]]) -> tuple[LoadResult, list[UtteranceIn]]:
    """Twenty utterances in two calls; those that are not named are answered with all outputs. And what was sent."""
    taken: list[UtteranceIn] = []

    async def answer(connection) -> None:
        async for message in connection:
            utterance = msgspec.json.decode(message, type=UtteranceIn)
            taken.append(utterance)
            for output in answers.get(utterance.utterance_id, OUTPUTS):
                annotation = {"utterance_id": utterance.utterance_id, "revision": 1, "output": output, "value": []}
                await connection.send(msgspec.json.encode(annotation).decode())

    schedule = Schedule(rate_per_s=200, duration_s=0.08, conversations=2, prefix="c", lead_s=0.02)
    async with serve(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        texts = (f"text {number}" for number in itertools.count())
        return await run_bare_load(f"ws://127.0.0.1:{port}", texts, schedule), taken


async def test_every_utterance_is_sent_once_in_its_call_and_answered():
    result, taken = await load({})
    assert (result.sent, result.answered, result.outputs) == (20, 20, 2)
    assert sorted(int(utterance.utterance_id[1:]) for utterance in taken) == list(range(20))
    assert len({utterance.text for utterance in taken}) == 20
    assert len(result.latency_ms) == 16, "the lead counts"
    assert len(result.late_ms) == 20
    assert result.late_ms.min() >= 0, "sent before it was due"
    assert result.latency_ms.min() > 0


async def test_an_utterance_is_answered_by_each_output_once():
    result, _ = await load(
        {
            "u7": (),
            "u8": ("intent",),
            "u9": (*OUTPUTS, "intent"),
            "u10": ("intent", "intent"),  # as many as were due
        }
    )
    assert (result.sent, result.answered, result.outputs) == (20, 16, 2)
    assert len(result.latency_ms) == 12


async def test_an_output_that_came_once_is_missed_everywhere_else():
    result, _ = await load({"u7": (*OUTPUTS, "moments")})
    assert (result.answered, result.outputs) == (1, 3)
