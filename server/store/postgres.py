"""PostgreSQL through asyncpg, the extra `postgres`.

Nothing waits for the server without end: connecting, waiting for a connection of the budget and every statement have
their time-outs, on both sides.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any

import asyncpg  # SQLAlchemy imports it by name; here a missing extra is found at once
from sqlalchemy import Table, exc, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection

from server.store.database import begin, make_engine
from server.wire.errors import ConfigError, CuelineError

CONNECT_TIMEOUT_S = 3.0
POOL_TIMEOUT_S = 2.0
"""How long a transaction waits for a connection of the budget."""
RECYCLE_S = 1800.0
"""Connections are made anew after so long, so that a fail-over or a new password is found in time."""
LOCK_TIMEOUT_S = 2.0
_CLIENT_MARGIN_S = 2.0
"""The server ends a slow statement; a server that does not even do that is given up this much later."""

_SCHEMA_LOCK = 0x6375656C696E65  # "cueline"; one number space for the whole database
_ERASING_LOCK = _SCHEMA_LOCK + 1

_REFUSALS = frozenset({"22", "23", "54"})
"""Data exception, integrity violation, program limit: a value is at fault. PostgreSQL manual, appendix A."""
_NOT_LET_IN = {
    "28": "store.password",  # invalid authorisation
    "3D": "store.url",  # no such database
    "3F": "store.url",  # no such schema
}


class PostgresDatabase:
    """See `Database`.

    Args:
        url: `postgresql://user@host:port/database`; `?ssl=verify-full` asks for TLS.
        max_connections: Connections of this process.
        statement_timeout_s: Longest statement.
    """

    def __init__(self, url: URL, max_connections: int, statement_timeout_s: float) -> None:
        self._url = url.set(drivername="postgresql+asyncpg")
        self.engine = make_engine(
            self._url,
            pool_size=max_connections,
            max_overflow=0,
            pool_timeout=POOL_TIMEOUT_S,
            pool_recycle=RECYCLE_S,
            pool_pre_ping=True,  # after a restart of the server the first reader is not told "try again"
            connect_args={
                "timeout": CONNECT_TIMEOUT_S,
                "command_timeout": statement_timeout_s + _CLIENT_MARGIN_S,
                "server_settings": {
                    "application_name": "cueline",
                    "statement_timeout": str(int(statement_timeout_s * 1000)),
                    "lock_timeout": str(int(LOCK_TIMEOUT_S * 1000)),
                    "idle_in_transaction_session_timeout": str(int((statement_timeout_s + LOCK_TIMEOUT_S) * 1000)),
                },
            },
        )

    @property
    def place(self) -> str:
        """The URL without its password."""
        return self._url.set(drivername="postgresql").render_as_string(hide_password=True)

    async def prepare(self) -> None:
        """Nothing: the server looks after its files."""

    def transaction(self, *, is_writing: bool) -> AbstractAsyncContextManager[AsyncConnection]:
        """One transaction, read-only unless it writes."""
        return begin(self.engine, **({} if is_writing else {"postgresql_readonly": True}))

    async def lock_schema(self, connection: AsyncConnection) -> None:
        """Wait for other processes that migrate; a migration may take its time."""
        await connection.execute(text("SET LOCAL statement_timeout = 0"))
        await connection.execute(text("SET LOCAL lock_timeout = 0"))
        await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _SCHEMA_LOCK})

    async def lock_erasing(self, connection: AsyncConnection, *, is_eraser: bool) -> None:
        """Shared for writers, exclusive for erasers, which are rare."""
        lock = "pg_advisory_xact_lock" if is_eraser else "pg_advisory_xact_lock_shared"
        await connection.execute(text(f"SELECT {lock}(:lock)"), {"lock": _ERASING_LOCK})

    async def forget_freed(self) -> None:
        """Nothing: the server overwrites freed rows when it vacuums."""

    def insert(self, table: Table) -> Any:
        """An insert that can have `ON CONFLICT`."""
        return postgresql.insert(table)

    def is_refusal(self, error: Exception) -> bool:
        """Whether a value is at fault."""
        return _sqlstate(error)[:2] in _REFUSALS

    def start_error(self, error: Exception) -> CuelineError | None:
        """A server that answers "not you" is wrongly configured; one that does not answer may come back."""
        if isinstance(error, CuelineError):
            return error
        if _is_of_an_option(error):
            return ConfigError(f"{self.place} cannot be used: {_reason(error)}", field="store.url")
        state = _sqlstate(error)
        if state[:2] in _NOT_LET_IN:
            return ConfigError(f"{self.place} refuses us: {_reason(error)}", field=_NOT_LET_IN[state[:2]])
        if state[:2] == "42":  # no right to make tables, or tables that are not ours
            return ConfigError(f"{self.place} cannot be migrated: {_reason(error)}", field="store.url")
        if isinstance(error, exc.SQLAlchemyError | OSError | TimeoutError):
            return None
        raise error


def _sqlstate(error: BaseException) -> str:
    """The server's code for what went wrong, empty if it did not answer."""
    found = getattr(error, "sqlstate", None) or getattr(getattr(error, "orig", None), "sqlstate", None)
    return found if isinstance(found, str) else ""


def _is_of_an_option(error: BaseException) -> bool:
    """Whether the URL asks for something the driver does not know, or that is not here: a file of certificates."""
    if isinstance(error, TypeError):
        return str(error).startswith("connect() got an unexpected keyword")
    driven = getattr(getattr(error, "orig", None), "__cause__", None)
    return isinstance(driven, asyncpg.exceptions.ClientConfigurationError)


def _reason(error: BaseException) -> str:
    return str(getattr(error, "orig", None) or error).removeprefix("<class 'asyncpg.exceptions.").split(">: ")[-1]
