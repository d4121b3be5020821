"""SQLite: a file of this process, in write-ahead mode."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, event, exc
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import URL
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncConnection

from server.store.database import begin, make_engine
from server.wire.errors import ConfigError, CuelineError

CHECKED_BYTES = 64 * 1024 * 1024
"""Files up to this size are checked page by page at the start, at some 500 MB/s; larger ones on use."""

_PRAGMAS = (
    "PRAGMA busy_timeout=5000",
    "PRAGMA journal_mode=WAL",  # readers do not wait for the writer
    "PRAGMA secure_delete=ON",  # what is erased is overwritten, not only unlinked
    "PRAGMA synchronous=FULL",  # the outbox forgets a record once it is here, so it has to survive a power cut here
)

_IS_WRITING = "cueline_is_writing"


class SqliteDatabase:
    """See `Database`."""

    def __init__(self, url: URL) -> None:
        self._file = Path(url.database) if url.database and url.database != ":memory:" else None
        self.engine = make_engine(url)
        event.listen(self.engine.sync_engine, "connect", _prepare)
        event.listen(self.engine.sync_engine, "begin", _begin)

    @property
    def place(self) -> str:
        """The file."""
        return str(self._file or ":memory:")

    async def prepare(self) -> None:
        """Make the folder and check the file."""
        if self._file is None:
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        await self._settle()
        async with self.engine.connect() as connection:
            if self._file.stat().st_size <= CHECKED_BYTES:
                found = (await connection.exec_driver_sql("PRAGMA quick_check(1)")).scalar()
                if found != "ok":
                    raise ConfigError(f"the database file is damaged; {_REMEDY}", field=self.place)

    async def _settle(self) -> None:
        """Make the file write-ahead.

        Of two processes that do so to a new file at once, one is told that it is locked, without the wait that other
        locks have.
        """
        for pause_s in (0.05, 0.2, 1.0, 0.0):
            try:
                async with self.engine.connect():
                    return
            except exc.OperationalError as error:
                if "locked" not in str(error.orig) or not pause_s:
                    raise
            await asyncio.sleep(pause_s)

    def transaction(self, *, is_writing: bool) -> AbstractAsyncContextManager[AsyncConnection]:
        """One transaction; a writer locks from its beginning on."""
        return begin(self.engine, **{_IS_WRITING: is_writing})

    async def lock_schema(self, connection: AsyncConnection) -> None:
        """A writer has the whole file."""

    async def lock_erasing(self, connection: AsyncConnection, *, is_eraser: bool) -> None:
        """A writer has the whole file."""

    async def forget_freed(self) -> None:
        """Empty the write-ahead log, which holds pages as they were before."""
        async with self.engine.connect() as connection:
            autocommit = await connection.execution_options(isolation_level="AUTOCOMMIT")
            await autocommit.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

    def insert(self, table: Table) -> Any:
        """An insert that can have `ON CONFLICT`."""
        return sqlite.insert(table)

    def is_refusal(self, error: Exception) -> bool:
        """Whether a value is at fault."""
        return isinstance(error, exc.IntegrityError | exc.DataError)

    def start_error(self, error: Exception) -> CuelineError | None:
        """A file that does not open now will not open later."""
        match error:
            case CuelineError():
                return error
            case OSError():
                return ConfigError(f"the database cannot be used: {error.strerror}", field=self.place)
            case exc.DBAPIError():
                reason = str(error.orig)
                remedy = f"; {_REMEDY}" if "not a database" in reason or "malformed" in reason else ""
                return ConfigError(f"the database cannot be used: {reason}{remedy}", field=self.place)
        raise error


_REMEDY = "restore it from a backup, or move it away to begin with an empty one"


def _prepare(connection: DBAPIConnection, _: object) -> None:
    # The driver would begin transactions by itself, late, and end them before each CREATE TABLE.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in _PRAGMAS:
        cursor.execute(pragma)
    cursor.close()


def _begin(connection: Connection) -> None:
    # A writer that begins as a reader cannot wait for another one: SQLite would refuse it at its first statement.
    is_writing = connection.get_execution_options().get(_IS_WRITING)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if is_writing else "BEGIN")
