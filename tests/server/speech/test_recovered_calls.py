"""Our adapter, the recovery and the speech server on a bad day, over real sockets."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import fields, replace

import numpy as np
import pytest

from server.metrics import Metrics
from server.speech.contract import Closed, Final, SpeechCall, SpeechEvent, SpeechGap, SpeechStream
from server.speech.embedded import EmbeddedRecogniser
from server.speech.recovery.recogniser import RecoveringRecogniser
from server.speech.recovery.settings import RecoverySettings
from server.speech.scripted import ScriptedRecogniser
from server.speech.settings import EmbeddedSettings
from server.speech.word_errors import word_errors, words_of
from server.speech_server.faults import Faults
from tests.server.speech.conftest import RenderedCall
from tests.server.speech.recovery.faults import Speech, place, talk
from tests.server.speech_server.serving import adapter, serving, side


def in_turn(*faults: Faults) -> Callable[[], Faults]:
    queue = itertools.chain(faults, itertools.repeat(Faults()))
    return lambda: next(queue)


class Following:
    """A scripted recogniser as a vendor has it: each connection's times begin at 0, wherever in the call it begins."""

    def __init__(self, speech: Speech) -> None:
        self._speech = speech
        self.capabilities = ScriptedRecogniser({}).capabilities

    async def open(self, call: SpeechCall) -> FollowingStream:
        return FollowingStream(self._speech, call)


class FollowingStream:
    """Finds its place by what it hears first."""

    def __init__(self, speech: Speech, call: SpeechCall) -> None:
        self._speech = speech
        self._call = call
        self._inner: asyncio.Future[tuple[int, SpeechStream]] = asyncio.get_running_loop().create_future()

    async def send(self, pcm: bytes) -> None:
        if not self._inner.done():
            start_ms = self._speech.pcm.index(pcm) // 16
            script = ScriptedRecogniser({self._call.speaker: self._speech.script})
            self._inner.set_result((start_ms, await script.open(replace(self._call, start_ms=start_ms))))
        await self._inner.result()[1].send(pcm)

    async def close(self) -> None:
        await (await self._inner)[1].close()

    async def abandon(self) -> None:
        if self._inner.done():
            await self._inner.result()[1].abandon()

    async def events(self) -> AsyncIterator[SpeechEvent]:
        start_ms, inner = await self._inner
        async for event in inner.events():
            times = {field.name: -start_ms for field in fields(event) if field.name.endswith("_ms")}
            yield replace(event, **{name: getattr(event, name) + shift for name, shift in times.items()})


@pytest.mark.slow
async def test_drops_refusals_and_garbage_are_not_seen_in_the_transcript() -> None:
    speech = talk(21, 40)
    faults = in_turn(
        Faults(drop=7.3),
        Faults(refuse=503),
        Faults(refuse=429),
        Faults(drop=9.1, garbage=2),
        Faults(drop=6.0, slow=0.001),
    )
    async with serving(Following(speech), faults=faults) as server:  # type: ignore[arg-type]
        outcome = await place(speech, [adapter(server, replay_speed=4.0)], RecoverySettings(young_s=0.1), speed=10.0)
        assert len(server.requests) == 4
    said = {(start, text) for start, _, text in outcome.transcript.values()}
    assert said == {(start, text) for start, _, text in speech.utterances}
    assert len(outcome.finals) == len(speech.utterances)
    assert outcome.gaps == []


@pytest.mark.slow
async def test_a_real_recogniser_with_drops_and_a_stall_says_what_it_says_without(call: RenderedCall) -> None:
    """Word error within one point of the undisturbed call, and nothing twice."""

    async def play(faults: Callable[[], Faults]) -> tuple[list[str], list[SpeechGap], int]:
        async with serving(recogniser, faults=faults) as server:  # type: ignore[arg-type]
            around = RecoveringRecogniser(
                [adapter(server, replay_speed=4.0)], RecoverySettings(), Metrics(), random.Random(1).random
            )
            stream = await around.open(side())
            finals: list[Final] = []
            gaps: list[SpeechGap] = []

            async def listen() -> None:
                async for event in stream.events():
                    if isinstance(event, Final) and event.text:
                        finals.append(event)
                    if isinstance(event, SpeechGap):
                        gaps.append(event)
                    assert not (isinstance(event, Closed) and event.error)

            listener = asyncio.create_task(listen())
            loop = asyncio.get_running_loop()
            started_s = loop.time()
            for first in range(0, len(pcm), 1_600):
                await asyncio.sleep(max(0.0, started_s + (first + 1_600) / 16_000 - loop.time()))
                await stream.send(pcm[first : first + 1_600])
            await stream.close()
            await listener
            await around.stop()
            finals.sort(key=lambda final: final.start_ms)
            for one, other in itertools.pairwise(finals):
                assert one.end_ms <= other.start_ms + 300, "said twice"
            return words_of(" ".join(final.text for final in finals)), gaps, len(server.requests)

    turns = [(speaker, turn) for speaker in ("agent", "customer") for turn in call.turns[speaker]]
    said = [word for _, (_, _, text) in turns for word in words_of(text)]
    pause = np.zeros(4_800, np.int16)
    pcm = np.concatenate(
        [part for speaker, (start, end, _) in turns for part in (call.sides[speaker][start * 8 : end * 8], pause)]
    ).tobytes()
    recogniser = EmbeddedRecogniser(EmbeddedSettings(workers=1))
    await recogniser.start()
    try:
        plain, disturbed = await asyncio.gather(
            play(Faults),
            play(in_turn(Faults(drop=2.7), Faults(stall=1.0), Faults(drop=4.3))),
        )
    finally:
        await recogniser.stop()
    assert disturbed[2] == 4
    assert disturbed[1] == []
    plain_rate, disturbed_rate = (word_errors(said, heard) / len(said) for heard in (plain[0], disturbed[0]))
    print(f"word error undisturbed {plain_rate:.3f}, disturbed {disturbed_rate:.3f}, of {len(said)} words")
    assert disturbed_rate <= plain_rate + 0.01
