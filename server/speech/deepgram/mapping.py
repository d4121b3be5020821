"""Deepgram's flags and times to ours: the one place where they are known. Pure.

    Results, text            ─▶ Interim             is_final, text    ─▶ Final, Covered
    is_final, no text        ─▶ Covered             and speech_final  ─▶ EndOfSpeech
    SpeechStarted            ─▶ SpeechStarted       UtteranceEnd      ─▶ EndOfSpeech, if nothing closed it before

Guidance runs on interims and on `is_final`; nothing waits for `speech_final` or `UtteranceEnd`, which may never come.
Times restart at 0 with every connection; the base is the audio time at which it began. Source: PROTOCOLS b1.
"""

from __future__ import annotations

from collections.abc import Iterator

from server.speech.contract import Covered, EndOfSpeech, Final, Interim, SpeechEvent, SpeechStarted
from server.speech.deepgram.messages import Alternative, Metadata, Results, ServerMessage, SpeechStartedMessage
from server.wire.utterance import Word

OWN_END_MS = 1_500
"""Audio without a word after which an utterance is over, whether or not the vendor says so."""


class Mapping:
    """Events of one audio channel of one connection.

    Args:
        start_ms: Audio time of the connection's first sample.
        language: Where the vendor names none.
        channel: Messages of other channels are not ours.
    """

    def __init__(self, start_ms: int, language: str = "en", channel: int = 0) -> None:
        self._start_ms = start_ms
        self._language = language
        self._channel = channel
        self._covered_ms = start_ms
        self._segment_ms: int | None = None
        self._shown = ""
        self._last_word_ms: int | None = None

    def take(self, message: ServerMessage) -> Iterator[SpeechEvent]:
        """Events for one message, in order."""
        match message:
            case Results() if message.channel_index[:1] in ((self._channel,), ()):
                yield from self._results(message)
            case SpeechStartedMessage(timestamp=timestamp) if message.channel[:1] in ((self._channel,), ()):
                yield SpeechStarted(self._ms(timestamp))
            case Metadata() | Results() | SpeechStartedMessage():
                return
            case utterance_end if utterance_end.channel[:1] in ((self._channel,), ()):
                yield from self._end(self._covered_ms)

    def _results(self, results: Results) -> Iterator[SpeechEvent]:
        window_ms = (self._ms(results.start), self._ms(results.start + results.duration))
        best = results.channel.alternatives[0] if results.channel.alternatives else Alternative("")
        text = best.transcript.strip()
        words = tuple(
            self._word(word.punctuated_word or word.word, word.start, word.end, word.confidence) for word in best.words
        )
        end_ms = words[-1].end_ms if words else window_ms[1]
        if text:
            self._last_word_ms = end_ms
            if self._segment_ms is None:
                # The window begins with silence; the bubble begins with its first word, and stays where it began.
                self._segment_ms = words[0].start_ms if words else window_ms[0]
        language = best.languages[0] if best.languages else self._language
        if results.is_final or results.speech_final:
            start_ms = window_ms[0] if self._segment_ms is None else self._segment_ms
            if text or self._shown:  # what was shown and is nothing after all is taken back by an empty final
                yield Final(start_ms, max(start_ms, end_ms), text, words, best.confidence, language)
            self._segment_ms, self._shown = None, ""
            self._covered_ms = max(self._covered_ms, window_ms[1])
            yield Covered(self._covered_ms)
            if results.speech_final:
                yield from self._end(self._covered_ms)
        elif text and self._segment_ms is not None:
            is_stable, self._shown = text == self._shown, text
            yield Interim(
                self._segment_ms, max(self._segment_ms, end_ms), text, words, best.confidence, language, is_stable
            )
        if not text and self._last_word_ms is not None and window_ms[1] - self._last_word_ms >= OWN_END_MS:
            yield from self._end(self._covered_ms)

    def _end(self, covered_ms: int) -> Iterator[SpeechEvent]:
        """Close the utterance that is open, once."""
        if self._last_word_ms is not None and self._segment_ms is None:
            yield EndOfSpeech(self._last_word_ms, covered_ms)
            self._last_word_ms = None

    def _word(self, text: str, start_s: float, end_s: float, confidence: float) -> Word:
        return Word(text, self._ms(start_s), self._ms(end_s), confidence)

    def _ms(self, seconds: float) -> int:
        return self._start_ms + max(0, round(seconds * 1000))
