"""Labels of `actions` by example: how a policy names them, what their phrases compete with, what is claimed."""

from __future__ import annotations

from typing import Any

import pytest

from server.policy.conditions import NEGATIVES_LABEL, RIVAL_MARGIN
from server.policy.examples import leave_one_out
from server.policy.loading import parse_policy
from server.policy.own_actions import OwnActions
from server.policy.prototypes import build_prototypes, prototype_spec
from server.policy.rules import Policy
from server.wire.errors import ConfigError
from tests.server.policy.script import ScriptedCall, utterance
from tests.server.policy.test_prototypes import at_angles

TEXT = """
tenant: shop
version: 1
graph: guidance
outputs:
  actions:
    min_score: 0.6
    labels: [greet, wrap]
    examples:
      wrap: {phrases: [one, two]}
      keep: {phrases: [three], threshold: 0.7}
      asks: {speaker: customer, phrases: [four]}
moments:
  - {id: wraps, speaker: agent, any: [{semantic: five}, {output: {actions: wrap}}]}
actions: [{id: card, on: wraps, type: hint, title: Card}]
checklist: [keep, greet]
"""
GRAPHS = {"guidance": {"actions": frozenset({"greet", "refund"}), "intent": frozenset({"order"}), "moments": None}}
PATH = "outputs.actions.examples."


def policy_of(text: str = TEXT) -> Policy:
    return parse_policy(text, source="shop.yaml", graphs=GRAPHS)


def claims(**scores: float) -> list[dict[str, Any]]:
    """`moments` as the engine gives it; a name is that of an own action, or of what is in `moments` anyway."""
    labels = {"wraps": "moments.wraps.any[0]", "negatives": NEGATIVES_LABEL}
    found = [{"label": labels.get(name, PATH + name), "score": score, "phrase": "x"} for name, score in scores.items()]
    return sorted(found, key=lambda claim: -claim["score"])


OWN = OwnActions(policy_of().own_actions, {f"{PATH}{name}": 0.6 for name in ("wrap", "keep", "asks")})


def shared(speaker: str = "agent", **scores: float) -> list[str]:
    return [claim["label"] for claim in OWN.share_out(claims(**scores), speaker)[1]]


def test_a_policy_names_its_own_actions_and_may_use_them() -> None:
    policy = policy_of()
    assert policy.warnings == ()
    assert [(action.name, action.speaker) for action in policy.own_actions] == [
        ("wrap", "agent"), ("keep", "agent"), ("asks", "customer"),
    ]  # fmt: skip
    assert policy.labels == {"actions": {"greet", "wrap", "keep", "asks"}}
    assert policy.wanted_outputs == ("actions", "moments")
    assert policy_of(TEXT.replace("{semantic: five}, ", "")).wanted_outputs == ("actions", "moments")


@pytest.mark.parametrize(
    ("was", "becomes", "field", "problem"),
    [
        ("keep: {", "refund: {", PATH + "refund", "a label of the model already"),
        ("keep: {", "Keep: {", PATH + "Keep", "lower case"),
        ("phrases: [three]", "phrases: []", PATH + "keep.phrases", "no phrase"),
        ("[one, two]", "[one, One!]", PATH + "wrap.phrases[1]", "twice"),
        ("phrases: [three]", "phrases: [3]", PATH + "keep.phrases[0]", "expected `str`"),
        ("phrases: [three]", "words: [three]", PATH + "keep.words", "no such key"),
        ("threshold: 0.7", "threshold: 7", PATH + "keep.threshold", "<= 1"),
        ("speaker: customer", "speaker: ivr", PATH + "asks.speaker", "ivr"),
        ("actions: wrap}", "actions: warp}", "moments[0].any[1].output.actions", "`warp`"),
        ("[greet, wrap]", "[greet, warp]", "outputs.actions.labels[1]", "no label `warp`"),
        ("  actions:\n", "  intent: {examples: {x: {phrases: [y]}}}\n  actions:\n", "outputs.intent.examples", "only"),
    ],
)
def test_a_mistake_is_named_by_its_path(was: str, becomes: str, field: str, problem: str) -> None:
    assert was in TEXT
    with pytest.raises(ConfigError) as error:
        policy_of(TEXT.replace(was, becomes))
    assert error.value.field == f"shop.yaml: {field}"
    assert problem in error.value.message


def test_a_graph_without_moments_finds_no_examples() -> None:
    graphs = {"guidance": {"actions": frozenset({"greet"})}}
    with pytest.raises(ConfigError, match="no output `moments`"):
        parse_policy(TEXT, source="shop.yaml", graphs=graphs)


def test_a_phrase_of_two_own_actions_is_reported_that_of_a_moment_is_not() -> None:
    assert policy_of(TEXT.replace("[three]", "[five]")).warnings == ()
    (warning,) = policy_of(TEXT.replace("[three]", "[two]")).warnings
    assert warning == f"shop.yaml: {PATH}keep: `two` is an example of `{PATH}wrap` too"


def test_phrases_compete_with_those_of_other_own_actions_of_the_speaker_alone() -> None:
    spec = prototype_spec(policy_of())
    assert spec.labels == ("moments.wraps.any[0]", PATH + "wrap", PATH + "keep", PATH + "asks")
    assert spec.phrases == ("five", "one", "two", "three", "four")
    assert spec.thresholds == (None, None, 0.7, None)

    def tried(*degrees: float) -> tuple[list[tuple[str, str]], dict[str, int]]:
        vectors, nobody = at_angles(*degrees), at_angles(270)
        built = build_prototypes(spec, vectors, ["no"], nobody)
        found = leave_one_out(spec, vectors, built.thresholds, ["no"], nobody)
        assert dict(found.tried) == {PATH + "wrap": 2}
        return [(c.phrase, c.other_phrase) for c in built.collisions], dict(found.found)

    assert tried(0, 0, 20, 150, 0) == ([], {PATH + "wrap": 2})  # a moment, and what the customer says, may be the same
    assert tried(150, 0, 40, 3, 150) == ([("one", "three")], {PATH + "wrap": 1})  # worst first; `two` has only `one`


def test_claims_are_shared_out() -> None:
    moments, actions = OWN.share_out(claims(wraps=0.9, wrap=0.8, negatives=0.5, asks=0.95, keep=0.3), "agent")
    assert [claim["label"] for claim in moments] == ["moments.wraps.any[0]", NEGATIVES_LABEL]
    assert [(claim["label"], set(claim)) for claim in actions] == [("wrap", {"label", "score"})]
    assert OWN.share_out([], "agent") == ([], [])


def test_an_own_action_is_believed_above_its_threshold_when_nothing_else_is_meant() -> None:
    assert shared(wrap=0.61) == ["wrap"]
    assert shared(wrap=0.59) == []
    assert shared(wrap=0.61, negatives=0.62) == []
    assert shared(wrap=0.61, wraps=0.95) == ["wrap"]
    assert shared(wrap=0.7, keep=0.7 - RIVAL_MARGIN / 2) == ["wrap", "keep"]
    assert shared(wrap=0.7, keep=0.7 - RIVAL_MARGIN * 1.1) == ["wrap"]
    assert shared(wrap=0.61, asks=0.95) == ["wrap"]
    assert shared("customer", wrap=0.95, asks=0.7) == ["asks"]


def test_the_score_grows_from_a_half_at_the_threshold() -> None:
    scores = [OWN.share_out(claims(wrap=similarity), "agent")[1][0]["score"] for similarity in (0.6, 0.7, 0.8, 1.0)]
    assert scores == sorted(scores)
    assert scores[0] == pytest.approx(0.5)
    assert 0.7 < scores[2] < 0.8
    assert scores[-1] < 1.0


def test_a_condition_and_a_step_are_met_by_an_own_action() -> None:
    call = ScriptedCall(policy_of())
    quiet = {"moments": [], "actions": [{"label": "wrap", "score": 0.55}]}
    call.say(utterance("u1", "some paper perhaps", end_s=2, speaker="agent"), **quiet)
    assert call.actions == []
    both = [{"label": "wrap", "score": 0.7}, {"label": "keep", "score": 0.65}]
    call.say(utterance("u2", "nice paper and i keep one", end_s=5, speaker="agent"), moments=[], actions=both)
    assert [action.id for action in call.actions] == ["card-1"]
    assert [item.id for item in call.checklist.items if item.is_done] == ["keep"]
