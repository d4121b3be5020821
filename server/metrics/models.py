"""Model versions and the machines they run on, as Prometheus metrics: changes as they come, states when scraped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from inference.backends.contract import BackendStatus
from inference.life.shadow import Comparison
from inference.life.status import ModelStatus
from server.metrics import Metrics

_BREAKER = {"closed": 0.0, "half_open": 0.5, "open": 1.0}


class ModelMetrics:
    """An `inference.life.observer.LifeObserver`."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def changed(self, model: str, change: str) -> None:
        """A version was loaded, refused, promoted, rolled back."""
        self._metrics.model_changes.labels(model, change).inc()

    def compared(self, model: str, output: str, result: Comparison) -> None:
        """A shadow answered, or did not."""
        self._metrics.shadow_rows.labels(model, output, result).inc()


class ModelCollector(Collector):
    """Asks when somebody scrapes."""

    def __init__(
        self, models: Callable[[], Sequence[ModelStatus]], backends: Callable[[], Mapping[str, BackendStatus]]
    ) -> None:
        """Take where to ask.

        Args:
            models: `Keeper.status`.
            backends: By `model/version`, of versions that run elsewhere.
        """
        self._models = models
        self._backends = backends

    def collect(self) -> Iterable[GaugeMetricFamily | CounterMetricFamily]:
        """Make the families."""
        serving = GaugeMetricFamily("cueline_model_serving_version", "Version that answers.", labels=["model"])
        candidate = GaugeMetricFamily("cueline_model_candidate_version", "Version on trial; 0: none.", labels=["model"])
        ratio = GaugeMetricFamily("cueline_model_candidate_ratio", "Share that it gets.", labels=["model", "stage"])
        loaded = GaugeMetricFamily("cueline_model_loaded_versions", "Versions in memory.", labels=["model"])
        for model in self._models():
            name = [model.model]
            serving.add_metric(name, model.serving or 0)
            on_trial = [version for version in model.versions if version.state in ("canary", "shadow")]
            candidate.add_metric(name, on_trial[0].version if on_trial else 0)
            for version in on_trial:
                ratio.add_metric([*name, version.state], version.ratio)
            loaded.add_metric(name, sum(version.is_proven is not None for version in model.versions))
        yield from (serving, candidate, ratio, loaded, *self._of_backends())

    def _of_backends(self) -> Iterable[GaugeMetricFamily | CounterMetricFamily]:
        breaker = GaugeMetricFamily(
            "cueline_breaker_state", "0 closed, 0.5 half-open, 1 open.", labels=["dependency", "model"]
        )
        batches = CounterMetricFamily(
            "cueline_backend_batches", "Batches of a remote backend.", labels=["backend", "model", "result"]
        )
        for where, status in self._backends().items():
            breaker.add_metric([status.backend, where], _BREAKER[status.state])
            for result, count in (
                ("served", status.num_served),
                ("failed", status.num_failed),
                ("fallback", status.num_fallback),
            ):
                batches.add_metric([status.backend, where, result], count)
        yield from (breaker, batches)
