"""What a recogniser makes of recordings with known text, through the speech contract, as a call would.

prompts ─▶ one stream each, some at once, as fast as it takes them ─▶ finals ─▶ word errors
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from server.speech.contract import Closed, Final, Recogniser, SpeechCall
from server.speech.prompts import Prompt
from server.speech.word_errors import ErrorRate, error_rate, word_errors, words_of
from server.wire.errors import Overloaded, Unavailable
from server.wire.ids import ConversationId, TenantId

_BLOCK_MS = 20
_TAIL_MS = 600
"""Silence after a recording that ends with its last word; a call has it, too."""
_PAUSE_S = 0.2
"""Before audio is offered again to a recogniser that is behind."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What came out.

    Attributes:
        errors: Word error rate.
        audio_s: Length of the recordings.
        took_s: Wall time for all of them.
        heard: What each prompt's text became, in order.
    """

    errors: ErrorRate
    audio_s: float
    took_s: float
    heard: tuple[str, ...]


async def evaluate(
    recogniser: Recogniser,
    prompts: Sequence[Prompt],
    language: str,
    *,
    at_once: int = 2,
    progress: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Recognise all prompts.

    Args:
        recogniser: Started.
        prompts: At least one with a word.
        language: Of the prompts.
        at_once: Streams side by side.
        progress: Called after each prompt.

    Raises:
        Unavailable: A stream was lost.
        CuelineError: The recogniser does not take it.
    """
    room = asyncio.Semaphore(at_once)
    audio_s = 0.0

    async def hear(number: int, prompt: Prompt) -> str:
        nonlocal audio_s
        async with room:
            samples, rate_hz = await asyncio.to_thread(prompt.read)
            text = await _hear(recogniser, samples.tobytes(), rate_hz, language, number)
            audio_s += len(samples) / rate_hz
            progress()
            return text

    started_s = time.monotonic()
    tasks: list[asyncio.Task[str]] = []
    try:
        async with asyncio.TaskGroup() as group:
            tasks += [group.create_task(hear(number, prompt)) for number, prompt in enumerate(prompts)]
    except ExceptionGroup as failed:  # not `except*`: before Python 3.11.4 it wraps what it raises once more
        raise _first(failed) from failed
    took_s = time.monotonic() - started_s
    heard = tuple(task.result() for task in tasks)
    counts = []
    for prompt, text in zip(prompts, heard, strict=True):
        said = words_of(prompt.text, language)
        counts.append((word_errors(said, words_of(text, language)), len(said)))
    return Evaluation(error_rate(counts), audio_s, took_s, heard)


def _first(failed: BaseException) -> BaseException:
    while isinstance(failed, BaseExceptionGroup):
        failed = failed.exceptions[0]
    return failed


async def _hear(recogniser: Recogniser, pcm: bytes, rate_hz: int, language: str, number: int) -> str:
    call = SpeechCall(
        tenant_id=TenantId("evaluation"),
        conversation_id=ConversationId(f"prompt-{number}"),
        speaker="customer",
        sample_rate_hz=rate_hz,
        language=language,
    )
    stream = await recogniser.open(call)
    block_bytes = 2 * rate_hz * _BLOCK_MS // 1000

    async def send() -> None:
        padded = pcm + bytes(2 * rate_hz * _TAIL_MS // 1000)
        first = 0
        while first < len(padded):
            try:
                await stream.send(padded[first : first + block_bytes])
            except Overloaded:  # there is no hurry here
                await asyncio.sleep(_PAUSE_S)
            else:
                first += block_bytes
        await stream.close()

    texts: list[str] = []
    async with asyncio.TaskGroup() as group:
        group.create_task(send())
        async for event in stream.events():
            match event:
                case Final():
                    texts.append(event.text)
                case Closed(error) if error is not None:
                    raise Unavailable("the recogniser lost a stream") from error
    return " ".join(text for text in texts if text)
