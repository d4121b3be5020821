"""A backend on another machine, guarded: a breaker for each model version, and a backend in process that stands in.

    run ──breaker──▶ remote ──answer──────────────▶
           │           └─no answer─┐
           └─open──────────────────┴▶ in process ──▶   or `BackendUnavailable`, where there is none

A batch never waits for a dead machine twice: an attempt may take at most three fifths of the time that is left, so that
whoever stands in still answers in time. Before a returned machine gets its first batch it is checked like a new one.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from threading import BoundedSemaphore, Lock
from typing import Protocol

from inference.backends.breaker import Breaker, BreakerSettings, State, Verdict
from inference.backends.contract import Backend, BackendStatus, LoadedModel, Tensors, blank_inputs
from inference.errors import BackendUnavailable, DeadlineExceeded, InferenceError, ModelError
from inference.repository import ModelVersion

_log = logging.getLogger(__name__)

_ATTEMPT_RATIO = 0.6
"""Share of the time left that an attempt may take where something can be done afterwards."""

_CHECK_RATIO = 0.2
"""Share of the time left that a check before a trial may take: it comes before an attempt, not instead of one."""

_CHECK_S = 2.0
"""Longest that a check takes."""

_WARM_S = 60.0
"""Longest that the first runs take: a GPU's libraries may be loaded in them."""

_PATIENCE_S = 0.2
"""A machine that does not answer for this long is not merely busy with a large batch."""


class RemoteModel(LoadedModel, Protocol):
    """A model version on another machine."""

    def check(self, timeout_s: float) -> None:
        """Ask whether it is there, and what was expected; blocks.

        Raises:
            BackendUnavailable: If it is not ready.
            ModelError: If it is another model than the one expected.
        """


class RemoteBackend(Protocol):
    """Opens versions of models without asking whether they are there."""

    @property
    def name(self) -> str:
        """Our name for it."""

    def open(self, version: ModelVersion) -> RemoteModel:
        """Return a handle; sends nothing."""


class GuardedBackend:
    """A `Backend` whose models survive the loss of the machine they run on."""

    def __init__(
        self,
        remote: RemoteBackend,
        fallback: Backend | None = None,
        *,
        breaker: BreakerSettings | None = None,
        timeout_s: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take both.

        Args:
            remote: What is to serve.
            fallback: What serves while it does not; None: rows fail with a typed error then.
            breaker: When to stop trying.
            timeout_s: Longest that one attempt takes, whatever the deadline.
            clock: Monotonic seconds, the same as the deadlines.
        """
        self._remote = remote
        self._fallback = fallback
        self._breaker = breaker or BreakerSettings()
        self._timeout_s = timeout_s
        self._clock = clock

    @property
    def name(self) -> str:
        """Name of the remote backend."""
        return self._remote.name

    def load(self, version: ModelVersion) -> LoadedModel:
        """Open a version and check it; with a fallback, load that too, so that it is warm when it is needed.

        Raises:
            ModelError: If it is another model than expected, or is not there and nothing stands in.
        """
        where = f"{version.name}/{version.version}"
        remote = self._remote.open(version)
        fallback = None
        try:
            if self._fallback is not None:
                fallback = self._fallback.load(version)
                _warm(fallback, version, math.inf)
            guard = Breaker(self._breaker)
            model = GuardedModel(self.name, where, remote, fallback, guard, self._timeout_s, self._clock)
            try:
                remote.check(_CHECK_S)
                _warm(remote, version, self._clock() + _WARM_S)
            except (BackendUnavailable, DeadlineExceeded) as error:
                if fallback is None:
                    raise ModelError(f"{error.message}, and nothing stands in", path=where) from error
                model.give_up(error.message)
        except BaseException:
            remote.unload()
            if fallback is not None:
                fallback.unload()
            raise
        return model


def _warm(model: LoadedModel, version: ModelVersion, deadline_s: float) -> None:
    """Run the shortest and the longest row, without the limit of a live batch: a first run may take seconds."""
    rows = [bucket for bucket in version.buckets if bucket.rows == 1] or list(version.buckets[:1])
    outputs = [spec.name for spec in version.config.outputs]
    for bucket in (rows[0], rows[-1]):
        model.run(blank_inputs(version.config, bucket), outputs, deadline_s)


class GuardedModel:
    """One version, here and there. From any thread."""

    def __init__(
        self,
        backend: str,
        where: str,
        remote: RemoteModel,
        fallback: LoadedModel | None,
        breaker: Breaker,
        timeout_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._backend = backend
        self._where = where
        self._remote = remote
        self._fallback = fallback
        self._slots = BoundedSemaphore(fallback.preferred_slots) if fallback is not None else None
        self._breaker = breaker
        self._timeout_s = timeout_s
        self._clock = clock
        self._lock = Lock()
        self._must_check = False
        self._reason = ""
        self._num_served = self._num_failed = self._num_fallback = 0

    @property
    def is_exact(self) -> bool:
        """As the remote model."""
        return self._remote.is_exact

    @property
    def preferred_slots(self) -> int:
        """As the remote model; fewer batches run side by side in process."""
        return self._remote.preferred_slots

    def run(self, inputs: Tensors, outputs: Sequence[str], deadline_s: float = math.inf) -> Tensors:
        """Run a batch wherever it can be run. See the contract.

        Where nothing stands in, a batch that met no one is sent once more at once, if two fifths of its time are left:
        behind one address there may be several servers.

        Raises:
            BackendUnavailable: If the machine does not answer and nothing stands in.
            DeadlineExceeded: If the deadline passed.
        """
        return self._run(inputs, outputs, deadline_s, may_retry=self._fallback is None)

    def _run(self, inputs: Tensors, outputs: Sequence[str], deadline_s: float, *, may_retry: bool) -> Tensors:
        problem: Exception = BackendUnavailable(f"{self._backend} is given up for now")
        started_s = self._clock()
        with self._lock:
            ticket, must_check = self._breaker.admit(started_s), self._must_check
        if ticket is None:
            verdict = Verdict.UNDECIDED
        else:
            try:
                answer = self._attempt(inputs, outputs, deadline_s, must_check=must_check)
            except Exception as error:
                problem, verdict = error, self._verdict(error, started_s)
            else:
                self._note(ticket, Verdict.DONE)
                return answer
        if self._fallback is None:
            if ticket is not None:
                self._note(ticket, verdict, problem)
            is_early = deadline_s - self._clock() >= (1.0 - _ATTEMPT_RATIO) * (deadline_s - started_s)
            if may_retry and verdict is Verdict.GONE and not _is_timeout(problem) and is_early:
                return self._run(inputs, outputs, deadline_s, may_retry=False)
            raise problem
        try:
            answer = self._stand_in(self._fallback, inputs, outputs, deadline_s)
        except Exception as error:
            # A batch that is refused here and there is to blame itself.
            if verdict is Verdict.FAILED and not isinstance(error, DeadlineExceeded):
                verdict = Verdict.UNDECIDED
            raise
        else:
            with self._lock:
                self._num_fallback += 1
            return answer
        finally:
            if ticket is not None:
                self._note(ticket, verdict, problem)

    def give_up(self, reason: str) -> None:
        """Open the breaker now."""
        with self._lock:
            self._breaker.open(self._clock())
            self._opened(reason)

    def status(self) -> BackendStatus:
        """Return a snapshot."""
        with self._lock:
            return BackendStatus(
                self._backend,
                self._breaker.state.value,
                self._reason,
                self._num_served,
                self._num_failed,
                self._num_fallback,
            )

    def unload(self) -> None:
        """Unload both."""
        self._remote.unload()
        if self._fallback is not None:
            self._fallback.unload()

    def _attempt(self, inputs: Tensors, outputs: Sequence[str], deadline_s: float, *, must_check: bool) -> Tensors:
        if must_check:
            left_s = deadline_s - self._clock()
            if left_s <= 0.0:
                raise DeadlineExceeded("the deadline passed before the batch was sent")
            self._remote.check(min(_CHECK_S, _CHECK_RATIO * left_s))
        now_s = self._clock()
        left_s = deadline_s - now_s
        allowed_s = min(left_s if self._fallback is None else _ATTEMPT_RATIO * left_s, self._timeout_s)
        try:
            return self._remote.run(inputs, outputs, now_s + allowed_s)
        except DeadlineExceeded as error:
            if self._clock() >= deadline_s:
                raise
            raise BackendUnavailable(f"no answer within {allowed_s:.3f} s") from error

    def _verdict(self, error: Exception, started_s: float) -> Verdict:
        if isinstance(error, BackendUnavailable | DeadlineExceeded):
            # A batch that came with next to no time proves nothing by itself; many of them do.
            is_hasty = _is_timeout(error) and self._clock() - started_s < _PATIENCE_S
            return Verdict.FAILED if is_hasty else Verdict.GONE
        return Verdict.GONE if isinstance(error, ModelError) else Verdict.FAILED

    def _stand_in(self, fallback: LoadedModel, inputs: Tensors, outputs: Sequence[str], deadline_s: float) -> Tensors:
        # More threads wait for another machine than this one has cores; they take turns at the cores.
        assert self._slots is not None
        left_s = deadline_s - self._clock()
        if not self._slots.acquire(timeout=None if left_s == math.inf else max(left_s, 0.0)):
            raise DeadlineExceeded("the deadline passed before a core was free")
        try:
            return fallback.run(inputs, outputs, deadline_s)
        finally:
            self._slots.release()

    def _note(self, ticket: int, verdict: Verdict, error: Exception | None = None) -> None:
        with self._lock:
            if verdict is Verdict.DONE:
                self._num_served += 1
                self._must_check = False
            elif verdict is not Verdict.UNDECIDED:
                self._num_failed += 1
            before = self._breaker.state
            self._breaker.record(ticket, self._clock(), verdict)
            after = self._breaker.state
            if after is before:
                return
            if after is State.OPEN:
                # The message of our own errors names places; a runtime's may quote the input.
                self._opened(error.message if isinstance(error, InferenceError) else type(error).__name__)
            elif after is State.CLOSED:
                _log.info("a backend serves again", extra={"backend": self._backend, "model": self._where})

    def _opened(self, reason: str) -> None:
        self._reason = reason
        self._must_check = True
        _log.warning(
            "a backend is given up for now",
            extra={
                "backend": self._backend,
                "model": self._where,
                "reason": reason,
                "has_fallback": self._fallback is not None,
            },
        )


def _is_timeout(error: Exception) -> bool:
    return isinstance(error, DeadlineExceeded) or isinstance(error.__cause__, DeadlineExceeded)
