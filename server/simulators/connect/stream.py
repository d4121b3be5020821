"""A Kinesis video stream that grows while it is read.

contact's blocks ──write──▶ pieces: head · block … · tail ──session──▶ bytes as they come, from any start
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from server.simulators.connect import media
from server.simulators.connect.media import TRACKS, Track
from server.wire.errors import BadRequest

FRAGMENT_BLOCKS = 16
"""Blocks of a side in a fragment: about a second."""
MAX_FRAGMENT_MS = 10_000
"""The service takes no longer ones."""
FIRST_NUMBER = 91_343_852_333_181_531_502_161_607_852_955_530_730_504_675_150
"""Fragment numbers are long; whoever takes them for integers of 64 bits is found out."""


@dataclass(frozen=True, slots=True)
class _Piece:
    fragment: int
    kind: Literal["head", "block", "tail"]
    producer_ms: float
    data: bytes = b""
    contact_id: str = ""
    tracks: tuple[Track, ...] = ()


class SimulatedStream:
    """One stream; contacts use it one after the other.

    Args:
        wall_ms: Producer's and server's clock.
    """

    def __init__(self, wall_ms: Callable[[], float]) -> None:
        self._wall_ms = wall_ms
        self._pieces: list[_Piece] = []
        self._starts: list[int] = []  # index of each fragment's head
        self._grown = asyncio.Event()
        self._num_blocks = 0
        self._is_open = False
        self.is_closed = False

    @property
    def next_number(self) -> str:
        """Number of the fragment that begins next."""
        return _number(len(self._starts))

    def write(
        self,
        contact_id: str,
        producer_ms: float,
        blocks: Sequence[tuple[int, bytes]],
        tracks: tuple[Track, ...] = TRACKS,
    ) -> None:
        """Append the blocks of one instant, one of each track; fragments begin and end by themselves.

        Args:
            contact_id: Whose.
            producer_ms: Time of their first sample.
            blocks: Track number and samples.
            tracks: Entries of the fragment, if one begins.
        """
        if self._is_open:
            begun = self._pieces[self._starts[-1]]
            if begun.contact_id != contact_id or producer_ms - begun.producer_ms > MAX_FRAGMENT_MS:
                self.end_fragment()
        if not self._is_open:
            number = len(self._starts)
            self._starts.append(len(self._pieces))
            head = media.head(_number(number), producer_ms, self._wall_ms(), tracks)
            self._pieces.append(_Piece(number, "head", producer_ms, head, contact_id, tracks))
            self._is_open, self._num_blocks = True, 0
        begun = self._pieces[self._starts[-1]]
        for number, pcm in blocks:
            data = media.block(number, round(producer_ms - begun.producer_ms), pcm)
            self._pieces.append(_Piece(begun.fragment, "block", producer_ms, data))
        self._num_blocks += 1
        if self._num_blocks >= FRAGMENT_BLOCKS:
            self.end_fragment()
        self._wake()

    def end_fragment(self) -> None:
        """Close the fragment that is open, if one is."""
        if self._is_open:
            begun = self._pieces[self._starts[-1]]
            last_ms = self._pieces[-1].producer_ms
            self._pieces.append(_Piece(begun.fragment, "tail", last_ms, b"", begun.contact_id, begun.tracks))
            self._is_open = False
            self._wake()

    async def fragment(self, number: int) -> None:
        """Return once so many fragments have begun."""
        while len(self._starts) < number:
            await self._growth()

    def close(self) -> None:
        """Nothing comes any more: sessions end when they have read it all."""
        self.end_fragment()
        self.is_closed = True
        self._wake()

    def read(self, selector: dict[str, Any]) -> AsyncGenerator[bytes, None]:
        """Bytes of one `GetMedia` call, as they come.

        Raises:
            BadRequest: A start selector that `GetMedia` would refuse.
        """
        return self._follow(self._first(selector))

    async def _follow(self, fragment: int) -> AsyncGenerator[bytes, None]:
        while fragment >= len(self._starts):
            if self.is_closed:
                return
            await self._growth()
        at = self._starts[fragment]
        while True:
            while at < len(self._pieces):
                piece = self._pieces[at]
                at += 1
                if piece.kind == "tail":
                    behind_ms = max(0, round(self._pieces[-1].producer_ms - piece.producer_ms))
                    yield media.tail(piece.contact_id, _number(piece.fragment), behind_ms, piece.tracks)
                else:
                    yield piece.data
            if self.is_closed:
                return
            await self._growth()

    def _first(self, selector: dict[str, Any]) -> int:
        match selector.get("StartSelectorType"):
            case "EARLIEST":
                return 0
            case "NOW":
                return len(self._starts)
            case "PRODUCER_TIMESTAMP" | "SERVER_TIMESTAMP":
                wanted_ms = float(selector["StartTimestamp"]) * 1000
                begun = [n for n, start in enumerate(self._starts) if self._pieces[start].producer_ms <= wanted_ms]
                return self._holding(begun[-1], wanted_ms) if begun else 0
            case "CONTINUATION_TOKEN":
                return self._after(selector["ContinuationToken"])
            case "FRAGMENT_NUMBER":
                return self._after(selector["AfterFragmentNumber"])
        raise BadRequest("InvalidArgumentException", field="StartSelectorType")

    def _holding(self, fragment: int, wanted_ms: float) -> int:
        """The fragment that holds an instant, or the next one, if the instant lies between two."""
        end = self._starts[fragment + 1] if fragment + 1 < len(self._starts) else len(self._pieces)
        return fragment if self._pieces[end - 1].producer_ms + media.BLOCK_MS > wanted_ms else fragment + 1

    def _after(self, number: str) -> int:
        fragment = int(number) - FIRST_NUMBER
        if not 0 <= fragment < len(self._starts):
            raise BadRequest("InvalidArgumentException", field="StartSelector")
        return fragment + 1

    async def _growth(self) -> None:
        self._grown.clear()
        await self._grown.wait()

    def _wake(self) -> None:
        self._grown.set()


def _number(fragment: int) -> str:
    return str(FIRST_NUMBER + fragment)
