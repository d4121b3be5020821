"""A policy as written: the structs of the YAML, nothing compiled. Unknown keys are refused.

`docs/policies.md` shows every key with an example; `server.policy.validation` checks what a type cannot say.

Source: DESIGN 15.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from server.wire.ids import Speaker
from server.wire.publication import ActionType

# Names and language tags are checked in `validation`: a `Meta(pattern=…)` in these structs makes msgspec 0.22 crash the
# interpreter at exit (msgspec issue 717).
Id = str
Title = Annotated[str, Meta(min_length=1, max_length=120)]
Body = Annotated[str, Meta(max_length=1000)]
Phrase = Annotated[str, Meta(min_length=1, max_length=300)]
Score = Annotated[float, Meta(ge=0.0, le=1.0)]
PositiveSeconds = Annotated[float, Meta(gt=0.0, le=86_400.0)]
Priority = Annotated[int, Meta(ge=1, le=9)]
Version = Annotated[int, Meta(ge=1)]
Entity = Literal[
    "name",
    "address",
    "date_of_birth",
    "phone",
    "email",
    "card_number",
    "card_code",
    "pin",
    "account_number",
    "national_id",
    "vehicle_id",
    "passcode",
]
Trigger = Literal["interim", "stable", "final"]


class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all parts of a policy file."""


class ConditionDocument(Document, frozen=True, kw_only=True):
    """One condition: exactly one of `semantic`, `lexical`, `output`, `sentiment`, `moment`, `any`, `all`.

    Attributes:
        semantic: Example phrases; holds when the utterance means the same as one of them.
        threshold: Lowest similarity for `semantic`; calibrated from the phrases where absent.
        lexical: Patterns over the words; holds when one of them occurs.
        output: One graph output and the labels wanted, e.g. `{intent: [a, b], min_score: 0.6}`; `true` for an output
            that is a bare score.
        sentiment: Short for `output: {sentiment: …}`.
        min_score: Lowest score for `sentiment`.
        for_turns: `sentiment` and `output`: so many turns of this speaker in a row.
        moment: Holds when the condition of this moment (of one of these) of the same speaker holds.
        any: Holds when one of these holds.
        all: Holds when all of these hold.
    """

    semantic: Phrase | list[Phrase] | None = None
    threshold: Score | None = None
    lexical: Phrase | list[Phrase] | None = None
    output: dict[str, Any] | None = None
    sentiment: Literal["negative", "neutral", "positive"] | None = None
    min_score: Score | None = None
    for_turns: Annotated[int, Meta(ge=1, le=20)] | None = None
    moment: Id | list[Id] | None = None
    any: list[ConditionDocument] | None = None
    all: list[ConditionDocument] | None = None


class NegativeDocument(Document, frozen=True, kw_only=True):
    """What vetoes a moment: phrases that mean something else, or words that rule it out."""

    semantic: Phrase | list[Phrase] | None = None
    lexical: Phrase | list[Phrase] | None = None


class MomentDocument(ConditionDocument, frozen=True, kw_only=True):
    """A business event: a condition on one speaker's words, bounded in time.

    Attributes:
        id: Unique among moments.
        speaker: Whose words.
        on: `interim` as soon as it holds, `stable` when it held on two interims in a row or on the final, `final`.
        after: The moment (or one of the moments) that must have happened before; start of the interval.
        before: The moment (or one of the moments) that must not have happened yet; end of the interval.
        within_s: Only within so many seconds of `after`.
        not_within_s: Turns the moment round: it happens when the condition did not hold within so many seconds of
            `after` (of the start of the call where there is none), or at `before` if that comes first.
        negatives: What vetoes it.
        once: At most once a call.
        cooldown_s: Not again within so many seconds.
    """

    id: Id
    speaker: Speaker
    on: Trigger = "stable"
    after: Id | list[Id] | None = None
    before: Id | list[Id] | None = None
    within_s: PositiveSeconds | None = None
    not_within_s: PositiveSeconds | None = None
    negatives: list[Phrase | NegativeDocument] = []
    once: bool = False
    cooldown_s: Annotated[float, Meta(ge=0.0, le=86_400.0)] = 0.0


class ActionDocument(Document, frozen=True, kw_only=True):
    """A card for the agent.

    Attributes:
        id: Unique among actions; cards are `<id>-1`, `<id>-2`, …
        on: The moment, or one of the moments, that shows it.
        type: What kind of card.
        title: One line, what to do.
        body: The rest.
        priority: 1 to 9. Under pressure the highest priority x score goes first; an alert of 9 is never held back.
        ttl_s: How long it stays useful after the words that called for it.
        knowledge: The knowledge base should add its passage to the card.
        retract_on: Moments that make it pointless.
    """

    id: Id
    on: Id | list[Id]
    type: ActionType
    title: Title
    body: Body = ""
    priority: Priority = 5
    ttl_s: PositiveSeconds = 60.0
    knowledge: bool = False
    retract_on: Id | list[Id] = []


class AttentionDocument(Document, frozen=True, kw_only=True):
    """How much an agent can take in.

    Attributes:
        max_cards_per_min: New cards in any sixty seconds.
        reserved_for_urgent: So many of them only for cards of priority 7 and above.
        max_wait_s: A card that could not be shown for so long is dropped unseen.
    """

    max_cards_per_min: Annotated[int, Meta(ge=1, le=60)] = 4
    reserved_for_urgent: Annotated[int, Meta(ge=0, le=59)] = 0
    max_wait_s: PositiveSeconds = 15.0


class StepDocument(Document, frozen=True, kw_only=True):
    """One step of the checklist. A bare id is ticked by the moment, else by the `actions` label, of that name.

    Attributes:
        id: Unique among steps.
        title: What the agent reads; made of the id where absent.
        done_when: A condition on the speaker's words, or `moment`: the moments that tick it.
        speaker: Whose words tick it.
    """

    id: Id
    title: Title | None = None
    done_when: ConditionDocument | None = None
    speaker: Speaker = "agent"


class ExamplesDocument(Document, frozen=True, kw_only=True):
    """One label of the tenant's own, by example.

    Attributes:
        phrases: What is said when it applies.
        speaker: Who says it.
        threshold: Lowest similarity; calibrated from the phrases where absent.
    """

    phrases: list[Phrase]
    speaker: Speaker = "agent"
    threshold: Score | None = None


class OutputDocument(Document, frozen=True, kw_only=True):
    """One graph output this policy wants.

    Attributes:
        min_score: Lowest score at which it believes a label.
        labels: Labels that make sense for this tenant; a claim of another one is marked as out of scope. All where
            absent.
        examples: Labels of the tenant's own, beside those of the model; of `actions` alone.
    """

    min_score: Score | None = None
    labels: list[str] | None = None
    examples: dict[Id, ExamplesDocument] = {}


class RedactionDocument(Document, frozen=True, kw_only=True):
    """What must never be kept in the clear.

    Attributes:
        entities: Kinds of personal data to remove.
        audio: What replaces them in the recording.
        live: Mask them on the agent's screen as well.
    """

    entities: list[Entity] = []
    audio: Literal["beep", "silence", "keep"] = "beep"
    live: bool = False


class RecordingDocument(Document, frozen=True, kw_only=True):
    """Whether and when audio is kept.

    Attributes:
        enabled: False: no audio object is ever written.
        consent: What the law of the place asks for.
        pause_on: Moments that pause the recording, such as a card number being read out.
        resume_on: Moments that resume it.
    """

    enabled: bool = True
    consent: Literal["none", "announced", "explicit"] = "announced"
    pause_on: Id | list[Id] = []
    resume_on: Id | list[Id] = []


AssistTrigger = Literal["question", "checking"]


class AssistDocument(Document, frozen=True, kw_only=True):
    """When the knowledge base is asked by itself, and how its answers are shown.

    Attributes:
        on: `question`: the customer asks; `checking`: the agent says that they are looking it up. Both where absent,
            as far as the graph tells questions.
        min_score: Lowest score of the output `question` that is believed; the model's own threshold where absent.
        checking: Patterns of what an agent says who is looking something up.
        priority: Of an answer, as an action's; from 7 on it may use the attention that is reserved for urgent cards.
        ttl_s: How long an answer stays after the question.
        max_shown: Answers on the screen at once; one more takes the place of the oldest.
    """

    on: tuple[AssistTrigger, ...] | None = None
    min_score: Score | None = None
    checking: tuple[Phrase, ...] = (
        "let me|us check|look|see|find",
        "i will|can check|look|find out",
        "going to|gonna check|look|find",
        "checking|looking that|this|it for",
        "moment|second while i",
    )
    priority: Priority = 7
    ttl_s: PositiveSeconds = 90.0
    max_shown: Annotated[int, Meta(ge=1, le=9)] = 2


Days = Annotated[int, Meta(ge=0, le=36_500)]


class RetentionDocument(Document, frozen=True, kw_only=True):
    """How long things are kept, in days; 0: not beyond the work after the call."""

    transcript_days: Days = 365
    audio_days: Days = 90
    analytics_days: Days = 730


class PolicyDocument(Document, frozen=True, kw_only=True):
    """One tenant's policy file.

    Attributes:
        tenant: Whose calls it guides.
        version: Grows with every change; pinned per call.
        graph: The product graph it reads.
        languages: Expected languages, BCP 47, most likely first.
        keyterms: Words and names that a recogniser should know: products, places, people.
        outputs: Graph outputs wanted and their thresholds.
        pins: Model name to version, for a policy that must not follow a new model yet.
        moments: What to notice.
        actions: What to show.
        attention: How much of it.
        checklist: What the agent should do.
        knowledge: Name of the knowledge base.
        assist: When it is asked by itself.
        redaction: What is removed.
        recording: Whether audio is kept.
        retention: How long.
    """

    tenant: str
    version: Version
    graph: Id
    languages: Annotated[tuple[str, ...], Meta(min_length=1)] = ("en",)
    keyterms: Annotated[tuple[Annotated[str, Meta(min_length=2, max_length=60)], ...], Meta(max_length=100)] = ()
    outputs: dict[Id, OutputDocument] = {}
    pins: dict[Id, Version] = {}
    moments: list[MomentDocument] = []
    actions: list[ActionDocument] = []
    attention: AttentionDocument = AttentionDocument()
    checklist: list[Id | StepDocument] = []
    knowledge: Id | None = None
    assist: AssistDocument = AssistDocument()
    redaction: RedactionDocument = RedactionDocument()
    recording: RecordingDocument = RecordingDocument()
    retention: RetentionDocument = RetentionDocument()
