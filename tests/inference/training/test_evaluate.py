"""Judging with a model whose answers are known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="training and judging need the extra `train`")

from inference.errors import ModelError
from inference.export.heads import CARRY
from inference.head_spec import HeadSpec
from inference.training.corpus import Corpus
from inference.training.evaluate import (
    ALL_SOURCES,
    Evaluation,
    decide,
    evaluate,
    evaluate_file,
    measure_latency,
    scores_of,
    silence_other_speaker,
    word_errors,
)
from inference.training.report import write_report
from inference.training.splits import Split
from inference.training.tasks import SCOPE_TENSOR, TASKS, Examples, Kind, Task, join
from tests.inference.life.folders import write_repository

SIZES = {"intent": 3, "intent_banking": 2, "intent_modular": 2, "sentiment": 3, "acts": 2, "actions": 2}
SPECS = {
    task.tensor: HeadSpec(kind=task.kind.value, speakers={"agent": ["1"]} if task.name == "acts" else None)
    for task in TASKS
}


class Oracle:
    """Reads the right answer out of the text, `word label`, unless the text says otherwise."""

    def run(self, texts: Sequence[str], outputs: Sequence[str], title: str = "") -> dict[str, np.ndarray]:
        (tensor,) = outputs
        if tensor == SCOPE_TENSOR:
            return {tensor: np.array([[-3.0 if "outside" in text else 3.0] for text in texts], np.float32)}
        values = np.full((len(texts), SIZES.get(tensor.removesuffix("_logits"), 1)), -4, np.float32)
        for row, text in enumerate(texts):
            label = int(text.split()[1])
            if label < values.shape[1]:
                values[row, label] = 4
        return {tensor: values}


def rows(task: Task, number: int = 12) -> Examples:
    size = SIZES.get(task.name, 1)
    which = [i % (size + (task.kind is Kind.BINARY)) for i in range(number)]
    targets = np.array([[float(label == column) for column in range(size)] for label in which], np.float32)
    speakers = tuple("agent" if label == 1 else "customer" for label in which)
    texts = tuple(f"word {label}" for label in which)
    names = tuple(map(str, range(size)))
    blank = ("",) * number
    return Examples(task, names, texts, targets, np.ones_like(targets), texts, ("made",) * number, speakers, blank)


class Deaf(Oracle):
    """Words of the augmentation would hide the label from the oracle: `as heard` is judged by what is left."""

    def run(self, texts: Sequence[str], outputs: Sequence[str], title: str = "") -> dict[str, np.ndarray]:
        known = [text if text.split()[1:2] and text.split()[1].isdigit() else "x 0" for text in texts]
        return super().run(known, outputs)


class Listener(Deaf):
    """Knows nothing of the acts of a text itself; the turn before hands the answer on."""

    def run(self, texts: Sequence[str], outputs: Sequence[str], title: str = "") -> dict[str, np.ndarray]:
        if outputs == [CARRY]:
            return {CARRY: super().run(texts, ["acts_logits"])["acts_logits"]}
        found = super().run(texts, outputs)
        return {name: value * (name != "acts_logits") for name, value in found.items()}


def test_rows_are_judged_after_the_turn_before_them_and_alone(corpus: Corpus) -> None:
    told = {name: replace(cut, validate=replace(cut.validate, before=cut.validate.texts)) for name, cut in
            corpus.splits.items()}  # fmt: skip
    specs = {**SPECS, "acts_logits": HeadSpec("multi", threshold=0.9, carry=CARRY)}
    found = evaluate(Listener(), specs, Corpus(told, corpus.outside))  # type: ignore[arg-type]
    (acts,) = (task for task in found.tasks if task.task == "acts")
    assert (acts.numbers["micro_f1"], acts.alone) == (1.0, 0.0)
    assert all(task.alone is None for task in found.tasks if task is not acts)


@pytest.fixture
def corpus() -> Corpus:
    outside = rows(Task("outside", Kind.SINGLE))
    outside = replace(outside, texts=tuple(f"{text} outside" for text in outside.texts))
    splits = {task.name: Split(*[rows(task)] * 3) for task in TASKS}
    return Corpus(splits, Split(outside, outside, outside))


def judge(corpus: Corpus) -> Evaluation:
    def hear(texts: Sequence[str]) -> list[str]:
        return [text.split()[0] for text in texts]

    return evaluate(Deaf(), SPECS, corpus, hear=hear, spoken_rows=12)  # type: ignore[arg-type]


def test_right_answers_score_one_and_lost_labels_cost(corpus: Corpus) -> None:
    found = judge(corpus)
    assert [task.task for task in found.tasks] == [task.name for task in TASKS]
    for task in found.tasks:
        name, value = next(iter(task.numbers.items()))
        assert value == (pytest.approx(2.0) if name == "ap_over_base" else 1.0), task.task
        assert task.unmarked == value
        assert task.spoken is not None
        assert task.spoken[0] < task.spoken[1]
        assert not task.confusions

    assert found.word_errors == pytest.approx(0.5)
    scope = found.tasks[0].numbers
    assert (scope["oos_recall_at_95"], scope["oos_auroc"], scope["in_scope_kept"]) == (1, 1, 1)


def test_the_report_is_a_page_with_its_plots(corpus: Corpus, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    page = write_report(judge(corpus), "made", tmp_path / "report")
    text = page.read_text()
    assert "| intent | made | 12 | accuracy | 1.0000 |" in text
    assert "of words wrong" in text
    assert "neither weights nor thresholds" in text
    assert "no weight learned" not in text
    flattered = write_report(replace(judge(corpus), part="calibrate"), "made", tmp_path / "again").read_text()
    assert "no weight learned" in flattered
    for plot in ("scores.svg", "calibration.svg", "confusion.svg"):
        assert plot in text
        assert (page.parent / plot).read_text().startswith("<?xml")


def test_the_report_says_where_missing_marks_cost_too_much(corpus: Corpus, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = judge(corpus)
    lost = {"intent": 0.99, "sentiment": 0.98}
    tasks = tuple(replace(task, unmarked=lost.get(task.task, task.unmarked)) for task in found.tasks)
    page = write_report(replace(found, tasks=tasks), "made", tmp_path).read_text()
    rows: dict[str, list[str]] = {}
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if "loss without case or marks" in cells:
            rows[cells[1]] = cells[5:8]
    assert rows.pop("intent") == ["0.0100", "≤ 0.007", "**no**"]
    assert rows.pop("sentiment") == ["0.0200", "≤ 0.007", "**no**"]
    assert "dissatisfied" not in rows, "told as a ratio to the base rate"
    assert set(map(tuple, rows.values())) == {("0.0000", "≤ 0.007", "yes")}
    assert len(rows) == len(TASKS) - 3


def test_scores_are_made_as_heads_json_says() -> None:
    logits = np.array([[2.0, -2.0]], np.float32)
    single = scores_of(HeadSpec(kind="single", temperature=2.0), logits)
    assert single.sum() == pytest.approx(1)
    assert single[0, 0] == pytest.approx(1 / (1 + np.exp(-2)))
    multi = HeadSpec(kind="multi", temperature=[1.0, 2.0], bias=[0.0, 1.0], threshold=[0.9, 0.5])
    scores = scores_of(multi, logits)
    assert scores[0].tolist() == pytest.approx([1 / (1 + np.exp(-2)), 0.5])
    assert decide(multi, scores).tolist() == [[False, True]]


def test_a_speaker_has_only_his_labels() -> None:
    task = next(task for task in TASKS if task.name == "acts")
    scores = silence_other_speaker(SPECS["acts_logits"], rows(task, 4), np.ones((4, 2), np.float32))
    assert scores.tolist() == [[1, 1], [0, 1], [1, 1], [0, 1]]


@pytest.mark.parametrize(
    ("typed", "recognised", "errors"),
    [
        ("I have 2 cards.", "i have two cards", 0),
        ("cancel it", "can sell it", 2),
        ("yes please", "", 2),
        ("", "well", 1),
    ],
)
def test_word_errors(typed: str, recognised: str, errors: int) -> None:
    assert word_errors(typed, recognised) == errors


def test_a_version_that_lacks_heads_is_named(corpus: Corpus, tmp_path: Path) -> None:
    repository = write_repository(tmp_path / "model_repo", versions=(1,))
    version = repository / "utterance" / "1"
    heads = json.loads((version / "heads.json").read_text())
    del heads["question_logits"]
    (version / "heads.json").write_text(json.dumps(heads))
    with pytest.raises(ModelError, match=r"utterance/1: heads\.json lacks question_logits"):
        evaluate_file(version / "model.onnx", corpus)


def test_latency_is_measured_for_every_shape() -> None:
    class Counting:
        shapes: list[tuple[int, int]] = []  # noqa: RUF012 - one test, one list

        def run(self, texts: Sequence[str], outputs: Sequence[str]) -> None:
            self.shapes.append((len(texts), len(texts[0].split()) + 2))

    runner = Counting()
    found = measure_latency(runner, ["embedding"], repeats=2)  # type: ignore[arg-type]
    assert set(found) == set(runner.shapes)
    assert all(0 < least <= median for median, least in found.values())


def test_sources_are_judged_alone_and_together(corpus: Corpus) -> None:
    both = corpus.splits["sentiment"].validate
    both = join([both, replace(both, sources=("other",) * len(both))])
    found = judge(replace(corpus, splits={**corpus.splits, "sentiment": Split(both, both, both)}))
    told = [(task.source, task.rows) for task in found.tasks if task.task == "sentiment"]
    assert told == [("made", 12), ("other", 12), (ALL_SOURCES, 24)]
    matrix = next(task.matrix for task in found.tasks if task.task == "sentiment")
    assert matrix is not None
    assert matrix.tolist() == [[4, 0, 0], [0, 4, 0], [0, 0, 4]]
