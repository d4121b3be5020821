"""A safety net under a version on trial: a row that it fails on is answered by the one before it.

request ──▶ version on trial ──failed──▶ the version before ──answered──▶ the version on trial is to blame
                                                └────────failed──▶ the row is, and its failure stands
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from inference.errors import InferenceError, ModelFailed
from inference.request import Outcome, Output, Request


class SafetyNet:
    """Follows the engine's requests while one version of a model is on trial. Event-loop thread only."""

    def __init__(
        self,
        model: str,
        fallback: Callable[[], int | None],
        submit: Callable[[Request], None],
        *,
        is_on_trial: Callable[[Request], bool],
        on_blamed: Callable[[], None],
    ) -> None:
        """Begin.

        Args:
            model: Whose version is on trial.
            fallback: Names the version that is known to work; where it is not loaded, failures stand.
            submit: The engine's.
            is_on_trial: Whether the version on trial answers a request that pins none.
            on_blamed: Called for each row that it failed on and the other one did not.
        """
        self._model = model
        self._fallback = fallback
        self._submit = submit
        self._is_on_trial = is_on_trial
        self._on_blamed = on_blamed

    def follow(self, request: Request) -> Request:
        """See `Follower`: a failed row is asked again, and what it was told already is not repeated."""
        if self._model in request.pins or not self._is_on_trial(request):
            return request
        told: set[str] = set()

        def on_outputs(outputs: Sequence[Output]) -> None:
            news = [output for output in outputs if output.name not in told]
            told.update(output.name for output in news)
            if news:
                request.on_outputs(news)

        def on_done_again(outcome: Outcome, error: BaseException | None) -> None:
            if outcome is Outcome.DONE:
                self._on_blamed()
            request.on_done(outcome, error)

        def on_done(outcome: Outcome, error: BaseException | None) -> None:
            if outcome is not Outcome.FAILED or not isinstance(error, ModelFailed):
                request.on_done(outcome, error)
                return
            if (fallback := self._fallback()) is None:
                request.on_done(outcome, error)
                return
            pins = {**request.pins, self._model: fallback}
            try:
                self._submit(replace(request, pins=pins, on_outputs=on_outputs, on_done=on_done_again))
            except InferenceError:
                request.on_done(outcome, error)

        return replace(request, on_outputs=on_outputs, on_done=on_done)
