"""Fitting and calibrating every head on made-up vectors: what comes out is what the engine reads."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from inference.export.heads import CARRY
from inference.head_spec import HeadSpec
from inference.training.augment import as_on_calls
from inference.training.corpus import Corpus
from inference.training.fit import (
    BALANCE,
    choose_heads,
    fit_heads,
    fit_projection,
    row_weights,
)
from inference.training.folder import config_text, write_model_folder
from inference.training.linear import logits
from inference.training.post_processing import fit_post_processing
from inference.training.splits import Split
from inference.training.tasks import SCOPE_TENSOR, TASKS, Examples, Kind, Task

LABELS = {"intent": 4, "intent_banking": 3, "intent_modular": 3, "sentiment": 3, "acts": 4, "actions": 3}
DIMS = 16


@cache
def vector(text: str) -> np.ndarray:
    """The longest word is the vector, noise and all; what a recogniser adds around it changes nothing."""
    task, label, number = max(text.split(), key=len).split("zz")
    centre = np.random.default_rng(zlib.crc32(f"{task}:{label}".encode())).normal(size=DIMS)
    noisy = centre + 0.3 * np.random.default_rng(zlib.crc32(number.encode())).normal(size=DIMS)
    return (noisy / np.linalg.norm(noisy)).astype(np.float32)


def vectors(texts: Sequence[str], title: str = "") -> np.ndarray:
    return np.stack([vector(text) for text in texts])


def word(task: str, *numbers: int) -> str:
    """Write `task`, label and number as one word of letters, which no augmentation takes apart."""
    return "zz".join([task.replace("_", ""), *("".join(chr(97 + int(d)) for d in str(n)) for n in numbers)])


def rows_of(task: Task, first: int, number: int) -> Examples:
    size = LABELS.get(task.name, 1)
    which = [i % (size + (task.kind is Kind.BINARY)) for i in range(number)]
    targets = np.zeros((number, size), np.float32)
    for row, label in enumerate(which):
        if label < size:
            targets[row, label] = 1
    mask = np.ones_like(targets)
    if task.name == "actions":
        mask[::2, 1] = 0  # known on fewer rows than its neighbours
    return Examples(
        task=task,
        labels=tuple(f"{task.name}{i}" for i in range(size)),
        texts=tuple(word(task.name, label, first + i) for i, label in enumerate(which)),
        targets=targets,
        mask=mask,
        groups=tuple(map(str, range(number))),
        sources=("catalogue" if task.name == "actions" else "made",) * number,
        speakers=tuple(("customer", "agent")[label % 2] for label in which),
        before=tuple(word(task.name, label, 3000 + i) if i % 4 else "" for i, label in enumerate(which)),
    )


def parts(task: Task) -> Split:
    return Split(rows_of(task, 0, 120), rows_of(task, 1000, 60), rows_of(task, 2000, 60))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # threads that wait for each other cost more than these tiny products


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    stranger = Task("stranger", Kind.SINGLE)
    return Corpus({task.name: parts(task) for task in TASKS}, parts(stranger))


def test_heads_learn_and_their_scores_are_fit_for_the_engine(corpus: Corpus) -> None:
    heads = fit_heads(corpus, vectors)
    assert list(heads.linear) == [task.tensor for task in TASKS]
    for task in TASKS[:2]:
        held = corpus.splits[task.name].validate
        found = logits(vectors(held.texts), heads.linear[task.tensor]).argmax(1)
        assert (found == held.targets.argmax(1)).mean() > 0.95
    scope = heads.open_set[SCOPE_TENSOR]
    assert list(heads.carry) == ["dissatisfied_logits", "acts_logits"]
    assert [heads.carry_first(tensor) for tensor in heads.carry] == [0, 1]

    def run(texts: Sequence[str], outputs: Sequence[str]) -> dict[str, np.ndarray]:
        features = vectors(texts)
        found = {name: logits(features, head) for name, head in heads.linear.items()}
        white = features @ scope.whitening
        distance = (np.square(white[:, None] - scope.centres).sum(2)).min(1)
        energy = np.log(np.exp(found["intent_logits"]).sum(1))
        views = np.stack([energy, -distance, features @ scope.detector], 1)
        found[CARRY] = np.hstack([logits(features, head) for head in heads.carry.values()])
        found[SCOPE_TENSOR] = (views @ scope.mix[:3] + scope.mix[3])[:, None].astype(np.float32)
        return {name: found[name] for name in outputs}

    post = fit_post_processing(corpus, run)
    assert set(post) == set(heads.linear)
    for tensor, head in post.items():
        HeadSpec(**head)
        assert np.min(head["temperature"]) > 0, tensor
    assert {tensor: head["carry_first"] for tensor, head in post.items() if "carry" in head} == {
        "dissatisfied_logits": 0,
        "acts_logits": 1,
    }
    assert post["question_logits"]["flag"] == "is_question"
    assert post["acts_logits"]["speakers"] == {"customer": ["acts0", "acts2"], "agent": ["acts1", "acts3"]}
    actions = post["actions_logits"]["temperature"]
    assert actions[0] == actions[2] != actions[1]
    held_inside, held_outside = corpus.splits["intent"].validate, corpus.outside.validate
    intent = post["intent_logits"]
    inside, outside = (run(x.texts, [SCOPE_TENSOR])[SCOPE_TENSOR] for x in (held_inside, held_outside))
    bar = np.log(intent["scope_threshold"] / (1 - intent["scope_threshold"])) - intent["scope_bias"]
    assert (inside / intent["scope_temperature"] >= bar).mean() > 0.85
    assert (outside / intent["scope_temperature"] < bar).mean() > 0.85


def test_a_source_that_is_told_by_mean_recall_has_its_classes_evened_out(corpus: Corpus) -> None:
    rows = corpus.splits["sentiment"].fit
    uneven = rows.take(np.array([0] * 80 + [1] * 20))
    assert row_weights(uneven).tolist() == [1.0] * 100
    weights = row_weights(replace(uneven, sources=("tweeteval",) * 100))
    assert weights.mean() == pytest.approx(1)
    assert weights[80] / weights[0] == pytest.approx(4 ** BALANCE["tweeteval"])


def test_scores_are_calibrated_on_what_a_call_sounds_like(corpus: Corpus) -> None:
    rows = replace(corpus.splits["question"].fit, texts=("Is it 7?",) * 120)
    forms = as_on_calls(rows)
    assert len(forms) == 360
    assert forms.texts[0] == "Is it 7?"
    assert forms.texts[120] == "is it 7"
    assert "is it seven" in forms.texts[240:]
    assert forms.targets[120:240].tolist() == rows.targets.tolist()


def test_a_projection_leads_back_to_the_reference() -> None:
    rng = np.random.default_rng(0)
    features, way = rng.normal(size=(500, DIMS)).astype(np.float32), rng.normal(size=(DIMS, DIMS)).astype(np.float32)
    np.testing.assert_allclose(fit_projection(features, features @ way.T), way, atol=0.05)


def test_the_better_head_is_taken(corpus: Corpus) -> None:
    fitted = fit_heads(corpus, vectors).linear
    broken = {name: type(head)(-head.weight, head.bias) for name, head in fitted.items()}
    chosen = choose_heads(corpus, vectors, broken)
    for task in TASKS:
        np.testing.assert_allclose(chosen[task.tensor].weight, fitted[task.tensor].weight, atol=1e-5)


def test_versions_of_a_model_share_their_labels(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    from inference.export.weights import ExportError

    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    labels = {task.name: tuple(f"{task.name}{i}" for i in range(LABELS.get(task.name, 1))) for task in TASKS}
    write_model_folder(tmp_path / "utterance", DIMS, labels, tokenizer)
    write_model_folder(tmp_path / "utterance", DIMS, labels, tokenizer)
    assert (tmp_path / "utterance/acts_labels.txt").read_text() == "acts0\nacts1\nacts2\nacts3\n"
    assert 'dims: [ 4 ] label_filename: "acts_labels.txt"' in config_text("utterance", DIMS, labels)
    with pytest.raises(ExportError, match="acts_labels"):
        write_model_folder(tmp_path / "utterance", DIMS, {**labels, "acts": ("other",)}, tokenizer)
