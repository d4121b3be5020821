"""All streams of one worker: what they heard, what must be decoded, and the events that follow. No I/O, no threads.

    audio ─▶ Listener ─▶ decisions ─▶ DecodeQueue ─▶ next_job ─▶ (the owner decodes) ─▶ finish ─▶ events

Events of a stream leave in audio order: while the final of one segment is being decoded, those of the next wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from server.speech.contract import (
    Covered,
    EndOfSpeech,
    Final,
    Interim,
    SpeechEvent,
    SpeechGap,
    SpeechStarted,
    primary_language,
)
from server.speech.decode_queue import DecodeQueue, Job
from server.speech.decoder import Decoded, Hints
from server.speech.listener import Detector, Listener
from server.speech.segmenter import Close, Decision, Decode, EndOfTurn, Onset, Resumed
from server.speech.settings import EmbeddedSettings
from server.speech.silero import FloatArray
from server.speech.text_guards import plausible_text
from server.speech.word_times import spread_words

_COVER_EVERY_MS = 1_000

Emit = Callable[[int, SpeechEvent], None]
"""Takes a stream's number and its next event."""


@dataclass(slots=True)
class _Segment:
    """One segment from its onset until its final is out.

    Attributes:
        wanted: The decode whose text will be the final one, unless speech resumes.
        result: Its outcome, once `has_result`; None if the decoder failed.
        draft: Tokens of the last decode.
        text: Of the last interim sent.
        events: To be sent when all segments before this one are done.
    """

    number: int
    from_ms: int
    wanted: Decode | None = None
    result: Decoded | None = None
    has_result: bool = False
    draft: tuple[int, ...] = ()
    num_decodes: int = 0
    text: str = ""
    is_stable: bool = False
    is_closed: bool = False
    is_done: bool = False
    ended_at_ms: int | None = None
    events: list[SpeechEvent] = field(default_factory=list)


@dataclass(slots=True)
class _Stream:
    """One open stream. `segments` are those whose final is not out yet, oldest first; times are the listener's."""

    listener: Listener
    base_ms: int
    language: str
    segments: deque[_Segment] = field(default_factory=deque)
    told_covered_ms: int = 0
    is_closing: bool = False

    @property
    def covered_ms(self) -> int:
        """No speech is pending before it."""
        return self.segments[0].from_ms if self.segments else self.listener.settled_ms

    def segment(self, number: int) -> _Segment | None:
        """A segment that is not done, by number."""
        return next((segment for segment in self.segments if segment.number == number), None)


class Transcriber:
    """Turns the audio of many streams into events. Not thread-safe: its owner holds a lock.

    Args:
        settings: Rules and limits.
        open_detector: Makes a voice detector for a rate.
        emit: Called with each event, in audio order per stream.
        ended: Called once per closed stream, after its last event.
    """

    def __init__(
        self,
        settings: EmbeddedSettings,
        open_detector: Callable[[int], Detector],
        emit: Emit,
        ended: Callable[[int], None],
    ) -> None:
        self._settings = settings
        self._open_detector = open_detector
        self._emit = emit
        self._ended = ended
        self._streams: dict[int, _Stream] = {}
        self.queue = DecodeQueue()

    def open(self, number: int, rate_hz: int, start_ms: int, language: str) -> None:
        """Begin a stream whose first sample is at `start_ms` on the call's clock."""
        settings = self._settings
        listener = Listener(rate_hz, self._open_detector, settings.segmenter, settings.noise_floor_dbfs)
        self._streams[number] = _Stream(listener, start_ms, language)

    def audio(self, number: int, pcm: bytes) -> None:
        """Hear the next samples of a stream; ignored when the stream is gone or closing."""
        stream = self._streams.get(number)
        if stream is not None and not stream.is_closing:
            self._act(number, stream, stream.listener.feed(pcm))

    def finalize(self, number: int) -> None:
        """Close what the stream has open now."""
        stream = self._streams.get(number)
        if stream is not None and not stream.is_closing:
            self._act(number, stream, stream.listener.finalize())

    def close(self, number: int) -> None:
        """No more audio: finals that are due still come, then `ended` is called."""
        stream = self._streams.get(number)
        if stream is not None and not stream.is_closing:
            stream.is_closing = True
            self._act(number, stream, stream.listener.finish())

    def abandon(self, number: int) -> None:
        """Forget a stream; nothing more is emitted for it."""
        if self._streams.pop(number, None) is not None:
            self.queue.drop_stream(number)

    def resolved_ms(self, number: int) -> int:
        """Audio of a stream, since its first sample, that waits neither for the detector nor for a final decode."""
        stream = self._streams.get(number)
        if stream is None:
            return 0
        due = next((segment.from_ms for segment in stream.segments if segment.is_closed), stream.listener.now_ms)
        return min(due, stream.listener.now_ms)

    def take(self, job: Job) -> tuple[FloatArray, Hints]:
        """Samples of a job that was popped, and what is known of them."""
        stream = self._streams[job.stream]
        segment = stream.segment(job.decode.segment)
        draft = segment.draft if segment is not None else ()
        hints = Hints(draft=draft, language=primary_language(stream.language))
        return stream.listener.audio(job.decode.from_ms, job.decode.to_ms), hints

    def finish(self, job: Job, decoded: Decoded | None) -> None:
        """Take the result of a job: its text, or None when the decoder failed on it."""
        stream = self._streams.get(job.stream)
        segment = stream.segment(job.decode.segment) if stream is not None else None
        if stream is None or segment is None:
            return
        segment.num_decodes += 1
        if decoded is not None:
            segment.draft = decoded.tokens
        is_wanted = _is_same_span(segment.wanted, job.decode)
        if is_wanted:
            segment.result, segment.has_result = decoded, True
        if is_wanted and segment.is_closed:
            self._settle(stream, segment)
        elif decoded is not None and not segment.is_closed:
            self._interim(stream, segment, job.decode, decoded, is_pause=is_wanted)
        self._flush(job.stream, stream)

    def put_back(self, job: Job) -> None:
        """Queue a job again that gave way to a more urgent one, if it is still to become a final."""
        stream = self._streams.get(job.stream)
        segment = stream.segment(job.decode.segment) if stream is not None else None
        if segment is not None and _is_same_span(segment.wanted, job.decode):
            self.queue.put(job)
            if segment.is_closed:
                self.queue.promote(job.stream, segment.number)

    def _act(self, number: int, stream: _Stream, decisions: list[Decision]) -> None:
        for decision in decisions:
            match decision:
                case Onset(segment=opened, at_ms=at_ms, from_ms=from_ms):
                    started = SpeechStarted(stream.base_ms + at_ms)
                    stream.segments.append(_Segment(opened, from_ms, events=[started]))
                case EndOfTurn(segment=ended, at_ms=at_ms):
                    self._end_turn(number, stream, ended, at_ms)
                case Decode() | Resumed() | Close():
                    segment = stream.segment(decision.segment)
                    if segment is not None:
                        self._act_on(number, stream, segment, decision)
        self._flush(number, stream)

    def _act_on(self, number: int, stream: _Stream, segment: _Segment, decision: Decode | Resumed | Close) -> None:
        match decision:
            case Decode():
                if decision.purpose != "interim":
                    segment.wanted, segment.has_result = decision, False
                self.queue.put(Job(number, decision, is_first=segment.num_decodes == 0))
            case Resumed():
                segment.wanted, segment.has_result = None, False
                self.queue.drop(number, segment.number)
            case Close():
                segment.is_closed = True
                if segment.has_result:
                    self._settle(stream, segment)
                else:
                    self.queue.promote(number, segment.number)

    def _end_turn(self, number: int, stream: _Stream, ended: int, at_ms: int) -> None:
        segment = stream.segment(ended)
        if segment is not None:
            segment.ended_at_ms = at_ms
            return
        # A long turn's text was final at a short pause already; now the pause has lasted.
        self._emit(number, EndOfSpeech(stream.base_ms + at_ms, stream.base_ms + stream.covered_ms))

    def _text(self, stream: _Stream, decode: Decode, decoded: Decoded) -> str:
        voiced_ms = sum(end - start for start, end in stream.listener.voiced(decode.start_ms, decode.end_ms))
        return plausible_text(
            decoded.text,
            confidence=decoded.confidence,
            voiced_ms=voiced_ms,
            is_capped=decoded.is_capped,
            min_confidence=self._settings.min_confidence,
        )

    def _interim(self, stream: _Stream, segment: _Segment, decode: Decode, decoded: Decoded, *, is_pause: bool) -> None:
        """Tell the text so far, unless that was told already."""
        text = self._text(stream, decode, decoded)
        is_stable = is_pause or text == segment.text
        if text and not (text == segment.text and segment.is_stable):
            segment.events.append(
                Interim(
                    stream.base_ms + decode.start_ms,
                    stream.base_ms + decode.end_ms,
                    text,
                    confidence=round(decoded.confidence, 3),
                    language=stream.language,
                    is_stable=is_stable,
                )
            )
        segment.text, segment.is_stable = text, is_stable

    def _settle(self, stream: _Stream, segment: _Segment) -> None:
        """Append the final of a closed segment, or a gap where the decoder failed."""
        decode, decoded, base_ms = segment.wanted, segment.result, stream.base_ms
        if decode is None:
            raise AssertionError("a segment is settled by the decode that it wanted")
        start_ms, end_ms = base_ms + decode.start_ms, base_ms + decode.end_ms
        if decoded is None:
            segment.events.append(SpeechGap(start_ms, end_ms, "recogniser_failed", "lost"))
        else:
            text = self._text(stream, decode, decoded)
            voiced = [(base_ms + a, base_ms + b) for a, b in stream.listener.voiced(decode.start_ms, decode.end_ms)]
            words = spread_words(text, voiced, decoded.confidence)
            confidence = round(decoded.confidence, 3)
            segment.events.append(Final(start_ms, end_ms, text, words, confidence, stream.language))
        segment.is_done = True

    def _flush(self, number: int, stream: _Stream) -> None:
        """Send what is in order, tell how far the audio is covered, and end a stream that has nothing left."""
        has_final = False
        while stream.segments:
            head = stream.segments[0]
            for event in head.events:
                self._emit(number, event)
            head.events.clear()
            if not head.is_done:
                break
            stream.segments.popleft()
            has_final = True
            if head.ended_at_ms is not None:
                covered_ms = stream.base_ms + stream.covered_ms
                self._emit(number, EndOfSpeech(stream.base_ms + head.ended_at_ms, covered_ms))
        covered_ms = stream.covered_ms
        if covered_ms > stream.told_covered_ms and (
            has_final or covered_ms - stream.told_covered_ms >= _COVER_EVERY_MS
        ):
            stream.told_covered_ms = covered_ms
            self._emit(number, Covered(stream.base_ms + covered_ms))
            stream.listener.forget(covered_ms)
        if stream.is_closing and not stream.segments and self._streams.pop(number, None) is not None:
            self._ended(number)


def _is_same_span(wanted: Decode | None, decode: Decode) -> bool:
    """Whether a decode is the wanted one; its purpose may have been raised from speculative to final since."""
    return wanted is not None and decode.purpose != "interim" and decode.to_ms == wanted.to_ms
