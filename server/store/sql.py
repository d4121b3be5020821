"""The store on SQLAlchemy Core: SQLite by default, one schema for all.

Batches are upserted in one transaction, `ON CONFLICT … DO UPDATE … WHERE` the revision is higher, so that applying
twice changes nothing. Errors are of three sorts: the database is away (`Unavailable`, try again), the file or its
schema is wrong (`ConfigError`, at the start), a record that it will not take (raised as it is; the outbox isolates it).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import Connection, Table, and_, event, exc, func, not_, or_, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from server.store import schema
from server.store.contract import Record
from server.store.migrate import migrate
from server.store.records import rows
from server.wire.codec import json_encoder
from server.wire.errors import ConfigError, CuelineError, Unavailable
from server.wire.ids import TenantId

logger = logging.getLogger(__name__)

CHECKED_BYTES = 64 * 1024 * 1024
"""SQLite files up to this size are checked page by page at the start, at some 500 MB/s; larger ones on use."""

_PRAGMAS = (
    "PRAGMA busy_timeout=5000",
    "PRAGMA journal_mode=WAL",  # readers do not wait for the writer
    "PRAGMA synchronous=FULL",  # the outbox forgets a record once it is here, so it has to survive a power cut here
)

_IS_WRITING = "cueline_is_writing"


class SqlStore:
    """`Store` on a database.

    Args:
        url: SQLAlchemy URL with an async driver, such as `sqlite+aiosqlite:///data/cueline.db`.
    """

    def __init__(self, url: str) -> None:
        try:
            self._url = make_url(url)
        except exc.ArgumentError as error:
            raise ConfigError("not a database URL", field="store.url") from error
        self._engine: AsyncEngine | None = None

    @property
    def _place(self) -> str:
        """How an operator finds it: the file, or the URL without its password."""
        return str(_file(self._url) or self._url.render_as_string(hide_password=True))

    async def start(self) -> None:
        """Connect and migrate to the newest schema.

        Raises:
            ConfigError: The schema is newer than the code, or the file is no database or is damaged.
            Unavailable: The database does not answer.
        """
        file = _file(self._url)
        try:
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
            self._engine = _engine(self._url)
            async with self._engine.connect() as connection:
                if file is not None and file.stat().st_size <= CHECKED_BYTES:
                    await _check(connection, self._place)
            async with self._transaction(is_writing=True) as connection:
                await connection.run_sync(migrate)
        except (CuelineError, exc.SQLAlchemyError, OSError) as error:
            await self.stop()
            raise self._start_error(error) from error

    async def apply(self, records: Sequence[Record]) -> None:
        """Upsert a batch in one transaction.

        Raises:
            Unavailable: It should be tried again.
            Exception: The database refuses a record of this batch.
        """
        batch = rows(records)
        async with _told_apart(), self._transaction(is_writing=True) as connection:
            for table in schema.metadata.sorted_tables:
                if table.name in batch:
                    await connection.execute(self._upsert(table), batch[table.name])

    async def conversations(self, tenant_id: TenantId, *, limit: int, before_ms: float | None) -> list[dict[str, Any]]:
        """Newest first; `before_ms` is the `started_ms` of the last one of the page before."""
        table = schema.conversations
        query = select(table).where(table.c.tenant_id == tenant_id)
        if before_ms is not None:
            query = query.where(table.c.started_ms < before_ms)
        query = query.order_by(table.c.started_ms.desc(), table.c.conversation_id.desc()).limit(limit)
        async with _told_apart(), self._transaction() as connection:
            return [dict(found) for found in (await connection.execute(query)).mappings()]

    async def conversation(self, tenant_id: TenantId, conversation_id: str) -> dict[str, Any] | None:
        """One conversation with its utterances (highest revisions, audio order), actions, gaps and receipts."""
        async with _told_apart(), self._transaction() as connection:

            async def of(table: Table, *order: str) -> list[dict[str, Any]]:
                query = select(table).where(table.c.tenant_id == tenant_id, table.c.conversation_id == conversation_id)
                result = await connection.execute(query.order_by(*(table.c[name] for name in order)))
                return [
                    {name: value for name, value in found.items() if name not in ("tenant_id", "conversation_id")}
                    for found in result.mappings()
                ]

            found = await of(schema.conversations)
            if not found:
                return None
            return {
                "tenant_id": tenant_id,
                "conversation_id": conversation_id,
                **found[0],
                "utterances": await of(schema.utterances, "start_ms", "speaker", "utterance_id"),
                "actions": await of(schema.actions, "action_id"),
                "gaps": await of(schema.gaps, "from_ms", "speaker"),
                "receipts": await of(schema.receipts, "at_ms", "action_id", "event"),
            }

    async def covered_ms(self, tenant_id: TenantId, conversation_id: str, speaker: str) -> int:
        """What was acknowledged of that side, at least to its last stored final, else 0: where a source resumes."""
        utterances, coverage = schema.utterances, schema.coverage
        final_ms = select(func.max(utterances.c.end_ms)).where(
            utterances.c.tenant_id == tenant_id,
            utterances.c.conversation_id == conversation_id,
            utterances.c.speaker == speaker,
            utterances.c.is_final,
        )
        acknowledged_ms = select(coverage.c.revision).where(
            coverage.c.tenant_id == tenant_id,
            coverage.c.conversation_id == conversation_id,
            coverage.c.speaker == speaker,
        )
        async with _told_apart(), self._transaction() as connection:
            found = [(await connection.execute(query)).scalar() or 0 for query in (final_ms, acknowledged_ms)]
        return max(found)

    async def revisions(self, tenant_id: TenantId, conversation_id: str) -> dict[str, tuple[int, bool]]:
        """Utterance id to (highest stored revision, is_final), so that a resumed call never goes back."""
        table = schema.utterances
        query = select(table.c.utterance_id, table.c.revision, table.c.is_final).where(
            table.c.tenant_id == tenant_id, table.c.conversation_id == conversation_id
        )
        async with _told_apart(), self._transaction() as connection:
            return {found[0]: (found[1], found[2]) for found in await connection.execute(query)}

    async def stop(self) -> None:
        """Finish and disconnect."""
        if self._engine is not None:
            await self._engine.dispose()
            self._engine = None

    @asynccontextmanager
    async def _transaction(self, *, is_writing: bool = False) -> AsyncIterator[AsyncConnection]:
        if self._engine is None:
            raise Unavailable("the store is not running")
        async with self._engine.connect() as connection:
            await connection.execution_options(**{_IS_WRITING: is_writing})
            async with connection.begin():
                yield connection

    def _upsert(self, table: Table) -> Any:
        assert self._engine is not None
        dialect = postgresql if self._engine.dialect.name == "postgresql" else sqlite
        statement = dialect.insert(table)
        key = [column.name for column in table.primary_key]
        if "revision" not in table.c:
            return statement.on_conflict_do_nothing(index_elements=key)
        new = statement.excluded
        is_newer = new.revision > table.c.revision
        if "is_final" in table.c:
            is_newer = or_(and_(new.is_final, not_(table.c.is_final)), and_(new.is_final == table.c.is_final, is_newer))
        values = {column.name: new[column.name] for column in table.c if column.name not in key}
        return statement.on_conflict_do_update(index_elements=key, set_=values, where=is_newer)

    def _start_error(self, error: Exception) -> CuelineError:
        match error:
            case CuelineError():
                return error
            case OSError():
                return ConfigError(f"the database cannot be used: {error.strerror}", field=self._place)
            case exc.DBAPIError() if _file(self._url) is not None:
                return ConfigError(f"the database cannot be used: {error.orig}", field=self._place)
            case exc.DBAPIError():
                return Unavailable(f"the database does not answer: {self._place}")
        return ConfigError("not a database this server can use", field="store.url")


def _file(url: URL) -> Path | None:
    """The SQLite file, None for a server or a database in memory."""
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        return None
    return Path(url.database)


def _engine(url: URL) -> AsyncEngine:
    engine = create_async_engine(
        url,
        hide_parameters=True,  # they are customer words, and errors are logged
        json_serializer=lambda value: json_encoder.encode(value).decode(),
        json_deserializer=msgspec.json.decode,
    )
    if url.get_backend_name() == "sqlite":
        event.listen(engine.sync_engine, "connect", _prepare)
        event.listen(engine.sync_engine, "begin", _begin)
    return engine


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


async def _check(connection: AsyncConnection, place: str) -> None:
    found = (await connection.exec_driver_sql("PRAGMA quick_check(1)")).scalar()
    if found != "ok":
        raise ConfigError("the database file is damaged", field=place)


@asynccontextmanager
async def _told_apart() -> AsyncIterator[None]:
    """Turn "the database is away" into `Unavailable`; what it holds against a value is raised as it is."""
    try:
        yield
    except (exc.IntegrityError, exc.DataError) as error:
        if error.connection_invalidated:
            raise Unavailable("the store does not answer") from error
        raise
    except (exc.DBAPIError, exc.TimeoutError, OSError) as error:
        raise Unavailable("the store does not answer") from error
