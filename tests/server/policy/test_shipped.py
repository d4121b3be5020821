"""The shipped policies: do they load, do they guide a call as they should, and how good are they on new words."""

from __future__ import annotations

from typing import Any

import pytest

from inference.repository import ModelRepository
from server.policy.loading import load_policy
from server.policy.moments import Change, MomentMatcher
from server.policy.prototypes import Prototypes, build_prototypes, prototype_spec, read_negatives
from server.policy.rulebook import RuleBook
from server.policy.rules import Policy
from server.wire.publication import Annotation
from tests.server.policy.encoder import ROOT, Encoder
from tests.server.policy.script import ScriptedCall, utterance
from tests.server.policy.transcripts import NEGATIVES, POLICIES, TENANTS, Line, call, play, sentences


def policy_of(tenant: str) -> Policy:
    return load_policy(POLICIES / f"{tenant}.yaml")


@pytest.mark.parametrize("tenant", TENANTS)
def test_loads_without_a_warning_and_names_only_labels_that_exist(tenant: str) -> None:
    model = ModelRepository.open(ROOT / "model_repo", weights=False).model("utterance").latest
    outputs: dict[str, frozenset[str] | None] = {"moments": None, "dissatisfied": None, "question": None}
    for tensor, labels in model.labels.items():
        outputs.setdefault(tensor.removesuffix("_logits"), frozenset(labels))
    policy = load_policy(POLICIES / f"{tenant}.yaml", {"guidance": outputs})
    assert policy.tenant == tenant
    assert policy.warnings == ()
    assert 5 <= len(policy.checklist) <= 7
    assert all(len(action.title) <= 50 for action in policy.actions)


def quiet_claims(line: Line, text: str) -> dict[str, Any]:
    """Models that claim nothing but what the script says."""
    del text
    if line.speaker == "agent":
        return {"moments": [], "actions": []}
    silent = {"moments": [], "intent": None, "intent_banking": None, "dissatisfied": {"score": 0.1}, "actions": []}
    return {**silent, "sentiment": {"label": "neutral", "score": 0.9, "scores": {}}, **line.claims}


@pytest.mark.parametrize("tenant", TENANTS)
def test_guides_a_scripted_call(tenant: str) -> None:
    lines = call(tenant)
    running = ScriptedCall(policy_of(tenant))
    shown = play(running, lines, quiet_claims)
    waiting: set[str] = set()
    for line, cards in zip(lines, shown, strict=True):
        assert set(cards) <= waiting | set(line.cards), line.text
        waiting = set(line.cards) - set(cards)  # a full budget may hold a card back for a line
    assert sorted(card for cards in shown for card in cards) == sorted(card for line in lines for card in line.cards)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder()


@pytest.fixture(scope="module")
def ready(encoder: Encoder) -> dict[str, tuple[Policy, Prototypes]]:
    negatives = read_negatives(NEGATIVES)
    negative_vectors = encoder.embed(negatives)
    policies = {}
    for tenant in TENANTS:
        policy = policy_of(tenant)
        spec = prototype_spec(policy)
        built = build_prototypes(spec, encoder.embed(spec.phrases), negatives, negative_vectors)
        policies[tenant] = (policy, built)
    return policies


@pytest.mark.slow
@pytest.mark.parametrize("tenant", TENANTS)
def test_guides_a_call(tenant: str, encoder: Encoder, ready: dict[str, tuple[Policy, Prototypes]]) -> None:
    policy, prototypes = ready[tenant]
    lines = call(tenant)
    running = ScriptedCall(policy, dict(prototypes.thresholds))

    def claims_of(line: Line, text: str) -> dict[str, Any]:
        claims = encoder.claims(text, line.speaker, prototypes.set)
        return {output: claims[output] for output in policy.wanted_outputs}

    shown = play(running, lines, claims_of)
    running.end()
    wanted = {card for line in lines for card in line.cards}
    given = {card for cards in shown for card in cards}
    print(f"\n{tenant}: missed {sorted(wanted - given)}, surplus {sorted(given - wanted)}")
    assert len(wanted - given) <= 1
    assert len(given - wanted) <= 1
    small_talk = [cards for line, cards in zip(lines, shown, strict=True) if line.start_s < 10]
    assert not any(small_talk)
    done = [item for item in running.checklist.items if item.is_done]
    assert len(done) >= len(policy.checklist) - 1


@pytest.mark.slow
@pytest.mark.parametrize("tenant", TENANTS)
def test_finds_moments_in_new_words(tenant: str, encoder: Encoder, ready: dict[str, tuple[Policy, Prototypes]]) -> None:
    policy, prototypes = ready[tenant]
    shows_a_card = frozenset[str]().union(*(action.on for action in policy.actions))
    hits = misses = extras = disturbed = quiet = 0
    for wanted, speaker, text in sentences(f"held_out_{tenant}"):
        matcher = MomentMatcher(RuleBook(policy, prototypes.thresholds))
        spoken = utterance("u1", text, end_s=5, speaker=speaker)
        claims = encoder.claims(text, speaker, prototypes.set)
        events = list(matcher.observe(spoken))
        for output in policy.wanted_outputs:
            annotation = Annotation(
                utterance_id=spoken.utterance_id,
                revision=1,
                output=output,
                value=claims[output],
                score=None,
                model="utterance",
                version=1,
            )
            events += matcher.annotate([annotation])
        absences = {moment.id for moment in policy.moments if moment.is_absence}
        found = {event.moment for event in events if event.change is Change.BEGAN} & shows_a_card - absences
        if wanted == "-":
            quiet += 1
            disturbed += bool(found)
        else:
            hits += wanted in found
            misses += wanted not in found
            extras += len(found - {wanted})
    recall, precision = hits / (hits + misses), hits / (hits + extras)
    print(
        f"\n{tenant}: recall {recall:.2f}, precision {precision:.2f}, disturbed {disturbed} of {quiet} quiet sentences"
    )
    assert recall >= 0.75
    assert precision >= 0.75
    assert disturbed <= 0.07 * quiet
