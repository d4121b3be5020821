"""Where each contact's reading stands, durable: whoever finds a contact that nobody reads takes over without a loss.

    <folder>/<tenant>~<contact>.json    the contact and its marks, replaced as a whole
    <folder>/<tenant>~<contact>.lock    held by the process that reads it, however that process ends
    <folder>/<tenant>~<contact>.end     the contact is over, said by a process that does not read it
    <folder>/<tenant>~<contact>.agent   who took the contact, said by such a process

The audio itself needs no copy of ours: the stream keeps it for its retention time. The folder may be shared by
processes, and by machines if its file system has locks (NFS 4 has).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from server.ingest.connect.contact_audio import Mark
from server.ingest.connect.contacts import Contact
from server.ingest.connect.timeline import SAMPLES_PER_MS
from server.store.durable import replace_file
from server.wire.errors import Conflict
from server.wire.ids import AgentId, Speaker, TenantId

MAX_MARKS = 120
"""About two minutes of fragments whose words are not stored yet; beyond, resuming reads from the contact's begin."""
FORGET_AFTER_S = 24 * 3600.0
"""An ended contact's cursor stays so long: an event that comes twice does not begin the call anew."""


class Cursor(msgspec.Struct, kw_only=True):
    """One contact's state.

    Attributes:
        tenant_id: Owner.
        contact: What Connect said of it.
        zero_ms: Producer time of position 0, once known.
        marks: Oldest first; the first one lies before everything that is not stored yet.
        starts: First position of each side that has spoken.
        agent_id: Who took the contact after it began.
        is_ending: Its end was announced; what is left is to be read, then it is over.
        is_over: It is finished.
    """

    tenant_id: TenantId
    contact: Contact
    zero_ms: float | None = None
    marks: list[Mark] = []
    starts: dict[Speaker, int] = {}
    agent_id: AgentId | None = None
    is_ending: bool = False
    is_over: bool = False

    def before(self, positions: Iterable[int]) -> Mark | None:
        """Latest mark that lies before all these positions; None: the contact's begin."""
        wanted = min(positions, default=0)
        found = None
        for mark in self.marks:
            if _reach(mark) > wanted:
                break
            found = mark
        return found

    def passed(self, mark: Mark, stored_ms: int) -> None:
        """Note a fragment's end, and forget what lies before everything stored."""
        if not self.marks or _reach(mark) > _reach(self.marks[-1]):  # what is read again is known already
            self.marks.append(mark)
        safe = self.before([stored_ms * SAMPLES_PER_MS])
        if safe is not None:
            del self.marks[: self.marks.index(safe)]
        if len(self.marks) > MAX_MARKS:
            del self.marks[: len(self.marks) - MAX_MARKS]


def _reach(mark: Mark) -> int:
    return max(mark.positions.values(), default=0)


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Cursor)


class Claim:
    """One contact's file, held by this process until `release`. Any thread, one call at a time."""

    def __init__(self, path: Path, lock: int) -> None:
        self._path = path
        self._lock = lock

    def load(self) -> Cursor | None:
        """What is known; None for a new contact."""
        try:
            return _decoder.decode(self._path.read_bytes())
        except FileNotFoundError:
            return None

    def save(self, snapshot: bytes) -> None:
        """Replace it, safe against a crash at any instant."""
        replace_file(self._path, snapshot)

    def release(self) -> None:
        """Leave the contact to others."""
        os.close(self._lock)


def snapshot(cursor: Cursor) -> bytes:
    """The cursor as it is now, for `Claim.save` on another thread."""
    return _encoder.encode(cursor)


class CursorFolder:
    """All contacts' cursors.

    Args:
        folder: Made if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def claim(self, tenant_id: str, contact_id: str) -> Claim:
        """Take a contact.

        Raises:
            Conflict: Another process, or another task of this one, reads it.
        """
        lock = os.open(self._path(tenant_id, contact_id, ".lock"), os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise Conflict("this contact is being read already", field="contact_id") from None
        return Claim(self._path(tenant_id, contact_id, ".json"), lock)

    def waiting(self, now_s: float) -> Iterator[tuple[str, str]]:
        """Tenant and contact id of everything that is not over; what is over for long is forgotten.

        Args:
            now_s: Wall time, seconds since the Unix epoch.
        """
        for path in sorted(self._folder.glob("*.json")):
            tenant_id, _, contact_id = path.name.removesuffix(".json").partition("~")
            try:
                cursor = _decoder.decode(path.read_bytes())
                if not cursor.is_over:
                    yield tenant_id, contact_id
                elif path.stat().st_mtime < now_s - FORGET_AFTER_S:
                    for suffix in (".json", ".lock", ".end", ".agent"):
                        self._path(tenant_id, contact_id, suffix).unlink(missing_ok=True)
            except FileNotFoundError:
                continue
        # Most contacts that events speak of were never streamed.
        for path in (*self._folder.glob("*.end"), *self._folder.glob("*.agent")):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < now_s - FORGET_AFTER_S:
                    path.unlink()

    def announce_agent(self, tenant_id: str, contact_id: str, agent_id: AgentId) -> None:
        """Leave word who took a contact, as `announce_end`."""
        scratch = self._path(tenant_id, contact_id, ".agent.tmp")
        scratch.write_text(agent_id)
        os.replace(scratch, self._path(tenant_id, contact_id, ".agent"))

    def agent(self, tenant_id: str, contact_id: str) -> AgentId | None:
        """Who took a contact, if somebody left word."""
        try:
            return AgentId(self._path(tenant_id, contact_id, ".agent").read_text())
        except FileNotFoundError:
            return None

    def announce_end(self, tenant_id: str, contact_id: str) -> None:
        """Leave word that a contact is over, for whoever reads it, or will."""
        self._path(tenant_id, contact_id, ".end").touch(mode=0o600)

    def has_end(self, tenant_id: str, contact_id: str) -> bool:
        """Whether somebody left word."""
        return self._path(tenant_id, contact_id, ".end").exists()

    def _path(self, tenant_id: str, contact_id: str, suffix: str) -> Path:
        # Ids hold neither slashes nor a leading dot, so they are safe as names, and "~" is in none.
        return self._folder / f"{tenant_id}~{contact_id}{suffix}"
