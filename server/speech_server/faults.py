"""What goes wrong on purpose: a vendor on a bad day, for tests of those who depend on one."""

from __future__ import annotations

from dataclasses import dataclass, fields

import msgspec

from server.wire.errors import BadRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Faults of one connection; 0: not this one.

    Attributes:
        refuse: Answer the handshake with this HTTP status.
        drop: Cut the connection after so many seconds of audio.
        stall: Say nothing more after so many seconds of audio; the connection stays up.
        slow: Hold every message back for so many seconds.
        garbage: Before every so-manyth message send three that are none.
    """

    refuse: int = 0
    drop: float = 0.0
    stall: float = 0.0
    slow: float = 0.0
    garbage: int = 0

    @classmethod
    def parse(cls, text: str) -> Faults:
        """Read `drop=5,slow=0.2`.

        Raises:
            BadRequest: A fault or a number that does not exist; `field` names the fault.
        """
        known = [field.name for field in fields(cls)]
        values = dict(part.partition("=")[::2] for part in text.split(",") if part)
        for name in values:
            if name not in known:
                raise BadRequest(f"is none of {', '.join(known)}", field=name)
        try:
            return msgspec.convert(values, cls, strict=False)
        except msgspec.ValidationError:
            raise BadRequest("needs a number after each name", field=text) from None


GARBAGE: tuple[str | bytes, ...] = (
    '{"type": "Horoscope", "sign": "libra"}',
    '{"type": "Results", "start": ',
    b"\x00\xff",
)
"""A message of a type that may come some day, one that is broken, and one that is not even text."""
