from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from server.policy.conditions import NEGATIVES_LABEL
from server.policy.prototypes import (
    HIGHEST_THRESHOLD,
    LOWEST_THRESHOLD,
    build_prototypes,
    calibrate,
    prototype_spec,
    read_negatives,
)
from server.policy.rules import KEEP_MARGIN, Policy
from server.wire.errors import BadRequest, ConfigError
from tests.server.policy.script import ScriptedCall, policy_of, utterance

POLICY = policy_of("""
moments:
  - id: light
    speaker: customer
    any: [{semantic: [one, two]}, {semantic: three, threshold: 0.9}]
    negatives: [four]
  - {id: noise, speaker: customer, semantic: [five]}
  - {id: same, speaker: agent, semantic: [six]}
  - {id: again, speaker: agent, moment: same, after: light}
actions: [{id: a, on: [light, noise, same, again], type: hint, title: A}]
""")


def at_angles(*degrees: float) -> NDArray[np.float32]:
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_spec_lists_every_phrase_once_under_its_rule_path() -> None:
    spec = prototype_spec(POLICY)
    assert spec.labels == (
        "moments.light.any[0]",
        "moments.light.any[1]",
        "moments.light.negatives",
        "moments.noise",
        "moments.same",
    )
    assert spec.phrases == ("one", "two", "three", "four", "five", "six")
    assert spec.label_of.tolist() == [0, 0, 1, 2, 3, 4]
    assert spec.thresholds == (None, 0.9, None, None, None)
    assert spec.veto_of == ((), (), (0, 1), (), ())
    assert spec.name == POLICY.name


def test_nothing_semantic_needs_no_phrases() -> None:
    spec = prototype_spec(policy_of("moments: [{id: a, speaker: agent, lexical: x}]"))
    assert (spec.phrases, spec.labels) == ((), ())
    built = build_prototypes(spec, np.zeros((0, 2), np.float32), ["no"], at_angles(0))
    assert built.set.labels == ()


def test_a_threshold_stands_above_what_means_nothing() -> None:
    vectors = at_angles(0, 90)
    labels = np.array([0, 1], np.int32)
    near = np.cos(np.deg2rad(53))
    thresholds = calibrate(vectors, labels, at_angles(*[53] * 50))
    assert thresholds[0] == pytest.approx(near, abs=1e-4)
    assert thresholds[1] == pytest.approx(HIGHEST_THRESHOLD)
    assert calibrate(vectors, labels, at_angles()).tolist() == pytest.approx([LOWEST_THRESHOLD] * 2)


def test_the_set_lists_from_below_the_threshold_and_knows_the_near_negatives() -> None:
    spec = prototype_spec(POLICY)
    built = build_prototypes(spec, at_angles(0, 5, 10, 20, 90, 180), ["near", "far"], at_angles(45, 270))
    assert built.set.labels == (*spec.labels, NEGATIVES_LABEL)
    assert built.set.phrases == (*spec.phrases, "near")
    assert built.set.vectors.shape == (7, 2)
    assert built.set.label_of.tolist() == [0, 0, 1, 2, 3, 4, 5]
    fire = built.thresholds
    assert fire["moments.light.any[1]"] == pytest.approx(0.9)
    assert fire["moments.light.negatives"] == pytest.approx(min(fire["moments.light.any[0]"], 0.9))
    assert NEGATIVES_LABEL not in fire
    listed = dict(zip(built.set.labels, built.set.thresholds.tolist(), strict=True))
    for label, threshold in fire.items():
        assert listed[label] == pytest.approx(threshold - KEEP_MARGIN)
    assert listed[NEGATIVES_LABEL] == pytest.approx(min(listed[label] for label in fire))


def test_collisions_name_the_phrases() -> None:
    spec = prototype_spec(POLICY)
    built = build_prototypes(spec, at_angles(0, 5, 60, 90, 10, 6), ["far"], at_angles(270))
    found = [(c.phrase, c.other_phrase) for c in built.collisions]
    assert found == [("two", "five"), ("one", "five")]  # worst first; the agent's `six` meets nobody's ear


def test_a_vector_for_every_phrase() -> None:
    spec = prototype_spec(POLICY)
    with pytest.raises(BadRequest):
        build_prototypes(spec, at_angles(0), ["far"], at_angles(270))
    with pytest.raises(BadRequest):
        build_prototypes(spec, at_angles(*range(6)), ["far"], at_angles())


def test_negatives_are_read(tmp_path: Path) -> None:
    path = tmp_path / "general.txt"
    path.write_text("# comment\n\nhello\n bye \nhello\n", encoding="utf-8")
    assert read_negatives(path) == ("hello", "bye")
    path.write_text("# nothing\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="no sentence"):
        read_negatives(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_negatives(tmp_path / "none.txt")


@pytest.mark.parametrize(
    ("light", "noise", "negative", "expected"),
    [
        (0.60, 0.00, 0.00, ["a-1"]),
        (0.54, 0.00, 0.00, []),  # below its threshold
        (0.60, 0.00, 0.61, []),  # nearer to what means nothing
        (0.60, 0.64, 0.00, ["a-1"]),  # both may be meant
    ],
)
def test_the_nearest_meaning_wins(light: float, noise: float, negative: float, expected: list[str]) -> None:
    scores = {"moments.light.any[0]": light, "moments.noise": noise, NEGATIVES_LABEL: negative}
    assert _shown(POLICY, scores) == expected


def test_a_clearly_weaker_meaning_is_not_meant() -> None:
    policy = policy_of("""
moments:
  - {id: light, speaker: customer, semantic: [one]}
  - {id: noise, speaker: customer, semantic: [two]}
  - {id: other, speaker: agent, semantic: [three]}
actions:
  - {id: l, on: light, type: hint, title: L}
  - {id: n, on: noise, type: hint, title: N}
  - {id: o, on: other, type: hint, title: O}
""")
    assert _shown(policy, {"moments.light": 0.6, "moments.noise": 0.8, "moments.other": 0.95}) == ["n-1"]
    assert _shown(policy, {"moments.light": 0.78, "moments.noise": 0.8}) == ["n-1", "l-1"]


def _shown(policy: Policy, scores: dict[str, float]) -> list[str]:
    thresholds = dict.fromkeys(prototype_spec(policy).labels, 0.55)
    call = ScriptedCall(policy, thresholds)
    value = [{"label": label, "score": score, "phrase": ""} for label, score in scores.items() if score]
    call.say(utterance("u1", "some words", end_s=2), moments=value)
    return [action.id for action in call.actions]
