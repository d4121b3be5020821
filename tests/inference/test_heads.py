from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from inference.head_spec import HeadSpec
from inference.heads import HeadBank

LABELS = ("a", "b", "c")
logits = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 6), st.just(3)), elements=st.floats(-1e4, 1e4, width=32, allow_nan=False)
)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def bank(**specs: HeadSpec) -> HeadBank:
    return HeadBank(specs, dict.fromkeys(specs, LABELS))


def read_one(spec: HeadSpec, speaker: str | None = None, **rows: list[float]) -> Any:
    arrays = {name: np.array([row], np.float32) for name, row in rows.items()}
    return bank(logits=spec).read(arrays).value("logits", 0, speaker)


@given(logits)
def test_scores_of_a_distribution_sum_to_one_whatever_the_logits(x: np.ndarray) -> None:
    reading = bank(logits=HeadSpec("distribution")).read({"logits": x})
    for row in range(len(x)):
        value, score = reading.value("logits", row)
        assert sum(value["scores"].values()) == pytest.approx(1.0, rel=1e-5)
        assert score == value["score"] == max(value["scores"].values())
        assert value["scores"][value["label"]] == score


@given(logits)
def test_a_score_of_its_own_is_the_sigmoid_of_its_logit_whatever_that_is(x: np.ndarray) -> None:
    reading = bank(logits=HeadSpec("binary")).read({"logits": x[:, :1]})
    for row in range(len(x)):
        _, score = reading.value("logits", row)
        assert score is not None
        assert 0.0 <= score <= 1.0
        assert score == pytest.approx(sigmoid(float(x[row, 0])), abs=1e-6)


def test_single_is_calibrated_and_tells_whether_it_is_in_scope() -> None:
    spec = HeadSpec(
        "single", temperature=2.0, bias=[0.0, 1.0, 0.0], scope="scope", scope_temperature=0.5, scope_threshold=0.6
    )
    assert bank(logits=spec).tensors == {"logits", "scope"}
    value, score = read_one(spec, logits=[2.0, 2.0, 0.0], scope=[0.25])
    z = [1.0, 2.0, 0.0]
    expected = math.exp(2.0) / sum(map(math.exp, z))
    assert value == {
        "label": "b",
        "score": pytest.approx(expected),
        "in_scope": True,
        "in_scope_score": pytest.approx(sigmoid(0.5)),
    }
    assert score == value["score"]
    assert read_one(spec, logits=[2.0, 2.0, 0.0], scope=[0.1])[0]["in_scope"] is False


def test_single_without_scope_says_nothing_about_it() -> None:
    value, _ = read_one(HeadSpec("single"), logits=[0.0, 0.0, 5.0])
    assert list(value) == ["label", "score"]
    assert value["label"] == "c"


def test_distribution_has_the_score_of_each_label() -> None:
    value, score = read_one(HeadSpec("distribution"), logits=[0.0, 1.0, 0.0])
    assert value["label"] == "b"
    assert value["score"] == score == value["scores"]["b"]
    assert sum(value["scores"].values()) == pytest.approx(1.0)
    assert list(value["scores"]) == list(LABELS)


def test_multi_lists_labels_above_their_own_threshold_best_first() -> None:
    head = HeadSpec("multi", threshold=[0.5, 0.9, 0.5])
    value, score = read_one(head, logits=[0.5, 2.0, 1.0])
    assert [claim["label"] for claim in value] == ["c", "a"]
    assert score == value[0]["score"] == pytest.approx(sigmoid(1.0))
    assert read_one(head, logits=[-5.0, -5.0, -5.0]) == ([], None)


def test_a_score_at_its_threshold_reaches_it() -> None:
    assert read_one(HeadSpec("multi", threshold=0.5), logits=[0.0, -0.1, -0.1])[0] == [{"label": "a", "score": 0.5}]
    assert read_one(HeadSpec("single", scope="scope", scope_threshold=0.5), logits=[0.0] * 3, scope=[0.0])[0][
        "in_scope"
    ]


def test_a_bias_is_added_to_what_the_temperature_left_in_every_kind_of_head() -> None:
    multi = HeadSpec("multi", temperature=2.0, bias=[0.5, -9.0, -9.0], threshold=0.5)
    assert read_one(multi, logits=[1.0, 0.0, 0.0])[1] == pytest.approx(sigmoid(1.0), abs=1e-6)
    binary = HeadSpec("binary", temperature=2.0, bias=[0.5])
    assert read_one(binary, logits=[1.0])[1] == pytest.approx(sigmoid(1.0), abs=1e-6)
    single = HeadSpec("single", scope="scope", scope_temperature=2.0, scope_bias=0.5)
    value, _ = read_one(single, logits=[0.0] * 3, scope=[1.0])
    assert value["in_scope_score"] == pytest.approx(sigmoid(1.0), abs=1e-6)


def test_multi_shows_only_what_the_speaker_can_say() -> None:
    head = HeadSpec("multi", speakers={"agent": ["a", "b"], "customer": []})
    row = [1.0, 2.0, 3.0]
    assert [claim["label"] for claim in read_one(head, "agent", logits=row)[0]] == ["b", "a"]
    assert read_one(head, "customer", logits=row) == ([], None)
    assert len(read_one(head, "supervisor", logits=row)[0]) == 3
    assert len(read_one(head, None, logits=row)[0]) == 3


def test_binary_has_a_flag_only_if_it_is_named() -> None:
    named = HeadSpec("binary", threshold=0.5, flag="is_question")
    assert read_one(named, logits=[0.0]) == ({"is_question": True, "score": 0.5}, 0.5)
    assert read_one(named, logits=[-0.1])[0]["is_question"] is False
    assert list(read_one(HeadSpec("binary"), logits=[0.0])[0]) == ["score"]


@given(logits, st.integers(0, 100))
def test_a_row_in_a_batch_and_among_other_heads_equals_the_row_alone(x: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    specs = {
        "first": HeadSpec("single", temperature=1.7, bias=[0.1, 0.0, -0.2], scope="scope"),
        "second": HeadSpec("distribution", temperature=0.5),
        "third": HeadSpec("multi", threshold=[0.5, 0.2, 0.9]),
        "fourth": HeadSpec("single"),
        "fifth": HeadSpec("multi", temperature=[1.0, 2.0, 3.0]),
        "sixth": HeadSpec("binary", flag="is_it", temperature=2.0),
    }
    arrays = {name: x[:, rng.permutation(3)] for name in specs} | {"scope": x[:, :1], "sixth": x[:, 1:2]}
    together = bank(**specs).read(arrays)
    for row in range(len(x)):
        for name, spec in specs.items():
            alone = {tensor: array[row : row + 1] for tensor, array in arrays.items()}
            assert together.value(name, row) == bank(**{name: spec}).read(alone).value(name, 0)


@given(logits, st.integers(0, 100))
def test_what_the_turn_before_hands_on_is_added_to_the_logits(x: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    specs = {
        "first": HeadSpec("single", temperature=1.7, scope="scope", carry="carry", carry_first=1),
        "second": HeadSpec("multi", threshold=[0.5, 0.2, 0.9], carry="carry", carry_first=4),
        "third": HeadSpec("binary", carry="carry"),
        "alone": HeadSpec("distribution"),
    }
    arrays = {name: x[:, rng.permutation(3)] for name in specs} | {"scope": x[:, :1], "third": x[:, 1:2]}
    kept = {name: array.copy() for name, array in arrays.items()}
    rows = rng.integers(0, len(x), 4).tolist()
    carried = [rng.normal(size=7).astype(np.float32) if place % 2 else None for place in range(4)]
    reading = bank(**specs).read_after(arrays, rows, carried)
    for place, (row, numbers) in enumerate(zip(rows, carried, strict=True)):
        one = {name: array[row : row + 1] for name, array in arrays.items()}
        if numbers is not None:
            columns = {"first": numbers[1:4], "second": numbers[4:7], "third": numbers[:1]}
            one |= {name: one[name] + added for name, added in columns.items()}
        for name, spec in specs.items():
            assert reading.value(name, place) == bank(**{name: spec}).read(one).value(name, 0)
    for name, array in kept.items():
        np.testing.assert_array_equal(arrays[name], array)


def test_what_was_handed_on_and_is_no_number_is_left_aside_in_its_own_row_alone() -> None:
    heads = bank(logits=HeadSpec("single", carry="carry"))
    x = np.zeros((2, 3), np.float32)
    whole, broken = np.array([0.0, 5.0, 0.0], np.float32), np.array([0.0, np.nan, 5.0], np.float32)
    reading = heads.read_after({"logits": x}, [0, 1], [whole, broken])
    assert reading.value("logits", 0) == heads.read_after({"logits": x}, [0], [whole]).value("logits", 0)
    assert reading.value("logits", 0)[0]["label"] == "b"
    assert reading.value("logits", 1) == heads.read({"logits": x}).value("logits", 1)


def test_a_bank_without_heads_reads_nothing() -> None:
    assert HeadBank({}, {}).read({}).halves.size == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_without_numbers_fails_alone(bad: float) -> None:
    x = np.array([[1.0, 2.0, 3.0], [0.0, bad, 0.0]], np.float32)
    heads = bank(logits=HeadSpec("single"))
    reading = heads.read({"logits": x})
    assert reading.value("logits", 0) == heads.read({"logits": x[:1]}).value("logits", 0)
    with pytest.raises(ValueError, match="not finite"):
        reading.value("logits", 1)


def test_half_precision_logits_are_scored_in_single() -> None:
    reading = bank(logits=HeadSpec("single")).read({"logits": np.array([[1.0, 2.0, 3.0]], np.float16)})
    assert reading.value("logits", 0)[1] == pytest.approx(0.66524, abs=1e-4)


@pytest.mark.parametrize("kind", ["single", "distribution", "multi"])
def test_values_are_plain_python(kind: Any) -> None:
    import json

    value, _ = read_one(HeadSpec(kind, threshold=0.0), logits=[0.0, 1.0, 2.0])
    assert json.loads(json.dumps(value)) == value
