from collections.abc import Iterator

import pytest

from tests.integration.running import RunningServer, serve


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """One server for all tests that do not break it."""
    with serve(tmp_path_factory.mktemp("data")) as running:
        yield running
