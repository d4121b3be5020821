"""The chain of an audit log: each link's hash covers the one before it. Pure.

    digest = SHA-256(entry)      hash = SHA-256("hash before/number/digest")

A changed, removed, added or moved entry breaks every hash after it. Whoever could rewrite the whole file could make a
new chain, so its head is told elsewhere from time to time, and `verify` compares. The entry is covered by its digest
alone: an export may leave out other tenants' entries and still be verified.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import msgspec

from server.wire.codec import json_encoder

GENESIS = "0" * 64


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody did something with somebody's data; no customer word in it.

    Attributes:
        at_ms: Wall clock.
        tenant_id: Whose data.
        who: `agent:<id>`, or the roles of somebody who is no agent.
        roles: In which roles.
        action: As in the table of rights.
        what: `call:<id>`, `conversations`, …
        outcome: `allowed` or `refused`.
    """

    at_ms: float
    tenant_id: str
    who: str
    roles: tuple[str, ...]
    action: str
    what: str
    outcome: str = "allowed"


class Link(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the file.

    Attributes:
        number: 1 and up without holes.
        hash: See the module.
        digest: Of the entry's bytes as they stand here.
        entry: Missing where an export leaves it out.
    """

    number: int
    hash: str
    digest: str
    entry: msgspec.Raw = msgspec.Raw()


class BrokenChain(Exception):
    """The chain does not hold.

    Args:
        line: Line of the file, 1 and up.
        reason: What does not fit.
    """

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")
        self.line = line


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a chain: what the next link continues, and what is noted down elsewhere."""

    number: int = 0
    hash: str = GENESIS


_link_decoder = msgspec.json.Decoder(Link)
_entry_decoder = msgspec.json.Decoder(Entry)


def link(head: Head, entry: Entry) -> tuple[Head, bytes]:
    """The line that continues a chain, and the head after it."""
    body = json_encoder.encode(entry)
    digest = hashlib.sha256(body).hexdigest()
    after = Head(head.number + 1, _hash(head.hash, head.number + 1, digest))
    return after, line_of(Link(number=after.number, hash=after.hash, digest=digest, entry=msgspec.Raw(body)))


def links(lines: Iterable[bytes], start: Head | None = None) -> Iterator[tuple[Link, Entry | None]]:
    """Read a chain, checking each link.

    Args:
        lines: Of the file, in order.
        start: Where it continues; None: at its beginning.

    Raises:
        BrokenChain: At the first link that does not fit.
    """
    head = start or Head()
    for number, line in enumerate(lines, 1):
        try:
            found = _link_decoder.decode(line)
            body = bytes(found.entry)
            entry = _entry_decoder.decode(body) if body else None
        except msgspec.DecodeError:
            raise BrokenChain(number, "is no audit entry") from None
        if found.number != head.number + 1:
            raise BrokenChain(number, f"has number {found.number} and not {head.number + 1}")
        if body and hashlib.sha256(body).hexdigest() != found.digest:
            raise BrokenChain(number, "the entry was changed")
        if _hash(head.hash, found.number, found.digest) != found.hash:
            raise BrokenChain(number, "does not continue the line before it")
        head = Head(found.number, found.hash)
        yield found, entry


def verify(lines: Iterable[bytes], noted: str = "", *, is_export: bool = False) -> Head:
    """The head of a chain that holds.

    The chain holds without an entry, so that an export can leave one out; in the log itself somebody blanked it.

    Args:
        lines: Of the file, from its beginning.
        noted: Hash of a head that was noted down earlier, which has to be on the chain; empty: none.
        is_export: Entries may be missing.

    Raises:
        BrokenChain: It does not hold, or is another one than the one that was noted.
    """
    head = Head()
    is_met = not noted
    for found, entry in links(lines):
        if entry is None and not is_export:
            raise BrokenChain(found.number, "the entry was removed, which only an export may do")
        head = Head(found.number, found.hash)
        is_met = is_met or found.hash == noted
    if not is_met:
        raise BrokenChain(head.number, "the head that was noted is not on this chain: it was cut or made anew")
    return head


def line_of(found: Link) -> bytes:
    """The line of a link."""
    return json_encoder.encode(found) + b"\n"


def without(found: Link) -> bytes:
    """The line of a link whose entry is nobody's business; the chain holds without it."""
    return line_of(Link(number=found.number, hash=found.hash, digest=found.digest))


def _hash(before: str, number: int, digest: str) -> str:
    # Over text, not over bytes: a file that was tampered with need not hold hexadecimal digits.
    return hashlib.sha256(f"{before}/{number}/{digest}".encode()).hexdigest()
