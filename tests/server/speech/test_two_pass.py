"""The scripted recogniser in front, one that answers by script behind it, on a virtual clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from server.metrics import Metrics
from server.speech.contract import Capabilities, Closed, EndOfSpeech, Final, Interim, SpeechCall, SpeechEvent
from server.speech.decoder import Decoded
from server.speech.frames import Recognised
from server.speech.scripted import Heard, ScriptedRecogniser, spoken
from server.speech.two_pass import TwoPassRecogniser
from server.transcript.assembler import Assembler
from server.wire.errors import BadRequest, Unavailable
from server.wire.ids import ConversationId, TenantId
from tests.virtual_time import virtual_time

CALL = SpeechCall(
    tenant_id=TenantId("t"), conversation_id=ConversationId("c"), speaker="customer", sample_rate_hz=8_000
)
SCRIPT = [
    *spoken("the surms flight came on", 1_000, 2_600),
    *spoken("a little", 4_000, 4_900),
    *spoken("can you help", 8_000, 9_100),
]
BUDGET_S = 0.6


@dataclass
class Strong:
    """Answers each stretch of speech by what `answer` says of its number."""

    answer: Callable[[int], Decoded | BaseException | None] = lambda number: Decoded(f"better {number}", (1,), 0.9)
    takes_s: float = 0.2
    lengths: list[int] = field(default_factory=list)
    opened: list[SpeechCall] = field(default_factory=list)
    capabilities = Capabilities("strong", interims=True, word_times=True, languages=("en", "es"))

    async def recognise(self, pcm: bytes, rate_hz: int, language: str) -> Recognised:
        self.lengths.append(len(pcm) // 2 * 1000 // rate_hz)
        number = len(self.lengths)
        await asyncio.sleep(self.takes_s)
        answer = self.answer(number)
        if isinstance(answer, BaseException):
            raise answer
        return Recognised(number, answer, self.takes_s)

    async def start(self) -> None: ...

    async def open(self, call: SpeechCall):
        self.opened.append(call)
        return await ScriptedRecogniser({"customer": [replace_text(heard) for heard in SCRIPT]}).open(call)

    async def stop(self) -> None: ...


def replace_text(heard: Heard) -> Heard:
    return heard if not isinstance(heard.event, Final) else Heard(heard.at_ms, replace(heard.event, text="hola"))


@dataclass
class Played:
    events: list[tuple[float, SpeechEvent]]
    counts: dict[str, float]

    def finals(self) -> list[str]:
        return [event.text for _, event in self.events if isinstance(event, Final)]


async def play(strong: Strong, call: SpeechCall = CALL) -> Played:
    metrics = Metrics()
    two = TwoPassRecogniser(ScriptedRecogniser({"customer": SCRIPT}), strong, 1, BUDGET_S, metrics)
    await two.start()
    stream = await two.open(call)
    loop = asyncio.get_running_loop()
    events: list[tuple[float, SpeechEvent]] = []

    async def listen() -> None:
        events.extend([(loop.time(), event) async for event in stream.events()])

    listener = asyncio.create_task(listen())
    for _ in range(600):
        await asyncio.sleep(0.02)
        await stream.send(bytes(320))
    await stream.close()
    await listener
    await two.stop()
    samples = {
        sample.labels["result"]: sample.value
        for metric in metrics.registry.collect()
        for sample in metric.samples
        if sample.name == "cueline_asr_second_pass_total"
    }
    return Played(events, samples)


@virtual_time
async def test_a_final_is_shown_at_once_and_said_better_a_moment_later() -> None:
    strong = Strong()
    played = await play(strong)
    assert played.finals() == ["better 1", "better 2", "better 3"]
    at_s = {event.text: now_s for now_s, event in played.events if isinstance(event, Interim | Final)}
    assert at_s["the surms flight came on"] == pytest.approx(2.84, abs=0.03), "guidance does not wait"
    assert at_s["better 1"] - at_s["the surms flight came on"] == pytest.approx(0.2, abs=0.01)
    shown = [event for _, event in played.events if isinstance(event, Interim) and event.text in ("can you help",)]
    assert [event.is_stable for event in shown] == [True]
    assert strong.lengths[0] == pytest.approx(2_000, abs=40), "the voice and a margin around it"
    assert played.counts == {"revised": 3.0}


@virtual_time
async def test_the_bubble_keeps_its_id_and_its_revisions_grow() -> None:
    assembler = Assembler(TenantId("t"), ConversationId("c"))
    told = [
        utterance
        for now_s, event in (await play(Strong())).events
        for utterance in assembler.on_speech("customer", event, now_s)
    ]
    by_id: dict[str, list[int]] = {}
    for utterance in told:
        by_id.setdefault(utterance.utterance_id, []).append(utterance.revision)
    assert list(by_id) == ["customer-1000", "customer-4000", "customer-8000"]
    assert all(revisions == list(range(1, len(revisions) + 1)) for revisions in by_id.values())
    finals = [utterance for utterance in told if utterance.is_final]
    assert [utterance.text for utterance in finals] == ["better 1", "better 2", "better 3"]


@virtual_time
async def test_no_final_is_later_than_its_budget() -> None:
    played = await play(Strong(takes_s=5.0))
    assert played.finals() == ["the surms flight came on", "a little", "can you help"]
    stable_s = {e.text: now_s for now_s, e in played.events if isinstance(e, Interim) and e.is_stable}
    for now_s, event in played.events:
        if isinstance(event, Final):
            assert now_s - stable_s.get(event.text, now_s) <= BUDGET_S + 0.001
    assert played.counts["late"] >= 1
    assert played.counts["late"] + played.counts["skipped"] == 3
    assert played.counts["skipped"] >= 1, "a machine without time is not asked again at once"


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (None, "failed"),
        (Unavailable("died"), "failed"),
        (Decoded("", (), 0.0), "kept"),
        (Decoded("oil change, " * 30, (1,), 0.9), "kept"),
        (Decoded("gear " * 12 + "gear", (1,), 0.9, is_capped=True), "kept"),
    ],
)
@virtual_time
async def test_what_is_worth_nothing_does_not_replace_what_was_heard(
    answer: Decoded | BaseException | None, result: str
) -> None:
    played = await play(Strong(answer=lambda _: answer))
    assert played.counts == {result: 3.0}
    assert played.finals() == ["the surms flight came on", "a little", "can you help"]


@virtual_time
async def test_events_stay_in_audio_order() -> None:
    played = await play(Strong(takes_s=0.55))
    kinds = [type(event).__name__ for _, event in played.events if isinstance(event, Final | EndOfSpeech | Closed)]
    assert kinds == [*["Final", "EndOfSpeech"] * 3, "Closed"]


@virtual_time
async def test_a_language_of_the_strong_one_alone() -> None:
    strong = Strong()
    played = await play(strong, replace(CALL, language="es-MX"))
    assert played.finals() == ["hola"] * 3
    assert [call.language for call in strong.opened] == ["es-MX"]
    assert strong.lengths == []
    assert played.counts == {}


@virtual_time
async def test_a_stream_that_is_let_go_says_no_more() -> None:
    strong = Strong(takes_s=0.5)
    two = TwoPassRecogniser(ScriptedRecogniser({"customer": SCRIPT}), strong, 1, BUDGET_S, Metrics())
    stream = await two.open(CALL)
    for _ in range(150):
        await stream.send(bytes(320))
    await asyncio.sleep(0)
    await stream.abandon()
    assert [event async for event in stream.events()][-1] == Closed()
    await two.stop()


class Refusing(ScriptedRecogniser):
    async def start(self) -> None:
        raise BadRequest("no weights")


@virtual_time
async def test_a_fast_one_is_stopped_when_the_strong_one_does_not_start() -> None:
    stopped: list[str] = []

    class Fast(ScriptedRecogniser):
        async def stop(self) -> None:
            stopped.append("fast")

    two = TwoPassRecogniser(Fast({}), Refusing({}), 1, BUDGET_S, Metrics())  # type: ignore[arg-type]
    with pytest.raises(BadRequest):
        await two.start()
    assert stopped == ["fast"]
