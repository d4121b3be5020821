"""What a `GetMedia` session does wrong, on demand."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["cut", "stall", "error", "garbage", "throttle", "unavailable"]
KINDS: Final[tuple[Kind, ...]] = ("cut", "stall", "error", "garbage", "throttle", "unavailable")


@dataclass(frozen=True, slots=True)
class Fault:
    """One session's fault.

    Attributes:
        kind: `cut` breaks the connection, `stall` sends nothing more and keeps it open, `error` ends the stream with
            error tags, `garbage` sends bytes that are no Matroska, `throttle` and `unavailable` refuse the request.
        after_bytes: How much of the body comes before; of no meaning for the last two.
    """

    kind: Kind
    after_bytes: int = 0


def at_random(kinds: tuple[Kind, ...], mean_bytes: int, seed: int) -> Iterator[Fault]:
    """Endless faults, repeatable by their seed; every other session is whole for longer."""
    source = random.Random(seed)
    while True:
        yield Fault(source.choice(kinds), 1 + int(source.expovariate(1 / mean_bytes)))
