import logging

import pytest

from inference.generation import GenerationError
from server.knowledge.health import FAILURES_IN_ROW, EndpointHealth


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    found = [(record.levelno, getattr(record, "reason", "")) for record in caplog.records]
    caplog.clear()
    return found


def test_what_has_never_written_is_told_at_once_and_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    health = EndpointHealth()
    health.failed(GenerationError("the endpoint refuses with 401"))
    health.failed(GenerationError("the endpoint refuses with 401"))
    assert told(caplog) == [(logging.WARNING, "the endpoint refuses with 401")]
    health.wrote()
    health.wrote()
    assert told(caplog) == [(logging.INFO, "")]


def test_single_failures_of_what_writes_are_not_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    health = EndpointHealth()
    health.wrote()
    for _ in range(FAILURES_IN_ROW - 1):
        health.failed(GenerationError("late"))
    health.wrote()
    assert told(caplog) == []
    for _ in range(FAILURES_IN_ROW):
        health.failed(GenerationError("gone"))
    assert told(caplog) == [(logging.WARNING, "gone")]
