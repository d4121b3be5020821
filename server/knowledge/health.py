"""Whether the endpoint that writes answers does, as the log tells it: changes, not requests.

A metric counts every request; but who has just mistyped a key or an address looks at the log. The cards say nothing:
the passage stands where nothing is written.
"""

from __future__ import annotations

import logging

from inference.generation import GenerationError

FAILURES_IN_ROW = 3
"""Of an endpoint that has written before; single ones are what a breaker and a hedge are for."""

log = logging.getLogger(__name__)


class EndpointHealth:
    """Hears how each request ended. Event-loop thread only."""

    def __init__(self) -> None:
        self._has_written = False
        self._num_failed = 0
        self._is_told = False

    def failed(self, error: GenerationError) -> None:
        """A request failed. The error's words are ours and hold neither prompt nor key; its causes' are not."""
        self._num_failed += 1
        if not self._is_told and self._num_failed >= (FAILURES_IN_ROW if self._has_written else 1):
            self._is_told = True
            log.warning("the endpoint writes no answers, passages stand alone", extra={"reason": str(error)})

    def wrote(self) -> None:
        """A request ended in order."""
        if self._is_told:
            log.info("the endpoint writes answers again")
        self._has_written, self._num_failed, self._is_told = True, 0, False
