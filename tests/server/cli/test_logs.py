from __future__ import annotations

import logging
import sys

from server.cli.logs import FieldFormatter
from server.wire.errors import Unavailable

WORDS = "four thousand"


def line_of(error: BaseException) -> str:
    record = logging.LogRecord("server.live", logging.ERROR, "call.py", 1, "a stage failed", (), None)
    record.item = "Given"
    try:
        raise error
    except BaseException:
        record.exc_info = sys.exc_info()
    return FieldFormatter().format(record)


def test_a_trace_says_where_and_what_and_not_what_was_said() -> None:
    try:
        int(WORDS)
    except ValueError as cause:
        error: Exception = KeyError(WORDS)
        error.__cause__ = cause
    line = line_of(error)
    assert "a stage failed item=Given" in line
    assert line.index("KeyError") < line.index("because of") < line.index("ValueError")
    assert "in line_of" in line
    assert "int(WORDS)" in line, "the line of the program"
    assert WORDS not in line


def test_our_own_errors_are_told_whole() -> None:
    assert "Unavailable: the store does not answer" in line_of(Unavailable("the store does not answer"))
    assert "No space left" in line_of(OSError(28, "No space left on device"))
