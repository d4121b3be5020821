"""For every test: an async test fails if a task outlives it."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator

import hypothesis
import pytest

from tests.examples import examples
from tests.virtual_time import leaked_tasks

# A busy machine makes any example slow now and then; how long code takes is the benchmarks' business.
hypothesis.settings.register_profile("cueline", deadline=None, max_examples=examples(100))
hypothesis.settings.load_profile("cueline")


@pytest.fixture
async def _no_leaked_tasks() -> AsyncIterator[None]:
    yield
    await asyncio.sleep(0)  # a task that has just ended may still have callbacks to run
    leaked = leaked_tasks()
    assert not leaked, f"the test leaked {leaked}"


@pytest.fixture(autouse=True)
def _leak_check(request: pytest.FixtureRequest) -> None:
    """Set up before, and so checked after, every other fixture of the test; nothing for synchronous tests."""
    if inspect.iscoroutinefunction(getattr(request.node, "obj", None)):
        request.getfixturevalue("_no_leaked_tasks")
