"""One contact's audio out of a stream that other contacts used before and will use again. Pure.

    GetMedia body ──▶ Placed audio of this contact · Mark at each fragment's end · Over

Connect says whose a fragment is after its audio, and waiting for that would cost a second a word. So audio that goes
on where this contact's left off leaves at once; what begins, or begins anew after a hole, waits for its name.
Source: PROTOCOLS b2.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import msgspec

from server.ingest.connect.fragments import (
    BYTES_PER_SAMPLE,
    Block,
    ContactTagged,
    FragmentEnded,
    FragmentReader,
    FragmentStarted,
    StreamFailed,
)
from server.ingest.connect.timeline import SAMPLES_PER_MS, Placed, Timeline
from server.wire.errors import BadAudio
from server.wire.ids import Speaker

CONTIGUOUS_MS: Final = 1_000
"""A later contact's first fragment cannot follow so closely: between two calls lies at least a set-up."""
MAX_HELD_BYTES: Final = 1024 * 1024
"""Audio that waits for its contact's name: half a minute of both sides; a fragment is about a second."""


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """A place in the stream from which everything after it comes out the same again.

    Attributes:
        token: `GetMedia` goes on after this fragment.
        zero_ms: Producer time of the contact's position 0.
        positions: Next position of each side, in samples.
        filled: Samples of silence just before those positions.
    """

    token: str
    zero_ms: float
    positions: dict[Speaker, int]
    filled: dict[Speaker, int]


@dataclass(frozen=True, slots=True)
class Passed:
    """A fragment of this contact is complete.

    Attributes:
        mark: Where to go on after it.
        behind_ms: How far it is behind what the stream has, None if the stream does not say.
    """

    mark: Mark
    behind_ms: int | None


@dataclass(frozen=True, slots=True)
class Over:
    """The stream is another contact's now."""


ContactEvent = Placed | Passed | Over | StreamFailed


@dataclass(slots=True)
class _Held:
    blocks: list[Block] = field(default_factory=list)
    num_bytes: int = 0


class ContactAudio:
    """Reads one `GetMedia` body for one contact.

    Args:
        contact_id: Whose audio is wanted.
        mark: Where the body begins; None at, or somewhat before, the contact's begin.
        zero_ms: Producer time of position 0, if an earlier reading has found it.
        start_number: Fragment number with which Connect said that the contact begins; its audio needs no proof.
        max_skew_ms: See `Timeline`.
    """

    def __init__(
        self,
        contact_id: str,
        mark: Mark | None = None,
        *,
        zero_ms: float | None = None,
        start_number: str = "",
        max_skew_ms: int,
    ) -> None:
        self._reader = FragmentReader()
        self._contact_id = contact_id
        self._start_number = start_number
        self._max_skew_ms = max_skew_ms
        self._zero_ms = zero_ms
        self._timeline: Timeline | None = None
        if mark is not None:
            self._timeline = Timeline(mark.zero_ms, mark.positions, mark.filled, max_skew_ms=max_skew_ms)
        self._has_begun = mark is not None
        self._end_ms: float | None = None  # producer time after the last sample that was ours
        if mark is not None:
            self._end_ms = mark.zero_ms + max(mark.positions.values(), default=0) / SAMPLES_PER_MS
        self._is_ours: bool | None = False  # the fragment being read; None until it says so
        self._held = _Held()
        self._start_ms = 0.0

    @property
    def zero_ms(self) -> float | None:
        """Producer time of position 0, once known."""
        return self._timeline.zero_ms if self._timeline is not None else self._zero_ms

    @property
    def num_late(self) -> int:
        """Samples given up because they came after their place had been filled."""
        return self._timeline.num_late if self._timeline is not None else 0

    def feed(self, data: bytes) -> list[ContactEvent]:
        """Take bytes, cut anywhere, and return what they complete.

        Raises:
            BadAudio: Not what `GetMedia` sends; the body cannot be read on.
        """
        events: list[ContactEvent] = []
        for event in self._reader.feed(data):
            match event:
                case FragmentStarted():
                    self._start(event, events)
                case Block():
                    self._take(event, events)
                case ContactTagged(contact_id):
                    self._attribute(contact_id == self._contact_id, events)
                case FragmentEnded():
                    self._end(event, events)
                case StreamFailed():
                    events.append(event)
        return events

    def _start(self, started: FragmentStarted, events: list[ContactEvent]) -> None:
        self._held = _Held()
        self._start_ms = started.at_ms
        self._is_ours = None
        if started.contact_id is not None:
            self._attribute(started.contact_id == self._contact_id, events)
        elif started.number and started.number == self._start_number:
            self._attribute(True, events)
        elif self._end_ms is not None and abs(started.at_ms - self._end_ms) <= CONTIGUOUS_MS:
            self._is_ours = True

    def _take(self, block: Block, events: list[ContactEvent]) -> None:
        if self._is_ours:
            self._place(block, events)
        elif self._is_ours is None:
            self._held.blocks.append(block)
            self._held.num_bytes += len(block.pcm)
            if self._held.num_bytes > MAX_HELD_BYTES:
                raise BadAudio("a fragment is too long without saying whose it is")

    def _attribute(self, is_ours: bool, events: list[ContactEvent]) -> None:
        if not is_ours:
            self._is_ours = False
            self._held = _Held()
            if self._has_begun:
                events.append(Over())
            return
        self._is_ours = self._has_begun = True
        held, self._held = self._held, _Held()
        for block in held.blocks:
            self._place(block, events)

    def _place(self, block: Block, events: list[ContactEvent]) -> None:
        if self._timeline is None:
            zero_ms = self._start_ms if self._zero_ms is None else self._zero_ms
            self._timeline = Timeline(zero_ms, {}, {}, max_skew_ms=self._max_skew_ms)
        events.extend(self._timeline.place(block))
        end_ms = block.at_ms + len(block.pcm) / BYTES_PER_SAMPLE / SAMPLES_PER_MS
        self._end_ms = end_ms if self._end_ms is None else max(self._end_ms, end_ms)

    def _end(self, ended: FragmentEnded, events: list[ContactEvent]) -> None:
        if self._is_ours is None and self._has_begun:
            # Nothing says whose it is, and nothing ever says otherwise: such a stream has one user.
            self._attribute(True, events)
        self._held = _Held()
        if self._is_ours and self._timeline is not None:
            timeline = self._timeline
            mark = Mark(
                token=ended.token,
                zero_ms=timeline.zero_ms,
                positions=dict(timeline.positions),
                filled=dict(timeline.filled),
            )
            events.append(Passed(mark, ended.behind_ms))
