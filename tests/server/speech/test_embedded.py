"""The recogniser with its worker processes and the real models."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from server.speech.contract import Closed, Covered, Final, Recogniser, SpeechCall, SpeechEvent, SpeechStream
from server.speech.embedded import EmbeddedRecogniser
from server.speech.settings import EmbeddedSettings
from server.speech.word_errors import word_errors, words_of
from server.wire.errors import BadAudio, BadRequest, ConfigError, Overloaded, Unavailable
from server.wire.ids import ConversationId, Speaker, TenantId
from tests.server.speech.conftest import RenderedCall

pytestmark = pytest.mark.slow


@asynccontextmanager
async def running(settings: EmbeddedSettings) -> AsyncIterator[EmbeddedRecogniser]:
    recogniser = EmbeddedRecogniser(settings)
    await recogniser.start()
    try:
        yield recogniser
    finally:
        await recogniser.stop()


def side(
    speaker: Speaker = "customer",
    rate_hz: int = 8_000,
    start_ms: int = 0,
    language: str = "en",
    conversation: str = "c",
) -> SpeechCall:
    return SpeechCall(
        tenant_id=TenantId("t"),
        conversation_id=ConversationId(conversation),
        speaker=speaker,
        sample_rate_hz=rate_hz,
        start_ms=start_ms,
        language=language,
    )


async def listen(stream: SpeechStream) -> list[SpeechEvent]:
    return [event async for event in stream.events()]


async def send(stream: SpeechStream, samples: npt.NDArray[np.int16], frame: int = 160) -> None:
    for first in range(0, len(samples), frame):
        await stream.send(samples[first : first + frame].tobytes())


def finals_of(events: list[SpeechEvent]) -> list[Final]:
    return [event for event in events if isinstance(event, Final)]


def said(call: RenderedCall, speaker: Speaker) -> list[str]:
    return [word for _, _, text in call.turns[speaker] for word in words_of(text)]


async def test_both_sides_of_a_call_at_full_speed(call: RenderedCall) -> None:
    async with running(EmbeddedSettings(workers=2)) as recogniser:
        assert len(recogniser.worker_pids) == 2
        contract: Recogniser = recogniser
        streams = {speaker: await contract.open(side(speaker, start_ms=10_000)) for speaker in call.sides}
        listeners = {speaker: asyncio.create_task(listen(stream)) for speaker, stream in streams.items()}
        for speaker, stream in streams.items():
            await send(stream, call.sides[speaker])
            await stream.close()
            await stream.close()
            await stream.send(b"\0\0")
        for speaker, listener in listeners.items():
            events = await listener
            assert events[-1] == Closed(None)
            heard = words_of(" ".join(final.text for final in finals_of(events)))
            assert word_errors(said(call, speaker), heard) <= 2
            first_ms = finals_of(events)[0].start_ms - 10_000
            assert abs(first_ms - call.turns[speaker][0][0]) <= 250
            covered = [event.covered_ms for event in events if isinstance(event, Covered)]
            assert covered[-1] >= 10_000 + len(call.sides[speaker]) // 8 - 1_000


async def test_finalize_brings_the_final_without_any_silence(call: RenderedCall) -> None:
    start_ms, end_ms, text = call.turns["agent"][0]
    async with running(EmbeddedSettings(workers=1)) as recogniser:
        stream = await recogniser.open(side("agent"))
        await send(stream, call.sides["agent"][: end_ms * 8])
        await stream.finalize()
        async with asyncio.timeout(20):
            async for event in stream.events():
                if isinstance(event, Final):
                    break
        assert word_errors(words_of(text), words_of(event.text)) <= 1
        assert event.start_ms <= start_ms + 250


async def test_a_worker_that_dies_takes_only_its_streams_and_comes_back(
    call: RenderedCall, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(EmbeddedSettings(workers=2)) as recogniser:
        first = await recogniser.open(side())
        second = await recogniser.open(side("agent", conversation="another"))
        events = asyncio.create_task(listen(first))
        other = asyncio.create_task(listen(second))
        before = recogniser.worker_pids
        os.kill(before[0], signal.SIGKILL)
        (closed,) = await events
        assert isinstance(closed, Closed)
        assert isinstance(closed.error, Unavailable)
        assert closed.error.retryable
        assert "speech worker died" in caplog.text
        await first.send(b"\0\0")  # the caller may not know yet

        third = await recogniser.open(side())  # goes to the one that lives
        again = asyncio.create_task(listen(third))
        for stream, speaker in ((second, "agent"), (third, "customer")):
            await send(stream, call.sides[speaker])  # type: ignore[index]
            await stream.close()
        assert len(finals_of(await other)) == len(call.turns["agent"])
        assert len(finals_of(await again)) == len(call.turns["customer"])
        restart = recogniser._slots[0]._restart
        assert restart is not None
        await restart
        assert len(recogniser.worker_pids) == 2
        assert recogniser.worker_pids[0] != before[0]


async def test_the_sides_of_a_call_share_a_worker_and_calls_are_spread() -> None:
    async with running(EmbeddedSettings(workers=2)) as recogniser:
        for conversation in ("a", "b", "c", "d"):
            await recogniser.open(side("customer", conversation=conversation))
        for conversation in ("a", "b", "c", "d"):
            await recogniser.open(side("agent", conversation=conversation))
        placed = [
            sorted((stream._call.conversation_id, stream._call.speaker) for stream in slot.streams.values())
            for slot in recogniser._slots
        ]
    assert placed == [[(c, who) for c in pair for who in ("agent", "customer")] for pair in (("a", "c"), ("b", "d"))]


async def test_stop_ends_every_stream_and_every_process() -> None:
    async with running(EmbeddedSettings(workers=1)) as recogniser:
        stream = await recogniser.open(side())
        (pid,) = recogniser.worker_pids
    assert await listen(stream) == [Closed(None)]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(Unavailable):
        await recogniser.open(side())


async def test_a_worker_that_hangs_overloads_its_streams_and_nobody_waits_for_ever(
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = EmbeddedSettings(workers=1, max_backlog_ms=2_000, overload_after_s=0.1)
    async with running(settings) as recogniser:
        stream = await recogniser.open(side())
        (pid,) = recogniser.worker_pids
        os.kill(pid, signal.SIGSTOP)
        second = np.zeros(8_000, np.int16)
        with pytest.raises(Overloaded):
            await send(stream, np.tile(second, 5), 8_000)
        os.kill(pid, signal.SIGCONT)
        async with asyncio.timeout(20):
            await send(stream, np.tile(second, 5), 800)
            await stream.close()
        assert (await listen(stream))[-1] == Closed(None)
        os.kill(pid, signal.SIGSTOP)
    assert "did not end by itself" in caplog.text


async def test_no_more_streams_than_there_is_room_for() -> None:
    async with running(EmbeddedSettings(workers=1, max_streams=1)) as recogniser:
        stream = await recogniser.open(side())
        with pytest.raises(Overloaded):
            await recogniser.open(side("agent"))
        await stream.close()
        assert await listen(stream) == [Closed(None)]
        await recogniser.open(side("agent"))


async def test_what_it_cannot_hear_is_refused_by_name() -> None:
    async with running(EmbeddedSettings(workers=1)) as recogniser:
        with pytest.raises(BadRequest) as language:
            await recogniser.open(side(language="es-MX"))
        assert language.value.field == "language"
        with pytest.raises(BadAudio) as rate:
            await recogniser.open(side(rate_hz=4_000))
        assert rate.value.field == "sample_rate_hz"
        stream = await recogniser.open(side(language="en-GB"))
        with pytest.raises(BadAudio):
            await stream.send(b"\0")


async def test_weights_that_do_not_load_refuse_the_start(tmp_path: Path) -> None:
    for name in ("encoder_model.ort", "decoder_model_merged.ort", "tokenizer.bin"):
        (tmp_path / name).write_bytes(b"no model")
    recogniser = EmbeddedRecogniser(EmbeddedSettings(workers=1, moonshine_folder=str(tmp_path)))
    with pytest.raises(ConfigError) as refused:
        await recogniser.start()
    assert refused.value.field == "speech.moonshine_folder"
    assert recogniser.worker_pids == ()
