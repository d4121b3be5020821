from inference.backends.contract import BackendStatus
from inference.life.status import ModelStatus, VersionStatus
from server.metrics import Metrics
from server.metrics.models import ModelCollector, ModelMetrics


def test_versions_and_breakers_are_asked_when_somebody_scrapes() -> None:
    metrics = Metrics()
    versions = [
        VersionStatus(version=3, state="canary", ratio=0.25, is_proven=True),
        VersionStatus(version=2, state="serving", is_proven=True),
        VersionStatus(version=1, state="available"),
    ]
    model = ModelStatus(model="utterance", serving=2, previous=1, probation_s=0.0, rollout="canary", versions=versions)
    backends = {"utterance/2": BackendStatus("triton", "half_open", "gone", 7, 2, 5)}
    metrics.registry.register(ModelCollector(lambda: [model], lambda: backends))
    observer = ModelMetrics(metrics)
    observer.changed("utterance", "refused")
    observer.compared("utterance", "intent", "agreed")
    lines = metrics.render().decode().splitlines()
    for line in (
        'cueline_model_serving_version{model="utterance"} 2.0',
        'cueline_model_candidate_version{model="utterance"} 3.0',
        'cueline_model_candidate_ratio{model="utterance",stage="canary"} 0.25',
        'cueline_model_loaded_versions{model="utterance"} 2.0',
        'cueline_model_changes_total{change="refused",model="utterance"} 1.0',
        'cueline_shadow_rows_total{model="utterance",output="intent",result="agreed"} 1.0',
        'cueline_breaker_state{dependency="triton",model="utterance/2"} 0.5',
        'cueline_backend_batches_total{backend="triton",model="utterance/2",result="served"} 7.0',
        'cueline_backend_batches_total{backend="triton",model="utterance/2",result="fallback"} 5.0',
    ):
        assert line in lines, line
