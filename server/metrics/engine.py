"""What the engine tells of itself, as Prometheus metrics."""

from __future__ import annotations

from inference.request import RowClass
from server.metrics import Metrics


class EngineMetrics:
    """An `inference.observer.EngineObserver`."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._queue_delay = {
            row_class: metrics.queue_delay.labels(row_class.name.lower()) for row_class in RowClass
        }  # observed for every row

    def queue_delay(self, row_class: RowClass, delay_s: float) -> None:
        """A row waited this long for its batch."""
        self._queue_delay[row_class].observe(delay_s)

    def batch(self, model: str, rows: int, tokens: int, padded_tokens: int, duration_s: float) -> None:
        """A batch ran."""
        self._metrics.batch_rows.labels(model).observe(rows)
        self._metrics.batch_padding_ratio.labels(model).observe(1 - tokens / padded_tokens if padded_tokens else 0.0)

    def node(self, node: str, duration_s: float, *, is_failed: bool) -> None:
        """A model or operator node ran for a batch."""
        self._metrics.graph_node_duration.labels(node, "failed" if is_failed else "done").observe(duration_s)

    def dropped(self, reason: str) -> None:
        """A request ended without its outputs, or was refused at the door."""
        self._metrics.dropped.labels(reason).inc()

    def skipped(self, reason: str) -> None:
        """A request was answered without a model pass of its own."""
        self._metrics.reused.labels(reason).inc()
