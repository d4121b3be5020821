"""The exception tree of the knowledge base. `server` maps it to its own by `code`; messages are public and name files
and fields, never what a customer said.

    RetrievalError
    ├── UnreadableFile    one file of a folder; skipped and reported, the others are ingested
    ├── EmptyFolder       nothing in it can be read; the base stays as it was
    ├── BadQuery          question, context or evaluation line that cannot be used
    ├── NoSuchBase        never ingested, or deleted
    ├── EncoderMismatch   built by another encoder; the message holds the command that rebuilds it
    ├── NothingBefore     `rollback` of a base that was never changed
    ├── DamagedIndex      files missing, torn, or of another format; `rollback` or `ingest` mend it
    ├── Unwritable        no room on the disk, or no permission; the base stays as it was; retryable
    └── BaseBusy          another ingest of this base is running; retryable
"""

from __future__ import annotations

from typing import ClassVar


class RetrievalError(Exception):
    """Base of all errors of the knowledge base.

    Args:
        message: Public text, complete without the code.
        field: Path of the wrong value, or the file; None where there is none.
    """

    code: ClassVar[str] = "retrieval"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


class UnreadableFile(RetrievalError):
    """One file that holds no text that can be used.

    Args:
        reason: Why, in a few words.
        source: Path of the file relative to the folder.
    """

    code = "unreadable_file"

    def __init__(self, reason: str, *, source: str) -> None:
        super().__init__(f"{source}: {reason}", field=source)
        self.reason = reason
        self.source = source


class EmptyFolder(RetrievalError):
    """A folder without one readable file: almost always a wrong path, so nothing is replaced by nothing."""

    code = "empty_folder"


class BadQuery(RetrievalError):
    """A question, a context or a line of an evaluation set."""

    code = "bad_query"


class NoSuchBase(RetrievalError):
    """No base of that name for that tenant. Says the same for a name of another tenant."""

    code = "no_such_base"


class EncoderMismatch(RetrievalError):
    """Vectors of another encoder: scores would be noise."""

    code = "encoder_mismatch"


class DamagedIndex(RetrievalError):
    """A generation that cannot be opened."""

    code = "damaged_index"


class Unwritable(RetrievalError):
    """The data directory takes no new generation."""

    code = "unwritable"
    retryable = True


class NothingBefore(RetrievalError):
    """No whole generation before the current one."""

    code = "nothing_before"


class BaseBusy(RetrievalError):
    """Another ingest holds the base."""

    code = "base_busy"
    retryable = True


def ingest_command(base: str, tenant: str) -> str:
    """Return the command that makes a base, or makes it anew."""
    return f"cueline kb ingest DIR --kb {base} --tenant {tenant}"


def rebuild(code: str, message: str, field: str | None) -> RetrievalError:
    """Make an error anew that another process described."""
    if code == UnreadableFile.code:
        source = field or ""
        return UnreadableFile(message.removeprefix(f"{source}: "), source=source)
    kinds = (EmptyFolder, BadQuery, NoSuchBase, EncoderMismatch, DamagedIndex, NothingBefore, BaseBusy, Unwritable)
    known = {kind.code: kind for kind in kinds}
    return known.get(code, RetrievalError)(message, field=field)
