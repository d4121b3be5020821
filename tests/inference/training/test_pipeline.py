"""From a data folder to a served version, end to end: the real base model, made-up data, two steps of fine-tuning."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="training and judging need the extra `train`")
pytest.importorskip("transformers")

from click.testing import CliRunner

from inference.export.heads import load_heads
from inference.export.weights import load_encoder
from inference.training.finetune import DEFAULT_QUOTAS, Settings
from inference.training.pipeline import Run, train
from server.cli.models import models

pytestmark = pytest.mark.slow

SETTINGS = Settings(steps=2, batch_rows=10, save_every=1, frozen_layers=5, quotas=dict.fromkeys(DEFAULT_QUOTAS, 2))
THINGS = ("card", "bill", "room", "order", "ticket", "loan", "phone", "parcel")
INTENTS = {"pay": "i want to pay the {}", "lose": "i lost my {} again", "when": "when does my {} arrive"}
MOODS = {"positive": "i love this {}!", "negative": "the {} is awful", "neutral": "there is a {} here."}
ACTS = {"REQUEST": "could you tell me about the {}?", "INFORM": "it is the {} of last week."}


def lines(texts: dict[str, str], field: str, number: int, **more: Any) -> str:
    """Write rows of a file, every label in turn."""
    rows = []
    for row in range(number):
        label = list(texts)[row % len(texts)]
        text = texts[label].format(f"{THINGS[row % len(THINGS)]} {row}")
        value: Any = [label] if field in ("intents", "acts") else label
        rows.append(json.dumps({"text": text, field: value, "dialogue": f"d{row}", "speaker": "customer", **more}))
    return "\n".join(rows) + "\n"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name in ("intent", "sentiment", "dialogue_act"):
        (folder / name).mkdir()
    outside = lines({"oos": "the moon is a {}"}, "intent", 12)
    for part, number in (("train", 24), ("val", 24)):
        (folder / f"intent/clinc150_{part}.jsonl").write_text(lines(INTENTS, "intent", number) + outside)
    (folder / "intent/banking77_train.jsonl").write_text(lines(INTENTS, "intent", 48))
    for name in ("banking", "hotels"):
        (folder / f"intent/nlupp_{name}_train.jsonl").write_text(lines(INTENTS, "intents", 48))
    (folder / "dialogue_act/sgd_train.jsonl").write_text(lines(ACTS, "acts", 48))
    for name in ("meld_train", "tweeteval"):
        (folder / f"sentiment/{name}.jsonl").write_text(lines(MOODS, "sentiment", 48))
    for name in ("uss_sgd", "uss_mwoz"):
        marks = [json.loads(line) for line in lines(MOODS, "sentiment", 48).splitlines()]
        marks = [{**row, "satisfaction": 2 if row["sentiment"] == "negative" else 4} for row in marks]
        agents = [json.loads(line) for line in lines(ACTS, "acts", 8, speaker="agent", satisfaction=None).splitlines()]
        (folder / f"sentiment/{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in marks + agents))
    return folder


class Interrupted(Exception):
    """Somebody pressed Ctrl-C."""


def test_a_version_is_trained_interrupted_resumed_and_judged(data: Path, tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    run = Run(data, repo / "utterance/1", tmp_path / "work", SETTINGS)
    stages: list[str] = []

    def interrupt(stage: str) -> None:
        stages.append(stage)
        if stage == "heads on the tuned encoder":
            raise Interrupted

    with pytest.raises(Interrupted):
        train(run, interrupt)
    assert not run.version.exists()
    tuned = (tmp_path / "work/finetune.pt").stat().st_mtime_ns
    train(run, stages.append)
    assert (tmp_path / "work/finetune.pt").stat().st_mtime_ns == tuned  # nothing was tuned twice
    assert stages.count("heads on the base encoder") == 1
    for name in ("model.onnx", "model.fp32.onnx", "model.fp16.onnx", "golden.json", "encoder.safetensors"):
        assert (run.version / name).stat().st_size > 0, name

    # Without steps a version keeps its encoder; what heads read among the tokens is fitted anew.
    refitted = replace(run, start=run.version, version=repo / "utterance/5", settings=replace(SETTINGS, steps=0))
    train(refitted)
    kept = "encoder.safetensors"
    assert (refitted.version / kept).read_bytes() == (run.version / kept).read_bytes()
    assert list(load_heads(refitted.version / "heads.safetensors").attention) == ["intent_modular_logits"]
    shutil.rmtree(refitted.version)
    with pytest.raises(ValueError, match="a version to learn from"):
        train(replace(run, layers=(1, 3, 5)))
    more = replace(run, start=run.version, version=repo / "utterance/3", work=tmp_path / "more")
    (tmp_path / "more").mkdir()
    (tmp_path / "work/frozen.npz").rename(tmp_path / "more/frozen.npz")
    with pytest.raises(Interrupted):
        train(more, interrupt)

    student = replace(more, layers=(1, 3, 5), is_last=True, version=repo / "utterance/4", work=tmp_path / "student")
    train(student)
    assert load_encoder(student.version / "encoder.safetensors").num_layers == 3
    heads = load_heads(student.version / "heads.safetensors")
    assert heads.is_refitted
    assert heads.projection is not None
    shutil.rmtree(student.version)  # what follows judges the newest

    again = Run(data, repo / "utterance/2", tmp_path / "again", SETTINGS)
    train(again)
    for name in ("model.fp32.onnx", "model.onnx", "heads.json"):
        assert (run.version / name).read_bytes() == (again.version / name).read_bytes(), name

    out = tmp_path / "report"
    args = ["evaluate", "--data", str(data), "--repo", str(repo), "--out", str(out), "--against-fp32"]
    result = CliRunner().invoke(models, args, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    page = (out / "report.md").read_text()
    assert "utterance version 2" in page
    assert "| sentiment | all |" in page
    assert "![confusion](confusion.svg)" in page
