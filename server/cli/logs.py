"""The process log: one line an event on standard error, static text plus `key=value` fields."""

from __future__ import annotations

import logging

_STANDARD = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {"message", "asctime", "taskName"}


class FieldFormatter(logging.Formatter):
    """Appends the fields of `extra` to the text."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line without trace."""
        line = super().formatMessage(record)
        fields = " ".join(f"{key}={value}" for key, value in vars(record).items() if key not in _STANDARD)
        return f"{line} {fields}" if fields else line


def configure(level: str) -> None:
    """Send every logger of this process to standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(FieldFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # These tell every connection; our own rooms tell what matters of them.
    for name in ("uvicorn", "uvicorn.error", "websockets", "aiosqlite", "alembic"):
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))
