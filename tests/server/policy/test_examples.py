"""Each phrase left out and looked up by the others."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner

from server.cli.graph import graph
from server.policy.conditions import NEGATIVES_LABEL
from server.policy.examples import leave_one_out
from server.policy.prototypes import prototype_spec
from tests.server.policy.encoder import Encoder
from tests.server.policy.script import policy_of
from tests.server.policy.test_prototypes import at_angles

SPEC = prototype_spec(
    policy_of("""
moments:
  - {id: light, speaker: customer, any: [{semantic: [one, two]}, {semantic: three}], negatives: [four]}
  - {id: noise, speaker: customer, semantic: [five, six]}
  - {id: alone, speaker: agent, semantic: [seven]}
actions: [{id: a, on: [light, noise, alone], type: hint, title: A}]
""")
)
BARS = dict.fromkeys(SPEC.labels, float(np.cos(np.deg2rad(40))))
NOBODY = at_angles()[:0].reshape(0, 2)


def tried(*degrees: float, negative: float | None = None) -> tuple[dict[str, int], list[tuple[str, str]]]:
    negatives, vectors = ([], NOBODY) if negative is None else (["nothing"], at_angles(negative))
    found = leave_one_out(SPEC, at_angles(*degrees), BARS, negatives, vectors)
    assert dict(found.tried) == {"moments.light": 3, "moments.noise": 2}  # a lone phrase and a negative are not tried
    return dict(found.found), [(lost.phrase, lost.rival) for lost in found.lost]


def test_siblings_of_one_moment_find_each_other_whatever_their_condition() -> None:
    assert tried(0, 5, 20, 60, 120, 125, 200) == ({"moments.light": 3, "moments.noise": 2}, [])


def test_a_phrase_far_from_its_siblings_is_lost() -> None:
    assert tried(0, 5, 60, 300, 150, 155, 0) == ({"moments.light": 2, "moments.noise": 2}, [("three", "")])


def test_a_phrase_nearer_to_another_moment_is_lost_to_it() -> None:
    found, lost = tried(0, 5, 30, 300, 36, 70, 5)
    assert found["moments.light"] == 2
    assert ("three", "moments.noise") in lost


def test_negatives_of_the_moment_and_general_ones_take_phrases() -> None:
    assert ("one", "moments.light.negatives") in tried(0, 10, 20, 358, 120, 125, 0)[1]
    assert ("one", NEGATIVES_LABEL) in tried(0, 10, 20, 200, 120, 125, 0, negative=358)[1]


def test_a_policy_without_pairs_has_nothing_to_try() -> None:
    spec = prototype_spec(policy_of("moments: [{id: a, speaker: agent, semantic: x}]"))
    found = leave_one_out(spec, at_angles(0), dict.fromkeys(spec.labels, 0.5), [], NOBODY)
    assert (found.share, found.lost) == (1.0, ())


@pytest.mark.slow
def test_the_command_names_what_is_lost() -> None:
    Encoder()  # skips where the model is not built
    result = CliRunner().invoke(graph, ["examples", "car_service", "--lowest-share", "1"])
    assert result.exit_code == 1
    assert "moments.warning_light: " in result.output
    assert "found by the others" in result.output
    assert "collisions" in result.output
    missing = CliRunner().invoke(graph, ["examples", "nobody"])
    assert missing.exit_code == 1
    assert "nobody" in missing.output
