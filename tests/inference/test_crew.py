"""What the threads make of a backend on another machine; everything else of the crew is tested through the engine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from inference.backends.contract import Tensors
from inference.backends.fake import FakeBackend
from inference.engine import Engine, EngineSettings
from inference.errors import BackendUnavailable, DeadlineExceeded, InferenceError
from inference.graph import Graph, Node
from inference.plan import Plan
from inference.repository import ModelRepository
from inference.request import Outcome, Output, Request, RowClass
from tests.inference.model_folders import write_model
from tests.inference.tiny_models import bert_tokenizer


def plan_of(engine: Engine) -> Plan:
    nodes = {
        "tokens": Node(op="tokenize", model="utterance", inputs=("text",)),
        "encoder": Node(op="model", model="utterance", inputs=("tokens",)),
        "embedding": Node(op="select", inputs=("encoder.embedding",)),
    }
    return engine.compile(Graph("embed", {"text": "string"}, nodes, ("embedding",)), None)


@pytest.mark.parametrize(
    ("raised", "outcome"),
    [(BackendUnavailable("nobody there"), Outcome.FAILED), (DeadlineExceeded("time is up"), Outcome.LATE)],
)
async def test_a_machine_that_does_not_answer_is_asked_once_for_a_batch(
    tmp_path: Path, raised: InferenceError, outcome: Outcome
) -> None:
    write_model(tmp_path, tokenizer=bert_tokenizer().to_str())
    backend = FakeBackend()
    engine = Engine(ModelRepository.open(tmp_path), EngineSettings(workers=1), backends={"fake": backend})
    await engine.start()
    plan = plan_of(engine)

    def fail(_: Tensors) -> None:
        raise raised

    backend.script = fail
    backend.runs.clear()
    ends: list[tuple[Outcome, BaseException | None]] = []

    def on_outputs(outputs: Sequence[Output]) -> None:
        pytest.fail(f"{outputs} came")

    for text in ("my card", "card is lost", "lost"):
        engine.submit(
            Request(
                plan=plan,
                inputs={"text": text},
                owner="call",
                key="",
                row_class=RowClass.FINAL,
                deadline_s=math.inf,
                prototypes=None,
                on_outputs=on_outputs,
                on_done=lambda *end: ends.append(end),
            )
        )
    await engine.stop()
    assert len(backend.runs) <= 3, "batches were halved though no row is to blame"
    error = raised if outcome is Outcome.FAILED else None
    assert ends == [(outcome, error)] * 3
