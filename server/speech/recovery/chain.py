"""The recognisers of one stream in order of preference: opens the one whose turn it is, and remembers how it went."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from server.metrics import Metrics
from server.speech.contract import Recogniser, SpeechCall
from server.speech.recovery.leg import Leg
from server.speech.recovery.roster import Roster
from server.speech.recovery.settings import RecoverySettings
from server.wire.errors import BadRequest, ConfigError, CuelineError, Forbidden, Unauthorised

log = logging.getLogger(__name__)

PERMANENT = (BadRequest, Unauthorised, Forbidden, ConfigError)
"""Answers that will be the same at the next attempt."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """Whom to ask, and when."""

    index: int
    at_s: float
    replay_speed: float


class Chain:
    """Whom one stream may ask.

    Args:
        recognisers: In order of preference.
        settings: Numbers.
        metrics: Counts.
        draw: Uniform from 0 to 1.
    """

    def __init__(
        self,
        recognisers: Sequence[Recogniser],
        settings: RecoverySettings,
        metrics: Metrics,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._recognisers = recognisers
        self._settings = settings
        self._metrics = metrics
        self._roster = Roster(len(recognisers), settings, draw)
        self.last_error: BaseException | None = None
        """Why the last connect failed."""

    def next(self, now_s: float) -> Attempt:
        """The next attempt; at infinity when all of them refused this call for good."""
        index, at_s = self._roster.next(now_s)
        return replace(self.attempt(index), at_s=at_s)

    def attempt(self, index: int) -> Attempt:
        """An attempt at a certain one, now."""
        return Attempt(index, 0.0, self._recognisers[index].capabilities.replay_speed)

    def is_exhausted(self, now_s: float) -> bool:
        """All of them were tried in vain."""
        return self._roster.is_exhausted(now_s)

    async def open(self, attempt: Attempt, call: SpeechCall, cause: str = "") -> Leg | None:
        """Connect; None if that failed. `cause` is why the stream before was lost, empty for the first."""
        recogniser = self._recognisers[attempt.index]
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._settings.connect_timeout_s):
                stream = await recogniser.open(call)
        except PERMANENT as error:
            self._note(error, recogniser, "refused")
            self._roster.refuse(attempt.index)
        except (CuelineError, OSError) as error:
            self._note(error, recogniser, "failed")
            self._roster.failed(attempt.index, loop.time())
        except Exception as error:
            log.exception("a recogniser failed in a way it should not")
            self.last_error = error
            self._roster.failed(attempt.index, loop.time())
        else:
            self._roster.opened(attempt.index, loop.time())
            if cause:
                self._metrics.asr_reconnects.labels(cause).inc()
            return Leg(recogniser, attempt.index, stream, call.sample_rate_hz)
        return None

    def lost(self, leg: Leg, now_s: float) -> None:
        """A leg ended by itself."""
        self._roster.lost(leg.index, now_s)

    def count_replayed(self, seconds: float) -> None:
        """Audio that was sent again."""
        self._metrics.asr_replayed.inc(seconds)

    def _note(self, error: BaseException, recogniser: Recogniser, how: str) -> None:
        self.last_error = error
        log.warning(
            "recogniser connect failed",
            extra={"recogniser": recogniser.capabilities.name, "how": how, "reason": type(error).__name__},
        )
