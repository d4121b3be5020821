from __future__ import annotations

import re
from pathlib import Path

import pytest

from server.policy.loading import load_policy, parse_policy
from server.policy.rules import AnyOf, Lexical, OutputIs, Semantic
from server.wire.errors import ConfigError
from tests.server.policy.script import policy_of

GRAPHS = {"guidance": {"intent": frozenset({"oil_change_when", "appointment"}), "sentiment": None, "moments": None}}

WHOLE = """
tenant: shop
version: 3
graph: guidance
languages: [en, es]
outputs: {intent: {min_score: 0.6}, sentiment: {}}
pins: {utterance: 1}
moments:
  - id: light
    speaker: customer
    any:
      - {semantic: ["my service light came on", "a warning light is showing"], threshold: 0.6}
      - {lexical: ["check engine", "oil light"]}
      - {output: {intent: oil_change_when}}
    negatives: ["the traffic lights were out", {lexical: "traffic light*"}]
    once: true
  - id: angry
    speaker: customer
    sentiment: negative
    min_score: 0.8
    for_turns: 2
    cooldown_s: 30
  - id: no_apology
    speaker: agent
    after: angry
    not_within_s: 20
    semantic: "i am sorry about that"
actions:
  - {id: reset, on: light, type: hint, title: "Offer the reset walk-through", priority: 5, ttl_s: 90, knowledge: true}
  - {id: calm, on: [angry, no_apology], type: alert, title: "Say sorry", priority: 9, ttl_s: 20}
attention: {max_cards_per_min: 3, max_wait_s: 8}
checklist:
  - light
  - {id: sorry, title: "Apologise", done_when: {lexical: "sorry|apolog*"}}
knowledge: shop
redaction: {entities: [card_number], audio: silence, live: true}
recording: {enabled: true, consent: explicit, pause_on: light, resume_on: [angry]}
retention: {transcript_days: 30, audio_days: 0}
"""


def test_a_whole_policy() -> None:
    policy = parse_policy(WHOLE, source="shop.yaml", graphs=GRAPHS)
    assert policy.name.startswith("shop@3+")
    assert policy.languages == ("en", "es")
    assert policy.wanted_outputs == ("intent", "sentiment", "moments")
    light, angry, absence, sorry = policy.moments
    assert isinstance(light.condition, AnyOf)
    semantic, lexical, output = light.condition.conditions
    assert isinstance(semantic, Semantic)
    assert (semantic.path, semantic.threshold) == ("moments.light.any[0]", 0.6)
    assert isinstance(lexical, Lexical)
    assert lexical.path == "moments.light.any[1]"
    assert isinstance(output, OutputIs)
    assert (output.output, output.labels, output.min_score) == ("intent", {"oil_change_when"}, 0.6)
    assert [type(negative) for negative in light.negatives] == [Lexical, Semantic]
    assert light.reads == {"moments", "intent"}
    assert isinstance(angry.condition, OutputIs)
    assert (angry.condition.min_score, angry.condition.for_turns, angry.cooldown_s) == (0.8, 2, 30)
    assert absence.is_absence
    assert absence.after == {"angry"}
    assert (sorry.id, sorry.speaker, sorry.once) == ("checklist.sorry", "agent", True)
    assert policy.actions[0].knowledge
    assert policy.action("reset-2") is policy.actions[0]
    assert policy.action("nothing") is None
    assert [step.done_on for step in policy.checklist] == [{"light"}, {"checklist.sorry"}]
    assert (policy.attention.max_cards_per_min, policy.attention.max_wait_s) == (3, 8)
    assert policy.redaction.audio == "silence"
    assert policy.recording.pause_on == "light"
    assert policy.retention.audio_days == 0
    assert policy.warnings == ()


MOMENT = "moments: [{id: a, speaker: customer, %s}]"


@pytest.mark.parametrize(
    ("text", "field", "problem"),
    [
        ("surprise: 1", "surprise", "no such key"),
        ("moments: [{id: a}]", "moments[0].speaker", "is missing"),
        ("moments: [{id: A, speaker: agent, lexical: x}]", "moments[0].id", "lower case"),
        (MOMENT % "lexical: x, colour: red", "moments[0].colour", "no such key"),
        (MOMENT % "any: [{semantic: 3}]", "moments[0].any[0].semantic", "expected"),
        (MOMENT % "any: [{semantic: []}]", "moments[0].any[0].semantic", "no phrase"),
        (MOMENT % "any: [{semantic: ['']}]", "moments[0].any[0].semantic[0]", "length"),
        (MOMENT % "any: [{semantic: ['?!']}]", "moments[0].any[0].semantic[0]", "no word"),
        (MOMENT % "semantic: [hello there, 'Hello, there!']", "moments[0].semantic[1]", "twice"),
        (MOMENT % "any: []", "moments[0].any", "no condition"),
        (MOMENT % "once: true", "moments[0]", "exactly one"),
        (MOMENT % "lexical: x, semantic: y", "moments[0]", "`semantic` and `lexical`"),
        (MOMENT % "all: [{any: [{lexical: '/(/'}]}]", "moments[0].all[0].any[0].lexical", "regular expression"),
        (MOMENT % "lexical: [x, '/(/']", "moments[0].lexical[1]", "regular expression"),
        (MOMENT % "lexical: '/x(a+)+y/'", "moments[0].lexical", "can take for ever"),
        (MOMENT % "lexical: '/x(?:(?:a|b*) )*y/'", "moments[0].lexical", "can take for ever"),
        (MOMENT % "lexical: x, threshold: 0.5", "moments[0].threshold", "semantic"),
        (MOMENT % "lexical: x, for_turns: 2", "moments[0].for_turns", "sentiment"),
        (MOMENT % "semantic: x, min_score: 0.5", "moments[0].min_score", "sentiment"),
        (MOMENT % "semantic: x, threshold: 1.5", "moments[0].threshold", "<= 1"),
        (MOMENT % "output: {mood: bad}", "moments[0].output.mood", "not among"),
        (MOMENT % "output: {}", "moments[0].output", "exactly one output"),
        (MOMENT % "output: {intent: x, sentiment: y}", "moments[0].output", "exactly one output"),
        (MOMENT % "output: {intent: [1]}", "moments[0].output.intent", "label"),
        (MOMENT % "output: {intent: x, min_score: 7}", "moments[0].output.min_score", "0 to 1"),
        (MOMENT % "lexical: x, after: b", "moments[0].after", "no moment `b`"),
        (MOMENT % "lexical: x, after: a", "moments[0].after", "depend on itself"),
        (MOMENT % "lexical: x, within_s: 3", "moments[0].within_s", "after"),
        (MOMENT % "lexical: x, not_within_s: 0", "moments[0].not_within_s", "> 0"),
        (MOMENT % "lexical: x, negatives: [{}]", "moments[0].negatives[0]", "lexical"),
        (MOMENT % "semantic: x y, negatives: ['X, y']", "moments[0].negatives", "itself"),
        (MOMENT % "lexical: x, on: never", "moments[0].on", "never"),
        (
            "moments: [{id: a, speaker: agent, lexical: x}, {id: a, speaker: agent, lexical: y}]",
            "moments[1].id",
            "already",
        ),
        (
            "moments: [{id: a, speaker: agent, lexical: x, after: b}, {id: b, speaker: agent, lexical: y, after: a}]",
            "moments[0].after",
            "depend on itself",
        ),
        (MOMENT % "any: [{moment: a}]", "moments[0].moment", "depend on itself"),
        (MOMENT % "moment: b", "moments[0].moment", "no moment `b`"),
        (MOMENT % "moment: []", "moments[0].moment", "no moment"),
        (
            "moments: [{id: a, speaker: agent, lexical: x}, {id: b, speaker: customer, any: [{moment: a}]}]",
            "moments[1].any[0].moment",
            "what the agent says",
        ),
        ("actions: [{id: c, on: b, type: hint, title: T}]", "actions[0].on", "no moment `b`"),
        ("actions: [{id: c, on: [], type: hint, title: T}]", "actions[0].on", "no moment"),
        ("actions: [{id: c, on: b, type: hint, title: T, ttl_s: 0}]", "actions[0].ttl_s", "> 0"),
        ("actions: [{id: c, on: b, type: hint, title: T, priority: 10}]", "actions[0].priority", "<= 9"),
        ("actions: [{id: c, on: b, type: song, title: T}]", "actions[0].type", "song"),
        ("attention: {max_cards_per_min: 0}", "attention.max_cards_per_min", ">= 1"),
        (
            "attention: {max_cards_per_min: 2, reserved_for_urgent: 2}",
            "attention.reserved_for_urgent",
            "leaves nothing",
        ),
        ("checklist: [greet, greet]", "checklist[1].id", "already"),
        ("checklist: [{id: x, done_when: {moment: y}}]", "checklist[0].done_when.moment", "no moment"),
        (
            "checklist: [{id: x, done_when: {moment: y, lexical: z}}]",
            "checklist[0].done_when",
            "`lexical` and `moment`",
        ),
        ("checklist: [{id: x, done_when: {any: [{lexical: '!'}]}}]", "checklist[0].done_when.any[0].lexical", "word"),
        ("redaction: {entities: [shoe_size]}", "redaction.entities[0]", "shoe_size"),
        ("recording: {pause_on: b}", "recording.pause_on", "no moment"),
        ("retention: {audio_days: -1}", "retention.audio_days", ">= 0"),
        ("languages: [english please]", "languages[0]", "BCP 47"),
        ("outputs_: {}", "outputs_", "no such key"),
        ("pins: {Utterance: 1}", "pins.Utterance", "lower case"),
        ("pins: {utterance: 0}", "pins.utterance", ">= 1"),
        ("checklist: [Greet]", "checklist[0]", "lower case"),
        ("tenant: again", "line 7", "given twice"),
        ("moments: [", "line 7", "expected"),
    ],
)
def test_a_mistake_is_named_by_its_path(text: str, field: str, problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        policy_of("\n" + text)
    assert error.value.field == f"shop.yaml: {field}"
    assert problem in error.value.message


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (WHOLE.replace("graph: guidance", "graph: other"), "graph"),
        (WHOLE.replace("outputs: {", "outputs: {mood: {}, "), "outputs.mood"),
        (WHOLE.replace("sentiment: {}}", "sentiment: {min_score: high}}"), "outputs.sentiment.min_score"),
        (WHOLE.replace("intent: oil_change_when", "intent: oil_chnage"), "moments[0].any[2].output.intent"),
        (WHOLE.replace("knowledge: shop", ""), "actions[0].knowledge"),
        (WHOLE.replace("on: [angry, no_apology]", "on: angry, retract_on: angry"), "actions[1].retract_on"),
    ],
)
def test_a_policy_is_checked_against_its_graph_and_itself(text: str, field: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_policy(text, source="shop.yaml", graphs=GRAPHS)
    assert error.value.field == f"shop.yaml: {field}"


def test_suspicions_are_reported_not_refused() -> None:
    policy = policy_of("""
moments:
  - {id: a, speaker: customer, semantic: [where is my parcel]}
  - {id: b, speaker: customer, any: [{semantic: ["Where is my parcel?"]}, {lexical: parcel}]}
  - {id: c, speaker: agent, semantic: [where is my parcel]}
actions: [{id: x, on: [a, c], type: hint, title: T}]
""")
    assert [warning.split(": ", 1)[1] for warning in policy.warnings] == [
        "moments[1]: nothing uses `b`",
        "moments.b.any[0]: `Where is my parcel?` is an example of `moments.a` too",
    ]
    without_actions = parse_policy("{tenant: t, version: 1, graph: guidance, checklist: [wave]}", source="t.yaml")
    assert "nothing ticks it" in without_actions.warnings[0]


@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff\xfe\x00", b"a: !!python/object:os.system {}", b"a: b: c"])
def test_what_is_no_policy_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as error:
        load_policy(path)
    assert str(error.value.field).startswith("x.yaml")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_policy(tmp_path / "none.yaml")


def test_the_example_of_the_design_loads() -> None:
    text = """
tenant: car_service
version: 3
graph: guidance
languages: [en]
outputs: {intent: {min_score: 0.6}, sentiment: {}, actions: {min_score: 0.5}}
moments:
  - id: warning_light
    speaker: customer
    any: [{semantic: ["the oil light is still on", "my service light came on"]}, {lexical: "check engine"}]
    once: true
  - id: frustrated_customer
    speaker: customer
    sentiment: negative
  - id: no_apology
    speaker: agent
    after: frustrated_customer
    not_within_s: 20
    semantic: ["i'm sorry about that", "i apologise for the inconvenience"]
actions:
  - {id: reset_light, on: warning_light, type: hint, title: "Offer the reset", priority: 5, ttl_s: 90, knowledge: true}
  - {id: say_sorry, on: no_apology, type: hint, title: "Say sorry"}
attention: {max_cards_per_min: 4}
checklist: [greet, verify_name, confirm_model, offer_appointment, close]
knowledge: car_service
"""
    policy = parse_policy(text, source="car_service.yaml")
    assert len(policy.checklist) == 5
    assert policy.warnings == ()


def test_labels_narrow_an_output_to_what_makes_sense() -> None:
    own = parse_policy(
        WHOLE.replace("{min_score: 0.6}", "{labels: [oil_change_when]}"), source="shop.yaml", graphs=GRAPHS
    )
    assert own.labels == {"intent": frozenset({"oil_change_when"})}
    for labels, path, problem in (
        ("[oil_change_when, weather]", r"outputs\.intent\.labels\[1\]", "no label `weather`"),
        ("[appointment]", r"moments\[0\]\.any\[2\]\.output\.intent", "not among the `labels`"),
    ):
        with pytest.raises(ConfigError, match=problem) as caught:
            parse_policy(WHOLE.replace("{min_score: 0.6}", f"{{labels: {labels}}}"), source="shop.yaml", graphs=GRAPHS)
        assert re.search(path, caught.value.field or "")
