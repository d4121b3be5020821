"""The process log: one line an event on standard error, static text plus `key=value` fields."""

from __future__ import annotations

import logging
import traceback
from types import TracebackType

from inference.errors import InferenceError
from server.wire.errors import CuelineError

_STANDARD = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {"message", "asctime", "taskName"}


_TOLD = (CuelineError, InferenceError, OSError)
"""Errors whose message is told with their trace; any other's may quote what a customer said."""

_ErrorInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class FieldFormatter(logging.Formatter):
    """Appends the fields of `extra` to the text."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line without trace."""
        line = super().formatMessage(record)
        fields = " ".join(f"{key}={value}" for key, value in vars(record).items() if key not in _STANDARD)
        return f"{line} {fields}" if fields else line

    def formatException(self, ei: _ErrorInfo) -> str:
        """The traces of an error and its causes: where and what, but not what a library says about the value."""
        traces: list[str] = []
        error = ei[1]
        while error is not None:
            name = type(error).__qualname__
            said = f"{name}: {error}" if isinstance(error, _TOLD) else name
            traces.append("".join(traceback.format_tb(error.__traceback__)) + said)
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        return "\nbecause of\n".join(traces)


def configure(level: str) -> None:
    """Send every logger of this process to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(FieldFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # These tell every connection; our own rooms tell what matters of them.
    for name in ("uvicorn", "uvicorn.error", "websockets", "aiosqlite", "alembic"):
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))
