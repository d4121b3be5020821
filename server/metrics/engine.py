"""What the engine tells of itself, as Prometheus metrics."""

from __future__ import annotations

from prometheus_client import Histogram

from inference.request import RowClass
from server.metrics import Metrics


class EngineMetrics:
    """An `inference.observer.EngineObserver`."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._queue_delay = {
            row_class: metrics.queue_delay.labels(row_class.name.lower()) for row_class in RowClass
        }  # observed for every row, as those below for every batch
        self._nodes: dict[tuple[str, bool], Histogram] = {}
        self._batches: dict[str, tuple[Histogram, Histogram]] = {}

    def queue_delay(self, row_class: RowClass, delay_s: float) -> None:
        """A row waited this long for its batch."""
        self._queue_delay[row_class].observe(delay_s)

    def batch(self, model: str, rows: int, tokens: int, padded_tokens: int, duration_s: float) -> None:
        """A batch ran."""
        known = self._batches.get(model)
        if known is None:
            metrics = self._metrics
            known = self._batches[model] = metrics.batch_rows.labels(model), metrics.batch_padding_ratio.labels(model)
        known[0].observe(rows)
        known[1].observe(1 - tokens / padded_tokens if padded_tokens else 0.0)

    def node(self, node: str, duration_s: float, *, is_failed: bool) -> None:
        """A model or operator node ran for a batch."""
        known = self._nodes.get((node, is_failed))
        if known is None:
            outcome = "failed" if is_failed else "done"
            known = self._nodes[node, is_failed] = self._metrics.graph_node_duration.labels(node, outcome)
        known.observe(duration_s)

    def dropped(self, reason: str) -> None:
        """A request ended without its outputs, or was refused at the door."""
        self._metrics.dropped.labels(reason).inc()

    def skipped(self, reason: str) -> None:
        """A request was answered without a model pass of its own."""
        self._metrics.reused.labels(reason).inc()
