"""A real PostgreSQL, one a test session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.server.store.postgres_server import PostgresServer, a_postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with a_postgres() as server:
        yield server
