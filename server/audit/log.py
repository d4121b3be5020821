"""The audit log of one process: entries in, a durable chain out.

A read of stored conversations is answered only once its entry is on the disk. Following a live call does not wait for
it: guidance is never held up by a disk, and a disk that fails is loud.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from server.audit.chain import BrokenChain, Entry, Head, link, verify
from server.auth.identity import Identity
from server.store.folder_lock import FolderLock
from server.store.group_commit import GroupCommit
from server.wire.clock import wall_ms
from server.wire.errors import ConfigError, Unavailable

logger = logging.getLogger(__name__)

FILE = "audit.jsonl"
LINGER_S = 0.002
MAX_UNWRITTEN_BYTES = 4 * 1024 * 1024


class AuditLog:
    """Used from the event loop.

    Args:
        folder: Where it lives; made if missing. One process a folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = FolderLock()
        self._head = Head()
        self._size_bytes = 0
        self._writer: GroupCommit[bytes] = GroupCommit(
            self._write,
            name="cueline-audit",
            linger_s=LINGER_S,
            max_unwritten_bytes=MAX_UNWRITTEN_BYTES,
            on_trouble=self._troubled,
        )

    @property
    def head(self) -> Head:
        """Where the chain stands; the last entries may be on their way to the disk."""
        return self._head

    async def start(self) -> None:
        """Verify what is there and continue it.

        Raises:
            ConfigError: The file cannot be used, or its chain does not hold; names it.
        """
        try:
            await self._writer.run_in_thread(self._open)
        except (ConfigError, OSError) as error:
            await self._writer.stop()
            self._lock.release()
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"the audit log cannot be opened: {error.strerror}", field=str(self._path)) from error
        self._writer.start()
        logger.info("audit log continues", extra={"entries": self._head.number, "head": self._head.hash})

    async def note(self, identity: Identity, action: str, what: str, *, outcome: str = "allowed") -> None:
        """Note what somebody did; returns once it is durable.

        Raises:
            Unavailable: It cannot be noted, so it must not be done.
        """
        self.note_soon(identity, action, what, outcome=outcome)
        await self._writer.committed()

    def note_soon(self, identity: Identity, action: str, what: str, *, outcome: str = "allowed") -> None:
        """Note what somebody did; it is durable a moment later.

        Raises:
            Unavailable: There is no room for it.
        """
        who = f"agent:{identity.agent_id}" if identity.agent_id is not None else "nobody"
        entry = Entry(
            at_ms=wall_ms(),
            tenant_id=identity.tenant_id,
            who="anonymous" if identity.is_anonymous else who,
            roles=tuple(sorted(identity.roles)),
            action=action,
            what=what,
            outcome=outcome,
        )
        self.add(entry)

    def follow(self, identity: Identity, channel: str, *, is_allowed: bool) -> None:
        """Note that somebody follows a channel, or wanted to; loud, but no obstacle, if it cannot be noted."""
        try:
            self.note_soon(identity, "subscribe", channel, outcome="allowed" if is_allowed else "refused")
        except Unavailable:
            logger.error("a follower could not be noted", extra={"channel": channel})

    def add(self, entry: Entry) -> None:
        """Add an entry, such as one of the server's own.

        Raises:
            Unavailable: There is no room for it.
        """
        head, line = link(self._head, entry)
        if not self._writer.offer(line, len(line)):
            raise Unavailable("what is done here cannot be noted at present")
        self._head = head

    async def stop(self) -> None:
        """Write what waits. The head goes to the process log, out of reach of whoever can write the file."""
        if not await self._writer.stop():
            logger.error("audit entries were not written")
        self._lock.release()
        logger.info("audit log ends", extra={"entries": self._head.number, "head": self._head.hash})

    @property
    def _path(self) -> Path:
        return self._folder / FILE

    def _open(self) -> None:
        self._lock.acquire(self._folder)
        with self._path.open("a+b") as file:
            file.seek(0)
            content = file.read()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                # A crash cut the last line; nobody was answered on the strength of it.
                logger.warning(
                    "the audit log ended in the middle of an entry", extra={"cut_bytes": len(content) - whole}
                )
                file.truncate(whole)
        try:
            self._head = verify(content[:whole].splitlines())
        except BrokenChain as error:
            raise ConfigError(
                f"the audit log was changed ({error}); put it away as evidence to begin a new one",
                field=str(self._path),
            ) from None
        self._size_bytes = whole

    def _write(self, lines: Sequence[bytes]) -> None:
        data = b"".join(lines)
        with self._path.open("r+b") as file:
            file.truncate(self._size_bytes)  # what a failed attempt left
            file.seek(self._size_bytes)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self._size_bytes += len(data)

    def _troubled(self, error: Exception | None) -> None:
        if error is None:
            logger.warning("the audit log is written again")
        else:
            logger.error("the audit log cannot be written", extra={"error": str(error)})
