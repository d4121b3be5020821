"""Errors of the rooms below, as those of the same meaning here."""

from __future__ import annotations

from inference.errors import InferenceError
from retrieval.errors import (
    BadQuery,
    BaseBusy,
    EmptyFolder,
    NoSuchBase,
    NothingBefore,
    RetrievalError,
    UnreadableFile,
    Unwritable,
)
from server.wire.errors import BadRequest, Busy, ConfigError, Conflict, CuelineError, NotFound, Unavailable


def as_cueline_error(error: RetrievalError | InferenceError) -> CuelineError:
    """Turn an error of the rooms below into the one of the same meaning here."""
    match error:
        case NoSuchBase():
            return NotFound(error.message, field=error.field)
        case BaseBusy():
            return Busy(error.message, field=error.field)
        case NothingBefore():
            return Conflict(error.message, field=error.field)
        case UnreadableFile():
            return BadRequest(error.reason, field=error.source)
        case EmptyFolder() | BadQuery():
            return BadRequest(error.message, field=error.field)
        case Unwritable() | InferenceError():
            return Unavailable(error.message, field=error.field)
        case _:
            return ConfigError(error.message, field=error.field)
