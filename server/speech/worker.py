"""A recogniser process: `python -m server.speech.worker`, spoken to over its standard input and output.

    main thread:    stdin ─▶ frames ─▶ Transcriber (voice detection of every frame of every stream)
    decode thread:  DecodeQueue ─▶ Moonshine or Whisper ─▶ Transcriber ─▶ events ─▶ stdout
                    Recognise   ─▶ the same             ─▶ Recognised ─▶ stdout

One process fills one core. It has its server's own priority: five steps less took the finals of four calls that
paused at once from 245 to 315 ms at p95 and brought the engine, which uses 4 of its 500 ms, nothing. It ends when its
standard input ends, that is, with its server, however that went.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np

from server.speech.contract import SpeechEvent
from server.speech.decode_queue import Job
from server.speech.decoder import SAMPLE_RATE_HZ, Decoded, Decoder, Hints
from server.speech.frames import (
    Abandon,
    Audio,
    CloseStream,
    Command,
    Configure,
    Ended,
    Finalize,
    FrameReader,
    Open,
    Progress,
    Ready,
    Recognise,
    Recognised,
    encode,
    event_frame,
)
from server.speech.moonshine import Moonshine
from server.speech.resample import upsample
from server.speech.settings import EmbeddedSettings
from server.speech.silero import FloatArray, SileroModel
from server.speech.transcriber import Transcriber

logger = logging.getLogger(__name__)

_READ_BYTES = 65_536
_PROGRESS_EVERY_MS = 100
_SPECULATIVE_RANK = 1

_WARM_UP_S = (0.5, 1.0, 3.0, 8.0)
"""Lengths decoded before `Ready`: onnxruntime plans its memory at the first run of a length."""


class Worker:
    """The two threads around one `Transcriber`.

    Args:
        settings: As given to the recogniser.
        model: Loaded; used by the decode thread alone.
        silero: Loaded voice detector.
        output: File descriptor for replies.
    """

    def __init__(self, settings: EmbeddedSettings, model: Decoder, silero: SileroModel, output: int) -> None:
        self._settings = settings
        self._model = model
        self._output = output
        self._changed = threading.Condition()
        self._transcriber = Transcriber(settings, silero.open, self._emit, self._end)
        self._told_ms: dict[int, int] = {}
        self._interim_allowed_s = 0.0
        self._asked: deque[Recognise] = deque()

    def warm_up(self) -> None:
        """Run both models on silence of several lengths."""
        for length_s in _WARM_UP_S:
            self._model.decode(np.zeros(int(length_s * SAMPLE_RATE_HZ), np.float32))

    def run(self, commands: Iterator[Command]) -> None:
        """Serve until the commands end. Decoding goes on in a daemon thread of its own."""
        threading.Thread(target=self._decode_forever, name="decode", daemon=True).start()
        for command in commands:
            with self._changed:
                self._obey(command)
                self._changed.notify()

    def _obey(self, command: Command) -> None:
        transcriber = self._transcriber
        match command:
            case Open(stream=stream, rate_hz=rate_hz, start_ms=start_ms, language=language):
                self._told_ms[stream] = 0
                transcriber.open(stream, rate_hz, start_ms, language)
            case Audio(stream=stream, pcm=pcm):
                transcriber.audio(stream, pcm)
                self._tell_progress(stream)
            case Finalize(stream=stream):
                transcriber.finalize(stream)
            case CloseStream(stream=stream):
                transcriber.close(stream)
            case Abandon(stream=stream):
                self._told_ms.pop(stream, None)
                transcriber.abandon(stream)
            case Recognise():
                self._asked.append(command)

    def _decode_forever(self) -> None:
        try:
            while True:
                self._decode_next()
        except BrokenPipeError:
            os._exit(0)  # the server is gone
        except BaseException:
            # A worker that hears but never answers is worse than none: the server restarts a dead one.
            logger.exception("decode thread died")
            os._exit(70)

    def _decode_next(self) -> None:
        with self._changed:
            job = None
            while not self._asked and (job := self._pop()) is None:
                self._changed.wait(self._seconds_to_interim())
            asked = self._asked.popleft() if self._asked else None
            if job is not None:
                pcm, hints = self._transcriber.take(job)
        if asked is not None:
            self._answer(asked)
        elif job is not None:
            self._work(job, pcm, hints)

    def _answer(self, asked: Recognise) -> None:
        """Decode what belongs to no stream; whoever asked bounds how much that is, so the streams are not starved."""
        started_s = time.monotonic()
        samples = np.frombuffer(asked.pcm, np.int16).astype(np.float32) * np.float32(1 / 32768)
        decoded = self._decode(upsample(samples, asked.rate_hz), Hints(language=asked.language), lambda: False)
        reply = Recognised(asked.number, decoded, time.monotonic() - started_s)
        with self._changed:
            self._write(encode(reply))

    def _work(self, job: Job, pcm: FloatArray, hints: Hints) -> None:
        is_stopped = False

        def must_stop() -> bool:
            nonlocal is_stopped
            is_stopped = self._must_give_way(job)
            return is_stopped

        started_s = time.monotonic()
        decoded = self._decode(pcm, hints, must_stop)
        now_s = time.monotonic()
        with self._changed:
            if job.decode.purpose == "interim":
                share = self._settings.interim_share
                self._interim_allowed_s = now_s + (now_s - started_s) * (1 - share) / share
            if decoded is None and is_stopped:
                self._transcriber.put_back(job)
            else:
                self._transcriber.finish(job, decoded)
            self._tell_progress(job.stream)

    def _decode(self, pcm: FloatArray, hints: Hints, must_stop: Callable[[], bool]) -> Decoded | None:
        try:
            return self._model.decode(pcm, hints, must_stop)
        except Exception:
            # One span that the runtime chokes on is a gap in one call, not the end of this worker's other calls.
            logger.exception("decode failed")
            return None

    def _pop(self) -> Job | None:
        may_repeat = time.monotonic() >= self._interim_allowed_s
        return self._transcriber.queue.pop(lambda job: job.is_first or job.decode.purpose != "interim" or may_repeat)

    def _seconds_to_interim(self) -> float | None:
        """How long to sleep: until waiting interims may run, or until something changes."""
        if len(self._transcriber.queue) == 0:
            return None
        return max(0.001, self._interim_allowed_s - time.monotonic())

    def _must_give_way(self, running: Job) -> bool:
        with self._changed:
            waiting = self._transcriber.queue.most_urgent()
        return waiting is not None and waiting < running.rank and waiting <= _SPECULATIVE_RANK

    def _emit(self, stream: int, event: SpeechEvent) -> None:
        self._write(encode(event_frame(stream, event)))

    def _end(self, stream: int) -> None:
        self._told_ms.pop(stream, None)
        self._write(encode(Ended(stream)))

    def _tell_progress(self, stream: int) -> None:
        told_ms = self._told_ms.get(stream)
        if told_ms is None:
            return
        resolved_ms = self._transcriber.resolved_ms(stream)
        if resolved_ms - told_ms >= _PROGRESS_EVERY_MS:
            self._told_ms[stream] = resolved_ms
            self._write(encode(Progress(stream, resolved_ms)))

    def _write(self, data: bytes) -> None:
        # Always under the lock, so frames do not mix. Blocks when the server does not read; it always reads.
        view = memoryview(data)
        while view:
            view = view[os.write(self._output, view) :]


def _model(configure: Configure) -> Decoder:
    folder, settings = Path(configure.model_folder), configure.settings
    if not settings.whisper_folder:
        return Moonshine(folder, settings.threads)
    from server.speech.whisper import Whisper  # its runtime is an extra

    return Whisper(folder, settings.device, settings.compute_type, settings.threads)


def _bodies(descriptor: int) -> Iterator[bytes]:
    reader = FrameReader()
    while data := os.read(descriptor, _READ_BYTES):
        yield from reader.feed(data)


def main() -> None:
    """Serve the process's standard input until it ends."""
    # The server decides when a worker ends, by closing its input; a Ctrl-C in the terminal reaches us too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")
    # Replies get a descriptor of their own: a library that prints must not corrupt the frames.
    output = os.dup(1)
    os.dup2(2, 1)
    # The two threads hand over within a decoder pass, not within the interpreter's default of 5 ms.
    sys.setswitchinterval(0.001)

    bodies = _bodies(0)
    first = next(bodies, None)
    if first is None:
        return
    started_s = time.monotonic()
    configure = msgspec.msgpack.decode(first, type=Configure)
    os.nice(configure.settings.niceness)
    worker = Worker(configure.settings, _model(configure), SileroModel(Path(configure.silero_path)), output)
    worker.warm_up()
    gc.collect()
    gc.freeze()
    os.write(output, encode(Ready(time.monotonic() - started_s)))
    decoder = msgspec.msgpack.Decoder(Command)
    with contextlib.suppress(BrokenPipeError):  # the server is gone
        worker.run(decoder.decode(body) for body in bodies)
    # Not an orderly exit: the decode thread may be deep inside a run, and tearing the runtime down under it aborts.
    os._exit(0)


if __name__ == "__main__":
    main()
