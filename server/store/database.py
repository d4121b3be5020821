"""What SQLite and PostgreSQL do differently; everything else of the store is the same for both.

URL ──open_database──▶ Database: engine, transactions, insert, which error means what
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

import msgspec
from sqlalchemy import Table, exc
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from server.wire.codec import json_encoder
from server.wire.errors import ConfigError, CuelineError

MAX_CONNECTIONS = 8
STATEMENT_TIMEOUT_S = 5.0


class Database(Protocol):
    """One database, opened by its URL."""

    engine: AsyncEngine

    @property
    def place(self) -> str:
        """How an operator finds it: the file, or the URL without its password."""

    async def prepare(self) -> None:
        """What has to be right before the first transaction."""

    def transaction(self, *, is_writing: bool) -> AbstractAsyncContextManager[AsyncConnection]:
        """One transaction."""

    async def lock_schema(self, connection: AsyncConnection) -> None:
        """Let one process at a time migrate; until the transaction ends."""

    async def lock_erasing(self, connection: AsyncConnection, *, is_eraser: bool) -> None:
        """Let writers and erasers wait for each other; writers do not wait for writers. Until the transaction ends."""

    async def forget_freed(self) -> None:
        """Have what was erased leave the files of the database, as far as that is ours to do."""

    def insert(self, table: Table) -> Any:
        """An insert that can have `ON CONFLICT`."""

    def is_refusal(self, error: Exception) -> bool:
        """Whether the database holds this against a value, so that trying again is no use."""

    def start_error(self, error: Exception) -> CuelineError | None:
        """Why the start has to be refused; None: the database is away and may come back."""


def open_database(
    url: str,
    *,
    password: str = "",
    max_connections: int = MAX_CONNECTIONS,
    statement_timeout_s: float = STATEMENT_TIMEOUT_S,
) -> Database:
    """The database of a URL; nothing is connected yet.

    Args:
        url: Such as `sqlite+aiosqlite:///data/cueline.db` or `postgresql://cueline@db.example/cueline?ssl=verify-full`.
        password: Instead of one in the URL.
        max_connections: Of this process; more transactions wait for one. Servers only.
        statement_timeout_s: A statement that takes longer is ended by the server. Servers only.

    Raises:
        ConfigError: Not a URL of a database that this server can use.
    """
    try:
        parsed = make_url(url)
    except exc.ArgumentError as error:
        raise ConfigError("not a database URL", field="store.url") from error
    if password:
        parsed = parsed.set(password=password)
    try:
        match parsed.get_backend_name():
            case "sqlite":
                from server.store.sqlite import SqliteDatabase

                return SqliteDatabase(parsed)
            case "postgresql":
                from server.store.postgres import PostgresDatabase

                return PostgresDatabase(parsed, max_connections, statement_timeout_s)
    except ImportError as error:
        raise ConfigError("needs the extra postgres: pip install 'cueline[postgres]'", field="store.url") from error
    except (exc.SQLAlchemyError, ValueError) as error:
        raise ConfigError("not a database this server can use", field="store.url") from error
    raise ConfigError("not a database this server can use", field="store.url")


def make_engine(url: URL, **options: Any) -> AsyncEngine:
    """An engine with what holds for every database. Nothing is connected yet."""
    return create_async_engine(
        url,
        hide_parameters=True,  # they are customer words, and errors are logged
        json_serializer=lambda value: json_encoder.encode(value).decode(),
        json_deserializer=msgspec.json.decode,
        **options,
    )


@asynccontextmanager
async def begin(engine: AsyncEngine, **options: Any) -> AsyncIterator[AsyncConnection]:
    """One transaction with these execution options."""
    async with engine.connect() as connection:
        await connection.execution_options(**options)
        async with connection.begin():
            yield connection
