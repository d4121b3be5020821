"""Decides, frame by frame, where speech begins, what to decode when, and where an utterance ends. Pure.

    probability of speech, one per frame ─▶ Segmenter.push ─▶ [Onset | Decode | Resumed | Close | EndOfTurn]

    idle ──voiced for onset_ms──▶ speaking ──silent for speculate_ms──▶ speculative decode of all so far
      ▲                              │  ▲                                   │
      │                              │  └────────── voiced again: Resumed ──┤
      └── Close, EndOfTurn ◀─────────┴───────────── silent for endpoint_ms ─┘

The final text of a segment is the text of its last speculative or final `Decode`: the decode starts in the middle
of the pause, so that it is ready when the pause has lasted long enough to be believed.

All times are integer milliseconds since the first sample of the stream; the owner adds the base of the call.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

Purpose = Literal["final", "speculative", "interim"]
"""Why a span is decoded, most urgent first."""

FRAME_MS = 32
"""The voice detector's step: 256 samples at 8 kHz, 512 at 16 kHz. Source: Silero VAD model card."""

_CUT_WITHIN_MS = 1_000
"""Endless speech is cut at the weakest frame of this time: long enough to find the end of a word, short enough that the
final is not old when it comes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmenterSettings:
    """When to believe speech and silence. Lengths are rounded up to whole frames of 32 ms.

    Attributes:
        onset_probability: A frame at or above it is voiced.
        offset_probability: While speaking, a frame stays voiced down to this; lower than the onset, so that a soft
            syllable does not end the speech (hysteresis).
        onset_ms: Voiced time that starts an utterance; shorter sounds are clicks.
        pre_roll_ms: Audio before the onset that is decoded too: weak first consonants lie there.
        speculate_ms: Silence after which the text so far is decoded as if it were final. The decode has the rest of
            the endpoint to finish in: 160 ms, enough for 8 s of speech on a free core. 64 ms cost 3 % more decodes
            than 96 ms on a real call (428 instead of 416), since a decode at a pause stands in for an interim.
        endpoint_ms: Silence that ends an utterance. The stage has 300 ms at p95 from the block with the last voiced
            sample to the final; 224 ms, the 20 ms of a block and what the processes take make 243 ms with four calls
            at once. It costs whole sentences: of 68 pauses from 224 ms on in a real call of 245 s, 5 ended within the
            next 32 ms and 19 within 500 ms. Waiting for 500 ms only where the text looks unfinished (no full stop,
            a filler or a conjunction at the end) joined 7 of these 19, but held 9 others whose speaker was done or
            thinking, 13 % of all finals, so that p95 became 500 ms. On 60 read telephone prompts the word error rate
            was 7.8 % with 224 ms, 7.1 % with 320, 7.9 % with 416 and with 512: nothing to wait for.
        first_interim_ms: Speech before the first interim. Its first word was right in 46 % of 165 utterances at
            192 ms, in 62 % at 256, in 76 % at 320 and in 74 % at 384.
        interim_every_ms: Speech between interims.
        soft_cap_ms: From this length on a pause of `soft_pause_ms` is enough to make the text final.
        soft_pause_ms: See there.
        hard_cap_ms: Speech without any pause is cut at this length, where the voice was weakest of late. With
            6 s, 64 ms and 12 s, 24 long read prompts had 7.4 % of their words wrong, with 8 s, 96 ms and 15 s 8.2 %:
            the model is at its best below 8 s; and a talkative agent's finals came in time, where those of 10 s and
            more had been 390 to 425 ms late.
    """

    onset_probability: float = 0.5
    offset_probability: float = 0.35
    onset_ms: int = 96
    pre_roll_ms: int = 200
    speculate_ms: int = 64
    endpoint_ms: int = 224
    first_interim_ms: int = 320
    interim_every_ms: int = 320
    soft_cap_ms: int = 6_000
    soft_pause_ms: int = 64
    hard_cap_ms: int = 12_000


@dataclass(frozen=True, slots=True)
class Onset:
    """Speech began at `at_ms`; segment `segment` is open and its audio begins at `from_ms`."""

    segment: int
    at_ms: int
    from_ms: int


@dataclass(frozen=True, slots=True)
class Decode:
    """Recognise the audio from `from_ms` to `to_ms`; the voice in it spans `start_ms` to `end_ms`."""

    segment: int
    purpose: Purpose
    from_ms: int
    to_ms: int
    start_ms: int
    end_ms: int


@dataclass(frozen=True, slots=True)
class Resumed:
    """The pause was none: a speculative decode of this segment is worth no more than an interim."""

    segment: int


@dataclass(frozen=True, slots=True)
class Close:
    """No audio will be added to the segment: its last speculative or final decode is its final text."""

    segment: int


@dataclass(frozen=True, slots=True)
class EndOfTurn:
    """The speaker stopped at `at_ms`. Always after the `Close` of its last segment, `segment`."""

    segment: int
    at_ms: int


Decision = Onset | Decode | Resumed | Close | EndOfTurn


@dataclass(slots=True)
class _Open:
    """The segment being spoken. `voiced_end_ms` is the end of its last voiced frame."""

    segment: int
    from_ms: int
    start_ms: int
    voiced_end_ms: int
    next_interim_ms: int
    decoded_to_ms: int = -1
    """End of the speculative decode of the present pause; -1 while there is none."""


class Segmenter:
    """Cuts one stream. Not thread-safe; owned by the stream's listener.

    Args:
        settings: Thresholds.
    """

    def __init__(self, settings: SegmenterSettings) -> None:
        self._settings = settings
        self._now_ms = 0
        self._open: _Open | None = None
        self._num_segments = 0
        self._candidate_ms: int | None = None
        self._candidate_voiced_ms = 0
        self._free_from_ms = 0
        self._unended: _Open | None = None
        self._recent: deque[tuple[float, int]] = deque(maxlen=_CUT_WITHIN_MS // FRAME_MS)

    @property
    def now_ms(self) -> int:
        """End of the last frame seen."""
        return self._now_ms

    @property
    def settled_ms(self) -> int:
        """No audio before it will be asked for by a later decision."""
        if self._open is not None:
            return self._open.from_ms
        earliest = self._now_ms if self._candidate_ms is None else self._candidate_ms
        return max(self._free_from_ms, earliest - self._settings.pre_roll_ms)

    def push(self, probability: float) -> list[Decision]:
        """Take the next frame's probability of speech.

        Returns:
            Decisions in audio order; mostly none.
        """
        begin_ms = self._now_ms
        self._now_ms += FRAME_MS
        if self._open is None:
            return self._while_idle(probability, begin_ms)
        self._recent.append((probability, self._now_ms))
        return self._while_speaking(self._open, probability)

    def finalize(self) -> list[Decision]:
        """Close what is open now, as at an end of speech."""
        self._candidate_ms = None
        if self._open is None:
            return self._end_turn()
        return [*self._final_decode(self._open), *self._close(self._open), *self._end_turn()]

    def _while_idle(self, probability: float, begin_ms: int) -> list[Decision]:
        settings = self._settings
        if probability >= settings.onset_probability:
            if self._candidate_ms is None:
                self._candidate_ms, self._candidate_voiced_ms = begin_ms, 0
            self._candidate_voiced_ms += FRAME_MS
            if self._candidate_voiced_ms >= settings.onset_ms:
                return self._start(self._candidate_ms)
        elif probability < settings.offset_probability:
            self._candidate_ms = None
        if self._unended is not None and self._now_ms - self._unended.voiced_end_ms >= settings.endpoint_ms:
            return self._end_turn()
        return []

    def _start(self, at_ms: int) -> list[Decision]:
        settings = self._settings
        self._open = _Open(
            segment=self._num_segments,
            from_ms=max(self._free_from_ms, at_ms - settings.pre_roll_ms),
            start_ms=at_ms,
            voiced_end_ms=self._now_ms,
            next_interim_ms=at_ms + settings.first_interim_ms,
        )
        self._num_segments += 1
        self._candidate_ms = None
        self._unended = None
        self._recent.clear()
        return [Onset(self._open.segment, at_ms, self._open.from_ms)]

    def _while_speaking(self, current: _Open, probability: float) -> list[Decision]:
        settings = self._settings
        decisions: list[Decision] = []
        if probability >= settings.offset_probability:
            current.voiced_end_ms = self._now_ms
            if current.decoded_to_ms >= 0:
                current.decoded_to_ms = -1
                decisions.append(Resumed(current.segment))
            if self._now_ms - current.from_ms >= settings.hard_cap_ms:
                return [*decisions, *self._cut(current)]
            if self._now_ms >= current.next_interim_ms:
                decisions.append(self._decode(current, "interim", self._now_ms))
            return decisions

        silent_ms = self._now_ms - current.voiced_end_ms
        if silent_ms >= settings.endpoint_ms:
            return [*self._final_decode(current), *self._close(current), *self._end_turn()]
        if silent_ms >= settings.speculate_ms and current.decoded_to_ms < 0:
            decisions.append(self._decode(current, "speculative", self._now_ms))
            current.decoded_to_ms = self._now_ms
        is_long = current.voiced_end_ms - current.start_ms >= settings.soft_cap_ms
        if is_long and silent_ms >= settings.soft_pause_ms:
            decisions += [*self._final_decode(current), *self._close(current)]
        return decisions

    def _decode(self, current: _Open, purpose: Purpose, to_ms: int) -> Decode:
        current.next_interim_ms = self._now_ms + self._settings.interim_every_ms
        end_ms = min(current.voiced_end_ms, to_ms)
        return Decode(current.segment, purpose, current.from_ms, to_ms, current.start_ms, end_ms)

    def _final_decode(self, current: _Open) -> list[Decision]:
        """The decode that the final needs, unless the present pause has one already."""
        return [] if current.decoded_to_ms >= 0 else [self._decode(current, "final", self._now_ms)]

    def _close(self, current: _Open) -> list[Decision]:
        self._open = None
        self._unended = current
        self._free_from_ms = current.decoded_to_ms if current.decoded_to_ms >= 0 else self._now_ms
        return [Close(current.segment)]

    def _end_turn(self) -> list[Decision]:
        if self._unended is None:
            return []
        ended, self._unended = self._unended, None
        return [EndOfTurn(ended.segment, ended.voiced_end_ms)]

    def _cut(self, current: _Open) -> list[Decision]:
        """Close an endless segment where the voice was weakest of late and go on with the rest as a new one."""
        _, cut_ms = min(self._recent)
        decisions: list[Decision] = [self._decode(current, "final", cut_ms), Close(current.segment)]
        self._open = _Open(
            segment=self._num_segments,
            from_ms=cut_ms,
            start_ms=cut_ms,
            voiced_end_ms=self._now_ms,
            next_interim_ms=self._now_ms + self._settings.interim_every_ms,
        )
        self._num_segments += 1
        self._free_from_ms = cut_ms
        self._recent.clear()
        return [*decisions, Onset(self._open.segment, cut_ms, cut_ms)]
