"""Errors of the rooms below, as those of the same meaning here."""

from __future__ import annotations

from inference.errors import InferenceError
from retrieval.errors import BadQuery, BaseBusy, EmptyFolder, NoSuchBase, NothingBefore, RetrievalError, UnreadableFile
from server.wire.errors import BadRequest, ConfigError, Conflict, CuelineError, NotFound, Unavailable


def as_cueline_error(error: RetrievalError | InferenceError) -> CuelineError:
    """Turn an error of the rooms below into the one of the same meaning here."""
    match error:
        case NoSuchBase():
            return NotFound(error.message, field=error.field)
        case BaseBusy() | NothingBefore():
            return Conflict(error.message, field=error.field)
        case EmptyFolder() | BadQuery() | UnreadableFile():
            where = f"{error.field}: " if error.field and not error.message.startswith(error.field) else ""
            return BadRequest(f"{where}{error.message}", field=error.field)
        case InferenceError():
            return Unavailable(error.message, field=error.field)
        case _:
            return ConfigError(error.message, field=error.field)
