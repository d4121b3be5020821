"""How long each utterance of a call took on its way, as the metrics count it.

said ─▶ annotated ─▶ annotated … ─▶ done
"""

from __future__ import annotations

from collections.abc import Mapping

from server.metrics import Metrics
from server.wire.clock import Stamps, stage_durations_ms, wall_ms
from server.wire.publication import Action
from server.wire.utterance import Utterance


class StageTimes:
    """Those of one call.

    Args:
        metrics: Count them.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._latest: dict[str, Stamps] = {}

    def said(self, stamps: Stamps, stages_ms: Mapping[str, float]) -> None:
        """A final is published; `stages_ms` are those that its stamps cover."""
        self._metrics.observe_stages(stages_ms)
        if stamps.t0 is not None and stamps.t3 is not None:
            self._metrics.asr_final_lag.observe((stamps.t3 - stamps.t0) / 1000)

    def annotated(self, utterance: Utterance, stamps: Stamps) -> None:
        """Outputs of a revision are published."""
        if utterance.utterance_id not in self._latest and stamps.t4 is not None and stamps.t7 is not None:
            self._metrics.time_to_first_annotation.observe((stamps.t7 - stamps.t4) / 1000)
        # Without the stages before: those were counted when it was said.
        own = Stamps(t4=stamps.t4, t5=stamps.t5, t6=stamps.t6, t7=stamps.t7, t8=wall_ms())
        self._latest[utterance.utterance_id] = own

    def done(self, utterance: Utterance) -> None:
        """There are no further outputs of a revision."""
        stamps = self._latest.pop(utterance.utterance_id, None)
        if stamps is not None and utterance.is_final:
            self._metrics.observe_stages(stage_durations_ms(stamps))

    def acted(self, action: Action, stamps: Stamps) -> None:
        """An action is published."""
        self._metrics.actions.labels(action.type, action.state).inc()
        if action.state == "new" and stamps.t0 is not None:
            self._metrics.e2e.labels("action").observe((wall_ms() - stamps.t0) / 1000)
