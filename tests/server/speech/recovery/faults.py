"""Recognisers that fail on purpose, a caller who speaks a script, and what reaches the transcript in the end."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from server.metrics import Metrics
from server.speech.contract import (
    Capabilities,
    Closed,
    Covered,
    Final,
    Recogniser,
    SpeechCall,
    SpeechEvent,
    SpeechGap,
    SpeechStream,
)
from server.speech.recovery.recogniser import RecoveringRecogniser
from server.speech.recovery.settings import RecoverySettings
from server.speech.scripted import Heard, ScriptedRecogniser, spoken
from server.transcript.assembler import Assembler
from server.wire.errors import Overloaded, Unavailable
from server.wire.ids import ConversationId, TenantId

RATE_HZ = 8_000
FRAME_MS = 100
CALL = SpeechCall(
    tenant_id=TenantId("t"), conversation_id=ConversationId("c"), speaker="customer", sample_rate_hz=RATE_HZ
)
Fate = tuple[float, str]
"""When a stream fails, in seconds after it opened, and how: `drop`, `stall`, `block`, `full` or `end`."""


@dataclass(frozen=True)
class Speech:
    """What one side says: script and samples, silent where the script is."""

    script: list[Heard]
    pcm: bytes
    utterances: list[tuple[int, int, str]]

    @property
    def length_ms(self) -> int:
        return len(self.pcm) * 1000 // (2 * RATE_HZ)


def talk(seed: int, seconds: float, longest_ms: int = 2_400) -> Speech:
    """Random utterances with pauses of half a second and more, and coverage each second of silence."""
    draw = random.Random(seed)
    length_ms = int(seconds * 1000)
    noise = np.random.default_rng(seed)
    # Not quite silent, so that a piece of the audio is found in one place only.
    samples = noise.integers(-4, 5, length_ms * RATE_HZ // 1000).astype(np.int16)
    script: list[Heard] = []
    utterances = []
    now_ms, number = draw.randrange(200, 1_500), 0
    covered_ms = 0
    while True:
        end_ms = now_ms + draw.randrange(400, longest_ms)
        if end_ms + 1_500 > length_ms:
            break
        while covered_ms + 1_000 < now_ms:
            covered_ms += 1_000
            script.append(Heard(covered_ms, Covered(covered_ms)))
        number += 1
        text = " ".join(f"word{number}.{part}" for part in range(1 + (end_ms - now_ms) // 300))
        script += spoken(text, now_ms, end_ms)
        utterances.append((now_ms, end_ms, text))
        first, last = now_ms * RATE_HZ // 1000, end_ms * RATE_HZ // 1000
        samples[first:last] = noise.integers(-6_000, 6_000, last - first)
        covered_ms = end_ms + 240
        now_ms = end_ms + draw.randrange(500, 3_000)
    while covered_ms + 1_000 < length_ms:
        covered_ms += 1_000
        script.append(Heard(covered_ms, Covered(covered_ms)))
    return Speech(script, samples.tobytes(), utterances)


class FaultyStream:
    """A scripted stream that meets its fate, and checks that it hears the call's audio in order."""

    def __init__(self, inner: SpeechStream, speech: Speech, start_ms: int, fate: Fate | None, full_s: float) -> None:
        self._inner = inner
        self._speech = speech
        self._position = start_ms * RATE_HZ // 1000 * 2
        self._is_silent = False
        self._is_blocked = False
        self._is_full = False
        self._is_closing = False
        self._full_s = full_s
        self._lost = asyncio.Event()
        self._error: BaseException | None = None
        if fate is not None:
            self._timer = asyncio.get_running_loop().call_later(fate[0], self._meet, fate[1])

    def _meet(self, kind: str) -> None:
        match kind:
            case "full":
                self._is_full = not self._is_full
                if self._is_full:
                    self._timer = asyncio.get_running_loop().call_later(self._full_s, self._meet, kind)
            case "stall":
                self._is_silent = True
            case "block":
                self._is_silent = self._is_blocked = True
            case "drop":
                self._error = Unavailable("dropped")
                self._lost.set()
            case "end":
                # Before a close; after one it would claim to have said everything.
                self._error = Unavailable("dropped") if self._is_closing else None
                self._lost.set()

    async def send(self, pcm: bytes) -> None:
        if self._is_full:
            raise Overloaded("full")
        assert pcm == self._speech.pcm[self._position : self._position + len(pcm)], "the audio clock is not linear"
        self._position += len(pcm)
        if self._is_blocked:
            await asyncio.sleep(2)
            raise Unavailable("nothing was taken within the time limit")
        await self._inner.send(pcm)

    async def finalize(self) -> None:
        await self._inner.finalize()

    async def close(self) -> None:
        self._is_closing = True
        await self._inner.close()

    async def abandon(self) -> None:
        if hasattr(self, "_timer"):
            self._timer.cancel()
        await self._inner.abandon()

    async def events(self) -> AsyncIterator[SpeechEvent]:
        events = aiter(self._inner.events())
        lost = asyncio.ensure_future(self._lost.wait())
        coming: asyncio.Future[SpeechEvent] | None = None
        try:
            while True:
                coming = asyncio.ensure_future(anext(events))
                await asyncio.wait((lost, coming), return_when=asyncio.FIRST_COMPLETED)
                if lost.done():
                    yield Closed(self._error)
                    return
                event = coming.result()
                if not self._is_silent:
                    yield event
                if isinstance(event, Closed) and not self._is_silent:
                    return
                if isinstance(event, Closed):
                    await lost
        finally:
            for task in (lost, coming):
                if task is not None:
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)


@dataclass
class FaultyRecogniser:
    """A scripted recogniser that is away at times and whose streams fail.

    Attributes:
        speech: What is said.
        fates: Fate of the first stream, of the second, …; None or the end of the list: it lives.
        away: Spans of loop time in which nobody answers; connects fail, streams drop at the start of one.
        refusal: Every connect ends with it.
        full_s: How long a stream that is full stays so.
    """

    speech: Speech
    fates: Sequence[Fate | None] = ()
    away: Sequence[tuple[float, float]] = ()
    refusal: Exception | None = None
    name: str = "scripted"
    delay_s: float = 0.2
    full_s: float = 4.0
    replay_speed: float = 4.0
    opened: list[int] = field(default_factory=list)
    num_connects: int = 0

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(self.name, True, False, ("en",), replay_speed=self.replay_speed)

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def open(self, call: SpeechCall) -> SpeechStream:
        now_s = asyncio.get_running_loop().time()
        self.num_connects += 1
        if self.refusal is not None:
            raise self.refusal
        if any(start_s <= now_s < end_s for start_s, end_s in self.away):
            raise Unavailable("away")
        number = len(self.opened)
        self.opened.append(call.start_ms)
        fate = self.fates[number] if number < len(self.fates) else None
        next_s = min((start_s - now_s for start_s, _ in self.away if start_s > now_s), default=None)
        if next_s is not None and (fate is None or next_s < fate[0]):
            fate = (next_s, "drop")
        inner = await ScriptedRecogniser({"customer": self.speech.script}, delay_s=self.delay_s).open(call)
        return FaultyStream(inner, self.speech, call.start_ms, fate, self.full_s)


@dataclass
class Outcome:
    """What became of a call.

    Attributes:
        transcript: Id to start, end and text of each utterance that has words.
        gaps: As they were told.
        late: Ids whose text came by backfill.
    """

    transcript: dict[str, tuple[int, int, str]]
    gaps: list[SpeechGap]
    late: set[str]
    finals: list[Final]
    metrics: Metrics
    ended_s: float

    def count(self, name: str) -> float:
        return self.metrics.registry.get_sample_value(name) or 0.0


async def place(
    speech: Speech,
    recognisers: Sequence[Recogniser],
    settings: RecoverySettings | None = None,
    *,
    draw: Callable[[], float] = lambda: 0.5,
    speed: float = 1.0,
) -> Outcome:
    """Speak in real time through the recovery, and assemble what comes out."""
    metrics = Metrics()
    recogniser = RecoveringRecogniser(recognisers, settings or RecoverySettings(), metrics, draw)
    stream = await recogniser.open(CALL)
    assembler = Assembler(CALL.tenant_id, CALL.conversation_id)
    said: dict[str, tuple[int, int, str]] = {}
    revisions: dict[str, int] = {}
    outcome = Outcome({}, [], set(), [], metrics, 0.0)
    loop = asyncio.get_running_loop()

    async def listen() -> None:
        covered_ms = 0
        async for event in stream.events():
            if isinstance(event, SpeechGap):
                outcome.gaps.append(event)
            if isinstance(event, Covered):
                assert event.covered_ms > covered_ms, "coverage goes forward"
                covered_ms = event.covered_ms
            if isinstance(event, Closed):
                assert event.error is None
            is_backfill = isinstance(event, Final) and event.is_backfill
            if isinstance(event, Final):
                outcome.finals.append(event)
            for utterance in assembler.on_speech(
                "customer", event, loop.time(), origin="backfill" if is_backfill else "speech"
            ):
                assert utterance.revision > revisions.get(utterance.utterance_id, 0)
                revisions[utterance.utterance_id] = utterance.revision
                said[utterance.utterance_id] = (utterance.start_ms, utterance.end_ms, utterance.text)
                if utterance.is_final and utterance.origin == "backfill":
                    outcome.late.add(utterance.utterance_id)

    listener = asyncio.create_task(listen())
    frame = FRAME_MS * RATE_HZ // 1000 * 2
    started_s = loop.time()
    for first in range(0, len(speech.pcm), frame):
        due_s = started_s + (first + frame) / (2 * RATE_HZ) / speed
        await asyncio.sleep(max(0.0, due_s - loop.time()))
        await stream.send(speech.pcm[first : first + frame])
    await stream.close()
    await listener
    outcome.ended_s = loop.time()
    await recogniser.stop()
    outcome.transcript = {name: value for name, value in said.items() if value[2]}
    return outcome


async def undisturbed(speech: Speech) -> dict[str, tuple[int, int, str]]:
    """The transcript of a call in which nothing fails."""
    return (await place(speech, [FaultyRecogniser(speech)])).transcript
