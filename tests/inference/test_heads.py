from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from inference.head_spec import HeadSpec
from inference.heads import Head, make_head, sigmoid_scores, softmax_scores

LABELS = ("a", "b", "c")
logits = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 6), st.just(3)), elements=st.floats(-1e4, 1e4, width=32, allow_nan=False)
)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def read_one(head: Head, speaker: str | None = None, **rows: list[float]) -> Any:
    arrays = {name: np.array([row], np.float32) for name, row in rows.items()}
    return head.read(arrays).value(0, speaker)


@given(logits)
def test_softmax_sums_to_one_whatever_the_logits(x: np.ndarray) -> None:
    scores = softmax_scores(x)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores.sum(axis=1), 1.0, rtol=1e-5)


@given(logits)
def test_sigmoid_is_finite_and_rises(x: np.ndarray) -> None:
    scores = sigmoid_scores(x)
    assert scores.dtype == np.float32
    assert ((scores >= 0) & (scores <= 1)).all()
    np.testing.assert_allclose(scores, np.vectorize(sigmoid)(x.astype(float)), atol=1e-6)


def test_single_is_calibrated_and_tells_whether_it_is_in_scope() -> None:
    spec = HeadSpec(
        "single", temperature=2.0, bias=[0.0, 1.0, 0.0], scope="scope", scope_temperature=0.5, scope_threshold=0.6
    )
    head = make_head("logits", spec, LABELS)
    assert head.tensors == ("logits", "scope")
    value, score = read_one(head, logits=[2.0, 2.0, 0.0], scope=[0.25])
    z = [1.0, 2.0, 0.0]
    expected = math.exp(2.0) / sum(map(math.exp, z))
    assert value == {
        "label": "b",
        "score": pytest.approx(expected),
        "in_scope": True,
        "in_scope_score": pytest.approx(sigmoid(0.5)),
    }
    assert score == value["score"]
    assert read_one(head, logits=[2.0, 2.0, 0.0], scope=[0.1])[0]["in_scope"] is False


def test_single_without_scope_says_nothing_about_it() -> None:
    value, _ = read_one(make_head("logits", HeadSpec("single"), LABELS), logits=[0.0, 0.0, 5.0])
    assert list(value) == ["label", "score"]
    assert value["label"] == "c"


def test_distribution_has_the_score_of_each_label() -> None:
    value, score = read_one(make_head("logits", HeadSpec("distribution"), LABELS), logits=[0.0, 1.0, 0.0])
    assert value["label"] == "b"
    assert value["score"] == score == value["scores"]["b"]
    assert sum(value["scores"].values()) == pytest.approx(1.0)
    assert list(value["scores"]) == list(LABELS)


def test_multi_lists_labels_above_their_own_threshold_best_first() -> None:
    head = make_head("logits", HeadSpec("multi", threshold=[0.5, 0.9, 0.5]), LABELS)
    value, score = read_one(head, logits=[0.5, 2.0, 1.0])
    assert [claim["label"] for claim in value] == ["c", "a"]
    assert score == value[0]["score"] == pytest.approx(sigmoid(1.0))
    assert read_one(head, logits=[-5.0, -5.0, -5.0]) == ([], None)


def test_multi_shows_only_what_the_speaker_can_say() -> None:
    head = make_head("logits", HeadSpec("multi", speakers={"agent": ["a", "b"], "customer": []}), LABELS)
    row = [1.0, 2.0, 3.0]
    assert [claim["label"] for claim in read_one(head, "agent", logits=row)[0]] == ["b", "a"]
    assert read_one(head, "customer", logits=row) == ([], None)
    assert len(read_one(head, "supervisor", logits=row)[0]) == 3
    assert len(read_one(head, None, logits=row)[0]) == 3


def test_binary_has_a_flag_only_if_it_is_named() -> None:
    named = make_head("logits", HeadSpec("binary", threshold=0.5, flag="is_question"), ())
    assert read_one(named, logits=[0.0]) == ({"is_question": True, "score": 0.5}, 0.5)
    assert read_one(named, logits=[-0.1])[0]["is_question"] is False
    assert list(read_one(make_head("logits", HeadSpec("binary"), ()), logits=[0.0])[0]) == ["score"]


@given(logits, st.sampled_from(["single", "distribution", "multi"]))
def test_a_row_in_a_batch_equals_the_row_alone(x: np.ndarray, kind: Any) -> None:
    head = make_head("logits", HeadSpec(kind, temperature=1.7, bias=[0.1, 0.0, -0.2]), LABELS)
    batch = head.read({"logits": x})
    for row in range(len(x)):
        assert batch.value(row) == head.read({"logits": x[row : row + 1]}).value(0)


@pytest.mark.parametrize("kind", ["single", "distribution", "multi"])
def test_values_are_plain_python(kind: Any) -> None:
    import json

    value, _ = read_one(make_head("logits", HeadSpec(kind, threshold=0.0), LABELS), logits=[0.0, 1.0, 2.0])
    assert json.loads(json.dumps(value)) == value
