"""The embedded recogniser: Silero VAD and Moonshine, or Whisper, in worker processes, behind the speech contract.

    EmbeddedRecogniser ── open ──────▶ the least loaded worker ── events ─▶ EmbeddedStream.events()
                       ── recognise ─▶ the same                ── text of one stretch of speech

A worker that dies takes its streams with it: each gets `Closed` with a retryable error, the caller opens a new one
from its ring of audio, and a new worker is started. Workers that keep dying young are not started for ever.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

from server.speech.contract import Capabilities, Closed, SpeechCall, SpeechEvent, SpeechStream, primary_language
from server.speech.frames import (
    Abandon,
    Audio,
    CloseStream,
    Command,
    Configure,
    Ended,
    Event,
    Finalize,
    Open,
    Progress,
    Recognise,
    Recognised,
    Reply,
    event_of,
)
from server.speech.model_files import ModelFiles, locate, whisper_languages
from server.speech.settings import EmbeddedSettings
from server.speech.worker_process import WorkerProcess
from server.wire.errors import BadAudio, BadRequest, ConfigError, Overloaded, Unavailable

logger = logging.getLogger(__name__)

MIN_RATE_HZ, MAX_RATE_HZ = 8_000, 48_000
_BYTES_PER_SAMPLE = 2
_READY_TIMEOUT_S = 60.0
_MAX_UNREAD_EVENTS = 1_000
"""A reader that is so far behind has stopped reading; `send` waits for it as for a slow worker."""
_YOUNG_S = 5.0
_MAX_YOUNG_DEATHS = 3
"""Three workers in a row that lived less than five seconds are a permanent fault. Source: OPERATIONS d3."""


class EmbeddedStream:
    """One side of one call in a worker. Made by `EmbeddedRecogniser.open`.

    Args:
        slot: The worker's place, which outlives the process in it.
        number: The stream's number in the worker.
        call: What was opened.
        settings: For the bounds of the backlog.
    """

    def __init__(self, slot: _Slot, number: int, call: SpeechCall, settings: EmbeddedSettings) -> None:
        self._slot = slot
        self._number = number
        self._call = call
        self._settings = settings
        self._sent_bytes = 0
        self._resolved_ms = 0
        self._is_closing = False
        self._is_closed = False
        self._room = asyncio.Event()
        self._events: asyncio.Queue[SpeechEvent] = asyncio.Queue()

    async def send(self, pcm: bytes) -> None:
        """Take linear16 mono samples. Waits while the backlog is full, so that a fast source is slowed down.

        Raises:
            BadAudio: Half a sample.
            Overloaded: The backlog stayed full for `overload_after_s`. Nothing of `pcm` was taken.
        """
        if len(pcm) % _BYTES_PER_SAMPLE:
            raise BadAudio("linear16 audio has an even number of bytes", field="pcm")
        if self._is_full:
            await self._wait_for_room()
        if self._is_closed or self._is_closing or not pcm:
            return
        self._sent_bytes += len(pcm)
        self._slot.write(Audio(self._number, pcm))

    async def finalize(self) -> None:
        """Close the utterance that is open now."""
        self._slot.write(Finalize(self._number))

    async def close(self) -> None:
        """No more audio. Remaining finals still arrive, then `Closed`."""
        if not self._is_closing and not self._is_closed:
            self._is_closing = True
            self._slot.write(CloseStream(self._number))

    async def abandon(self) -> None:
        """Let go at once; the worker forgets what it was sent."""
        if not self._is_closed:
            self._slot.write(Abandon(self._number))
            self._slot.streams.pop(self._number, None)
            self.end(None)

    async def events(self) -> AsyncIterator[SpeechEvent]:
        """Events in audio order; ends after `Closed`. One reader."""
        while True:
            event = await self._events.get()
            self._room.set()
            yield event
            if isinstance(event, Closed):
                return

    def is_side_of(self, call: SpeechCall) -> bool:
        """It belongs to the same conversation."""
        own = self._call
        return (own.tenant_id, own.conversation_id) == (call.tenant_id, call.conversation_id)

    @property
    def _is_full(self) -> bool:
        sent_ms = self._sent_bytes * 1000 / (self._call.sample_rate_hz * _BYTES_PER_SAMPLE)
        is_behind = sent_ms - self._resolved_ms > self._settings.max_backlog_ms
        return is_behind or self._events.qsize() >= _MAX_UNREAD_EVENTS

    async def _wait_for_room(self) -> None:
        try:
            async with asyncio.timeout(self._settings.overload_after_s):
                while self._is_full and not self._is_closed:
                    self._room.clear()
                    await self._room.wait()
        except TimeoutError:
            raise Overloaded("the recogniser is behind with this stream") from None

    def take(self, event: SpeechEvent) -> None:
        """Hand an event to the reader. Called by the slot."""
        self._events.put_nowait(event)

    def progress(self, resolved_ms: int) -> None:
        """Note that audio was resolved. Called by the slot."""
        self._resolved_ms = resolved_ms
        self._room.set()

    def end(self, error: BaseException | None) -> None:
        """Close the stream: nothing follows. Called by the slot; idempotent."""
        if not self._is_closed:
            self._is_closed = True
            self._room.set()
            self._events.put_nowait(Closed(error))


class _Slot:
    """The place of one worker: its process, replaced when it dies, and the streams in it."""

    def __init__(self, configure: Configure) -> None:
        self._configure = configure
        self._process: WorkerProcess | None = None
        self._started_s = 0.0
        self._young_deaths = 0
        self._restart: asyncio.Task[None] | None = None
        self.streams: dict[int, EmbeddedStream] = {}
        self.asked: dict[int, asyncio.Future[Recognised]] = {}

    @property
    def is_ready(self) -> bool:
        """Its process is warm."""
        return self._process is not None

    @property
    def pid(self) -> int | None:
        """Of the process in it, if one is ready."""
        return self._process.pid if self._process is not None else None

    def has_side_of(self, call: SpeechCall) -> bool:
        """A side of the same conversation is open here."""
        return any(stream.is_side_of(call) for stream in self.streams.values())

    async def start(self) -> None:
        """Start its process.

        Raises:
            Unavailable: The process did not come up.
        """
        self._process = await WorkerProcess.start(self._configure, self._on_reply, self._on_exit, _READY_TIMEOUT_S)
        self._started_s = time.monotonic()

    async def stop(self) -> None:
        """End all streams and the process."""
        if self._restart is not None:
            self._restart.cancel()
            await asyncio.gather(self._restart, return_exceptions=True)
        process, self._process = self._process, None
        if process is not None:
            await process.stop()
        self._end_streams(None)

    def write(self, command: Command) -> None:
        """Send a command to the process; without one the streams have ended already."""
        if self._process is not None:
            self._process.write(command)

    def _on_reply(self, reply: Reply) -> None:
        match reply:
            case Event(stream=number):
                stream = self.streams.get(number)
                if stream is not None:
                    stream.take(event_of(reply))
            case Progress(stream=number, resolved_ms=resolved_ms):
                stream = self.streams.get(number)
                if stream is not None:
                    stream.progress(resolved_ms)
            case Ended(stream=number):
                stream = self.streams.pop(number, None)
                if stream is not None:
                    stream.end(None)
            case Recognised(number=number):
                answer = self.asked.pop(number, None)
                if answer is not None and not answer.done():
                    answer.set_result(reply)

    def _on_exit(self, status: int) -> None:
        self._process = None
        self._end_streams(Unavailable(f"speech worker died with status {status}"))
        is_young = time.monotonic() - self._started_s < _YOUNG_S
        self._young_deaths = self._young_deaths + 1 if is_young else 0
        if self._young_deaths >= _MAX_YOUNG_DEATHS:
            logger.critical("speech worker keeps dying, not started again")
            return
        self._restart = asyncio.create_task(self._start_again(), name="speech-worker-restart")

    async def _start_again(self) -> None:
        try:
            await self.start()
        except Exception:
            logger.critical("speech worker did not come back", exc_info=True)

    def _end_streams(self, error: BaseException | None) -> None:
        ended, self.streams = self.streams, {}
        for stream in ended.values():
            stream.end(error)
        asked, self.asked = self.asked, {}
        for answer in asked.values():
            if not answer.done():
                answer.set_exception(error or Unavailable("the recogniser stopped"))


class EmbeddedRecogniser:
    """Speech to text here, with no server, key or network: English by Moonshine, or what a Whisper speaks.

    Args:
        settings: Limits and rules.
    """

    def __init__(self, settings: EmbeddedSettings | None = None) -> None:
        self._settings = settings or EmbeddedSettings()
        self._slots: list[_Slot] = []
        self._num_opened = self._num_asked = 0
        self._languages: tuple[str, ...] = ("en",)

    @property
    def capabilities(self) -> Capabilities:
        """Interims, estimated word times (`word_times.spread_words`), any rate from 8 to 48 kHz."""
        return Capabilities(
            name="whisper" if self._settings.whisper_folder else "embedded",
            interims=True,
            word_times=True,
            languages=self._languages,
            sample_rates_hz=(8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000),
            # A worker that dies is known at once; one that is only late must not be given all its work twice.
            stall_after_s=15.0,
        )

    @property
    def worker_pids(self) -> tuple[int, ...]:
        """Processes that are ready, for status and memory figures."""
        return tuple(slot.pid for slot in self._slots if slot.pid is not None)

    async def start(self) -> None:
        """Check the weights, start the workers and warm them.

        Raises:
            ConfigError: Weights are missing or not the measured ones, or a worker could not load them.
        """
        settings = self._settings
        model_field = "speech.whisper.folder" if settings.whisper_folder else "speech.moonshine_folder"
        files = await asyncio.to_thread(locate, settings.moonshine_folder, settings.silero_folder)
        if settings.whisper_folder:
            self._languages = await asyncio.to_thread(whisper_languages, Path(settings.whisper_folder))
        num_workers = settings.workers or os.cpu_count() or 1
        self._slots = [_Slot(_configure(settings, files)) for _ in range(num_workers)]
        try:
            async with asyncio.TaskGroup() as group:
                for slot in self._slots:
                    group.create_task(slot.start())
        except ExceptionGroup as failed:  # not `except*`: before Python 3.11.4 it wraps what it raises once more
            await self.stop()
            if failed.split(Unavailable)[1] is not None:
                raise
            raise ConfigError("the recogniser's weights do not load", field=model_field) from failed

    async def open(self, call: SpeechCall) -> SpeechStream:
        """Open a stream: in the worker that has the other side of the call, else in the one with the fewest.

        The sides of a call take turns. Spread without regard to that, all customers could meet in one worker.

        Raises:
            BadRequest: A language that it does not understand.
            BadAudio: A rate outside 8 to 48 kHz.
            Overloaded: `max_streams` are open.
            Unavailable: No worker is alive.
        """
        if primary_language(call.language) not in self._languages:
            raise BadRequest(f"the recogniser {self.capabilities.name} does not know this language", field="language")
        if not MIN_RATE_HZ <= call.sample_rate_hz <= MAX_RATE_HZ:
            raise BadAudio(f"rate must be {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz", field="sample_rate_hz")
        ready = [slot for slot in self._slots if slot.is_ready]
        if not ready:
            raise Unavailable("no speech worker is running")
        if sum(len(slot.streams) for slot in ready) >= self._settings.max_streams:
            raise Overloaded(f"{self._settings.max_streams} audio channels are open")
        slot = min(ready, key=lambda slot: (not slot.has_side_of(call), len(slot.streams)))
        self._num_opened += 1
        stream = EmbeddedStream(slot, self._num_opened, call, self._settings)
        slot.streams[self._num_opened] = stream
        slot.write(Open(self._num_opened, call.sample_rate_hz, call.start_ms, call.language))
        return stream

    async def recognise(self, pcm: bytes, rate_hz: int, language: str) -> Recognised:
        """Text of one stretch of speech, which belongs to no stream. The caller bounds how much it asks at once.

        Args:
            pcm: linear16 mono.
            rate_hz: Its rate.
            language: What is spoken.

        Raises:
            Unavailable: No worker is alive, or the one that was asked died.
        """
        ready = [slot for slot in self._slots if slot.is_ready]
        if not ready:
            raise Unavailable("no speech worker is running")
        slot = min(ready, key=lambda slot: len(slot.asked))
        self._num_asked += 1
        number = self._num_asked
        answer: asyncio.Future[Recognised] = asyncio.get_running_loop().create_future()
        slot.asked[number] = answer
        slot.write(Recognise(number, rate_hz, primary_language(language), pcm))
        return await answer

    async def stop(self) -> None:
        """End all streams and all workers."""
        await asyncio.gather(*(slot.stop() for slot in self._slots))


def _configure(settings: EmbeddedSettings, files: ModelFiles) -> Configure:
    folder = settings.whisper_folder or str(files.moonshine_folder)
    return Configure(settings, folder, str(files.silero_path))
