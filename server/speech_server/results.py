"""Speech events to Deepgram's messages: windows that tile one channel's audio, silence included. Pure.

Final ─held until the next event─▶ is_final, with speech_final if `EndOfSpeech` follows
Covered beyond the last window  ─▶ an empty is_final
"""

from __future__ import annotations

from collections.abc import Iterator

from server.speech.contract import Covered, EndOfSpeech, Final, Interim, SpeechEvent, SpeechStarted
from server.speech.deepgram.messages import (
    Alternative,
    Channel,
    Results,
    ServerMessage,
    SpeechStartedMessage,
    UtteranceEnd,
    WireWord,
)
from server.speech_server.query import ListenOptions
from server.wire.utterance import Word


class ChannelResults:
    """Messages of one channel.

    Args:
        options: What the client wants to hear of.
        channel: Its number.
        request_id: Of the connection.
    """

    def __init__(self, options: ListenOptions, channel: int, request_id: str) -> None:
        self._options = options
        self._index = (channel, options.num_outputs)
        self._metadata = {
            "request_id": request_id,
            "model_info": {"name": "cueline", "version": "1", "arch": "cueline"},
        }
        self._end_ms = 0
        self._held: Final | None = None
        self._is_finalizing = False
        self._is_speaking = False
        self._last_word_ms: int | None = None

    @property
    def is_holding(self) -> bool:
        """A final waits for what follows it; `release` lets it go."""
        return self._held is not None

    def take(self, event: SpeechEvent) -> Iterator[ServerMessage]:
        """Messages for one event, in order."""
        match event:
            case SpeechStarted(at_ms):
                yield from self.release()
                self._is_speaking = True
                if self._options.has_vad_events:
                    yield SpeechStartedMessage(channel=self._index, timestamp=at_ms / 1000)
            case Interim():
                yield from self.release()
                if self._options.has_interims:
                    yield self._results(event.start_ms, event.end_ms, event.text, event.words, event.confidence)
            case Final():
                yield from self.release()
                self._held = event
            case EndOfSpeech(covered_ms=covered_ms):
                self._is_speaking = False
                yield from self.release(covered_ms, speech_final=True)
                yield from self._utterance_end()
            case Covered(covered_ms):
                yield from self.release()
                if covered_ms > self._end_ms:
                    yield self._final(self._end_ms, covered_ms, "", (), 0.0)
                yield from self._utterance_end()

    def release(self, covered_ms: int = 0, *, speech_final: bool = False) -> Iterator[Results]:
        """Let the final go that is held, if one is."""
        final, self._held = self._held, None
        if final is not None:
            start_ms, end_ms = max(self._end_ms, final.start_ms), max(final.end_ms, covered_ms)
            if final.text:
                self._last_word_ms = final.words[-1].end_ms if final.words else final.end_ms
            yield self._final(start_ms, end_ms, final.text, final.words, final.confidence, speech_final=speech_final)
        elif speech_final:
            yield self._final(self._end_ms, max(self._end_ms, covered_ms), "", (), 0.0, speech_final=True)

    def finalize(self) -> None:
        """The client asked for the text of everything so far: the next final is the answer."""
        self._is_finalizing = True

    def answer_finalize(self) -> Iterator[Results]:
        """Nothing was open: the answer is that there is no text."""
        if self._is_finalizing:
            yield self._final(self._end_ms, self._end_ms, "", (), 0.0)

    def _utterance_end(self) -> Iterator[UtteranceEnd]:
        last_ms, wait_ms = self._last_word_ms, self._options.utterance_end_ms
        if wait_ms and last_ms is not None and not self._is_speaking and self._end_ms - last_ms >= wait_ms:
            self._last_word_ms = None
            yield UtteranceEnd(channel=self._index, last_word_end=last_ms / 1000)

    def _final(
        self,
        start_ms: int,
        end_ms: int,
        text: str,
        words: tuple[Word, ...],
        confidence: float,
        *,
        speech_final: bool = False,
    ) -> Results:
        self._end_ms = max(self._end_ms, end_ms)
        was_asked, self._is_finalizing = self._is_finalizing, False
        return self._results(
            start_ms, end_ms, text, words, confidence, is_final=True, speech_final=speech_final, from_finalize=was_asked
        )

    def _results(
        self,
        start_ms: int,
        end_ms: int,
        text: str,
        words: tuple[Word, ...],
        confidence: float,
        *,
        is_final: bool = False,
        speech_final: bool = False,
        from_finalize: bool = False,
    ) -> Results:
        spoken = tuple(
            WireWord(
                "".join(letter for letter in word.text.lower() if letter.isalnum() or letter == "'"),
                word.start_ms / 1000,
                word.end_ms / 1000,
                word.confidence,
                word.text,
            )
            for word in words
        )
        return Results(
            channel_index=self._index,
            start=start_ms / 1000,
            duration=(end_ms - start_ms) / 1000,
            is_final=is_final,
            speech_final=speech_final,
            from_finalize=from_finalize,
            channel=Channel((Alternative(text, confidence, spoken),)),
            metadata=self._metadata,
        )
