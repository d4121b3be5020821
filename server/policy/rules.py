"""The compiled policy: what `server.policy.validation` makes of a document. Frozen, shared by all calls that pin it.

Every condition carries its `path`, such as `moments.warning_light.any[0]`. The path is the rule named in a card's
evidence, and for a semantic condition also its label in the `moments` output of the graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from server.policy.document import AssistTrigger, RecordingDocument, RedactionDocument, RetentionDocument, Trigger
from server.policy.words import WordPattern
from server.wire.ids import Speaker
from server.wire.publication import ActionType

SEMANTIC_OUTPUT = "moments"
"""Graph output that carries the claims of semantic conditions."""
ACTIONS_OUTPUT = "actions"
"""Graph output that tells what the agent does or should do: labels of the model, and the tenant's own."""
QUESTION_OUTPUT = "question"
"""Graph output that tells whether an utterance asks something."""

KEEP_MARGIN = 0.1
"""A claim made on an interim is kept by the final down to this much below the threshold: a few words more dilute a
similarity without unsaying what was said. Prototypes are therefore listed from this much below their threshold."""


@dataclass(frozen=True, slots=True)
class Semantic:
    """Means the same as one of the phrases. `threshold` None: calibrated."""

    path: str
    phrases: tuple[str, ...]
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class Lexical:
    """One of the patterns occurs in the words."""

    path: str
    patterns: tuple[WordPattern, ...]


@dataclass(frozen=True, slots=True)
class OutputIs:
    """A graph output claims one of the labels (any, where there are none: the score alone decides).

    Attributes:
        path: Rule path.
        output: Graph output.
        labels: Wanted labels.
        min_score: Lowest score believed.
        for_turns: So many turns of the speaker in a row, this one included.
    """

    path: str
    output: str
    labels: frozenset[str]
    min_score: float
    for_turns: int = 1


@dataclass(frozen=True, slots=True)
class AnyOf:
    """One of them holds."""

    path: str
    conditions: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class AllOf:
    """All of them hold."""

    path: str
    conditions: tuple[Condition, ...]


Condition: TypeAlias = Semantic | Lexical | OutputIs | AnyOf | AllOf
Leaf: TypeAlias = Semantic | Lexical | OutputIs


def leaves(condition: Condition) -> Iterator[Leaf]:
    """All leaves of a condition, in the order written."""
    if isinstance(condition, AnyOf | AllOf):
        for inner in condition.conditions:
            yield from leaves(inner)
    else:
        yield condition


def outputs_read(condition: Condition) -> frozenset[str]:
    """Graph outputs that a condition looks at."""
    names = set()
    for leaf in leaves(condition):
        if isinstance(leaf, Semantic):
            names.add(SEMANTIC_OUTPUT)
        elif isinstance(leaf, OutputIs):
            names.add(leaf.output)
    return frozenset(names)


@dataclass(frozen=True, slots=True)
class Moment:
    """One rule of the matcher; see `MomentDocument` for the meaning of the fields.

    `path` is `moments.<id>`, or `checklist.<id>` for a step that has its own condition. `reads` names the graph
    outputs that can change it; the words always can.
    """

    id: str
    path: str
    speaker: Speaker
    condition: Condition
    on: Trigger = "stable"
    negatives: tuple[Semantic | Lexical, ...] = ()
    after: frozenset[str] = frozenset()
    before: frozenset[str] = frozenset()
    within_s: float | None = None
    not_within_s: float | None = None
    once: bool = False
    cooldown_s: float = 0.0
    reads: frozenset[str] = frozenset()

    @property
    def is_absence(self) -> bool:
        """It happens when something is not said."""
        return self.not_within_s is not None


@dataclass(frozen=True, slots=True)
class ActionRule:
    """One kind of card; see `ActionDocument`."""

    id: str
    on: frozenset[str]
    type: ActionType
    title: str
    body: str = ""
    priority: int = 5
    ttl_s: float = 60.0
    knowledge: bool = False
    retract_on: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the checklist, ticked by any of these moments."""

    id: str
    title: str
    done_on: frozenset[str]


@dataclass(frozen=True, slots=True)
class Attention:
    """How much an agent can take in; see `AttentionDocument`."""

    max_cards_per_min: int = 4
    reserved_for_urgent: int = 0
    max_wait_s: float = 15.0


@dataclass(frozen=True, slots=True)
class OwnAction:
    """A label of the `actions` output that the tenant defines by example; see `ExamplesDocument`.

    `path` is `outputs.actions.examples.<name>`. `threshold` None: calibrated.
    """

    name: str
    path: str
    speaker: Speaker
    phrases: tuple[str, ...]
    threshold: float | None = None


ANSWER = "knowledge.answer"
"""Id of the rule behind cards of the knowledge base; no action of a policy can have it."""


@dataclass(frozen=True, slots=True)
class Assist:
    """When the knowledge base is asked by itself; see `AssistDocument`."""

    on: frozenset[AssistTrigger] = frozenset({"question", "checking"})
    min_score: float | None = None
    checking: tuple[WordPattern, ...] = ()
    priority: int = 7
    ttl_s: float = 90.0
    max_shown: int = 2

    @property
    def rule(self) -> ActionRule:
        """The rule that answers are shown by."""
        return ActionRule(ANSWER, frozenset(), "answer", "", priority=self.priority, ttl_s=self.ttl_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One version of one tenant's policy.

    Attributes:
        tenant: Whose calls it guides.
        version: As declared.
        digest: Of the file's text; tells apart two files that claim the same version.
        graph: Product graph.
        languages: Expected languages.
        keyterms: What a recogniser should know.
        outputs: Graph outputs wanted, with the threshold of each (None: the output's own).
        labels: Labels of an output that make sense for the tenant; outputs that are absent keep all.
        own_actions: Labels of `actions` by example, in the order declared.
        pins: Model name to pinned version.
        moments: In the order declared; steps with their own condition come last.
        actions: In the order declared.
        attention: The budget.
        checklist: In the order declared.
        knowledge: Knowledge base, None where there is none.
        assist: When it is asked by itself.
        redaction: As declared.
        recording: As declared.
        retention: As declared.
        warnings: What is allowed but probably not meant, each with its path.
    """

    tenant: str
    version: int
    digest: str
    graph: str
    languages: tuple[str, ...] = ("en",)
    keyterms: tuple[str, ...] = ()
    outputs: Mapping[str, float | None] = field(default_factory=dict)
    labels: Mapping[str, frozenset[str]] = field(default_factory=dict)
    own_actions: tuple[OwnAction, ...] = ()
    pins: Mapping[str, int] = field(default_factory=dict)
    moments: tuple[Moment, ...] = ()
    actions: tuple[ActionRule, ...] = ()
    attention: Attention = Attention()
    checklist: tuple[Step, ...] = ()
    knowledge: str | None = None
    assist: Assist = field(default_factory=Assist)
    redaction: RedactionDocument = field(default_factory=RedactionDocument)
    recording: RecordingDocument = field(default_factory=RecordingDocument)
    retention: RetentionDocument = field(default_factory=RetentionDocument)
    warnings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Tenant, version and digest, as pinned by a call: `car_service@3+1f0c9a2b`."""
        return f"{self.tenant}@{self.version}+{self.digest}"

    @property
    def wanted_outputs(self) -> tuple[str, ...]:
        """Graph outputs to compile for: those declared, and those that conditions, examples and assist read."""
        read = frozenset[str]().union(*(moment.reads for moment in self.moments))
        if self.own_actions:
            read |= {SEMANTIC_OUTPUT}
        if self.knowledge is not None and "question" in self.assist.on:
            read |= {QUESTION_OUTPUT}
        return tuple(dict.fromkeys((*self.outputs, *sorted(read))))

    def action(self, action_id: str) -> ActionRule | None:
        """The rule behind a card id (`<action>-<n>`) or an action id."""
        wanted = action_id.rpartition("-")[0] or action_id
        return next((action for action in self.actions if action.id == wanted), None)
