"""The exception tree. Only these reach a client, with their code, public message and field; anything else is
told as `internal`, and its text stays in the log.

    CuelineError
    ├── BadRequest              the client's fault, not to be sent again as it is
    │   ├── BadMessage          bad JSON, unknown type, missing or wrong field
    │   ├── BadAudio            odd byte count, audio before start, unsupported rate
    │   └── TooLarge            frame, text or body over its limit
    ├── TimedOut                it did not come in time; retryable
    ├── Unauthorised            no or bad credentials
    ├── Forbidden               known, but not allowed to
    ├── NotFound
    ├── Gone                    it was there, and was erased for good
    ├── Conflict                two starts on one socket, stale owner
    │   └── Busy                another source streams that side now; retryable
    ├── TooManyRequests         rate or count limit; retryable
    ├── Overloaded              no capacity now; retryable
    ├── Unavailable             a dependency is away; retryable
    └── ConfigError             refuses the start; names the path of the wrong value

Messages are public: they never contain customer words, tokens or paths of this machine beyond what the
operator configured.
"""

from __future__ import annotations

from typing import ClassVar


class CuelineError(Exception):
    """Base of all errors with a stable code.

    Args:
        message: Public text, complete without the code.
        field: Path of the wrong value in the message, such as `sample_rate_hz`; None where there is none.
    """

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False
    status: ClassVar[int] = 500

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field


class BadRequest(CuelineError):
    """The request cannot be served as it is."""

    code = "bad_request"
    status = 400


class BadMessage(BadRequest):
    """A frame that is no message of this protocol."""

    code = "bad_message"


class BadAudio(BadRequest):
    """Audio that does not fit what `start` announced."""

    code = "bad_audio"


class TooLarge(BadRequest):
    """Over a documented size limit."""

    code = "too_large"
    status = 413


class TimedOut(CuelineError):
    """A request that dripped in until there was no time left."""

    code = "timed_out"
    status = 408
    retryable = True


class Unauthorised(CuelineError):
    """No identity, or one that does not hold."""

    code = "unauthorised"
    status = 401


class Forbidden(CuelineError):
    """This identity may not do that."""

    code = "forbidden"
    status = 403


class NotFound(CuelineError):
    """No such thing, or none that this identity may see."""

    code = "not_found"
    status = 404


class Gone(CuelineError):
    """It was here, and was erased for good."""

    code = "gone"
    status = 410


class Conflict(CuelineError):
    """It collides with something that lives."""

    code = "conflict"
    status = 409


class Busy(Conflict):
    """Somebody else holds it now; a source whose old connection has not died yet tries again."""

    retryable = True


class TooManyRequests(CuelineError):
    """Over a rate or count limit; try again later."""

    code = "too_many_requests"
    status = 429
    retryable = True


class Overloaded(CuelineError):
    """No capacity for it now; try again."""

    code = "overloaded"
    status = 503
    retryable = True


class Unavailable(CuelineError):
    """Something it needs is away; try again."""

    code = "unavailable"
    status = 503
    retryable = True


class ConfigError(CuelineError):
    """A wrong value in configuration, graph, policy or model folder. `field` is its path."""

    code = "config"

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.field else self.message
