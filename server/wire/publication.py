"""What the feed carries: one envelope, typed kinds.

A publication is `{ch, ep, off, kind, t, tp, d}`: channel, epoch, offset, kind, stamps, trace context, payload.
Payloads evolve by adding fields with defaults; a reader ignores what it does not know.

Source: DESIGN 14.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, get_args

import msgspec

from server.wire.clock import Stamps
from server.wire.ids import Speaker, UtteranceId
from server.wire.utterance import Origin, Word

Kind = Literal["call", "transcript", "annotation", "action", "checklist", "gap", "translation", "summary", "notice"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class Payload(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Base of every payload. The newest payload of a kind and key replaces the older ones: it is that state."""

    key_fields: ClassVar[tuple[str, ...]] = ()

    def key(self) -> str:
        """Name of the state this payload is, unique within its channel and kind; empty where there is only one."""
        return "/".join([str(getattr(self, name)) for name in self.key_fields])


class CallState(Payload, frozen=True, kw_only=True):
    """Kind `call`: a call began, was held, resumed or ended; on the call's and on the agent's channel.

    Attributes:
        conversation_id: The call.
        state: `started`, `held` or `ended`.
        agent_id: Whose call it is, null while nobody's.
        tenant_id: Owner.
        policy: Name and version of the policy pinned for this call.
        languages: Expected languages, BCP 47.
        reason: Why it ended (`stopped`, `source_lost`, `shutdown`, …).
    """

    key_fields: ClassVar[tuple[str, ...]] = ("conversation_id",)

    conversation_id: str
    state: Literal["started", "held", "ended"]
    agent_id: str | None = None
    tenant_id: str = ""
    policy: str = ""
    languages: tuple[str, ...] = ()
    reason: str = ""


class Transcript(Payload, frozen=True, kw_only=True):
    """Kind `transcript`: one utterance revision. `is_final` is always written, so a reader need not guess."""

    key_fields: ClassVar[tuple[str, ...]] = ("utterance_id",)

    utterance_id: str
    revision: int
    speaker: Speaker
    start_ms: int
    end_ms: int
    text: str
    is_final: bool
    origin: Origin = "speech"
    language: str = "en"
    confidence: float = 1.0
    words: tuple[Word, ...] = ()


class Annotation(Payload, frozen=True, kw_only=True):
    """Kind `annotation`: one graph output for one utterance revision, as its step ends.

    Attributes:
        utterance_id: The utterance it speaks of.
        revision: The revision whose text was read.
        output: Name of the graph output (`intent`, `sentiment`, `moments`, …).
        value: The output's value: an object or a list of objects.
        score: The leading score of the value, 0 to 1; null where the value has none.
        model: Model that claimed it.
        version: That model's version.
        queue_ms: Time its row waited for a batch.
        compute_ms: Time its batch ran.
    """

    key_fields: ClassVar[tuple[str, ...]] = ("utterance_id", "output")

    utterance_id: UtteranceId
    revision: int
    output: str
    value: Any
    score: float | None
    model: str
    version: int
    queue_ms: float = 0.0
    compute_ms: float = 0.0


class Evidence(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why an action fired: the words, the rule, the model.

    Attributes:
        utterance_id: Utterance that triggered it.
        text: Its text at that moment.
        start_ms: Start of the utterance on the audio clock.
        end_ms: End of the utterance on the audio clock.
        speaker: Who said it.
        rule: Path of the rule that fired, such as `moments.warning_light.any[0]`.
        phrase: Example phrase or lexical pattern that matched.
        score: Score that passed the threshold.
        model: Model behind a semantic match; empty for lexical and temporal rules.
        version: Its version.
        is_final: The utterance was final when it fired.
    """

    utterance_id: str
    text: str
    start_ms: int
    end_ms: int
    speaker: Speaker
    rule: str
    phrase: str = ""
    score: float | None = None
    model: str = ""
    version: int = 0
    is_final: bool = True


class Citation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A passage that an answer stands on.

    Attributes:
        source: Article it is of.
        title: Title of the article and headings above the passage.
        text: The passage.
        score: Evidence, comparable within a knowledge base.
        passage_id: Stable as long as source, headings and text are.
        highlights: Start and end of what answers, in characters (code points) of `text`, ascending.
    """

    source: str
    title: str
    text: str
    score: float
    passage_id: str = ""
    highlights: tuple[tuple[int, int], ...] = ()


ActionType = Literal["hint", "checklist", "reply", "answer", "alert"]
ActionStateName = Literal["new", "update", "expire", "retract"]


class Action(Payload, frozen=True, kw_only=True):
    """Kind `action`: one card for the agent, through its life `new → update → expire | retract`.

    Attributes:
        id: Stable over its life, unique within the call.
        revision: 1 and up.
        type: `hint`, `checklist`, `reply` (suggested words), `answer` (from the knowledge base) or `alert`.
        title: One line.
        body: The rest, plain text or the Markdown subset of the agent app.
        priority: 1 (low) to 9 (high).
        ttl_ms: How long it stays useful on the audio clock; the server publishes `expire` then.
        state: Where in its life it is.
        evidence: Why it fired.
        cites: Passages behind an answer.
    """

    key_fields: ClassVar[tuple[str, ...]] = ("id",)

    id: str
    revision: int
    type: ActionType
    title: str
    state: ActionStateName
    priority: int
    ttl_ms: int
    body: str = ""
    reason: str = ""
    evidence: tuple[Evidence, ...] = ()
    cites: tuple[Citation, ...] = ()


class ChecklistItem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One step the agent should do. `done_by` names the utterance that ticked it."""

    id: str
    title: str
    is_done: bool
    done_by: str = ""
    at_ms: int | None = None


class Checklist(Payload, frozen=True, kw_only=True):
    """Kind `checklist`: the whole list, each time one item changes."""

    revision: int
    items: tuple[ChecklistItem, ...]


class Gap(Payload, frozen=True, kw_only=True):
    """Kind `gap`: a stretch of audio with no transcript, told and not hidden.

    Attributes:
        from_ms: First missing millisecond on the audio clock.
        to_ms: First millisecond that is there again; null while it is open.
        cause: `recogniser_lost`, `recogniser_overloaded`, `audio_missing`, …
        state: `open`, `closed` (reported), `backfilled` (repaired) or `lost`.
        speaker: Whose side.
    """

    key_fields: ClassVar[tuple[str, ...]] = ("speaker", "from_ms")

    from_ms: int
    to_ms: int | None
    cause: str
    state: Literal["open", "closed", "backfilled", "lost"]
    speaker: Speaker


class Translation(Payload, frozen=True, kw_only=True):
    """Kind `translation`: the utterance in another language, beside the original."""

    key_fields: ClassVar[tuple[str, ...]] = ("utterance_id", "language")

    utterance_id: str
    language: str
    text: str
    revision: int = 1


class SummarySection(msgspec.Struct, frozen=True, kw_only=True):
    """One titled part of a summary with the utterances it stands on."""

    title: str
    text: str
    evidence: tuple[str, ...] = ()


class Summary(Payload, frozen=True, kw_only=True):
    """Kind `summary`: rolled along during the call, final after it."""

    revision: int
    sections: tuple[SummarySection, ...]
    is_final: bool


class Notice(Payload, frozen=True, kw_only=True):
    """Kind `notice`: something the agent or supervisor should know of the system itself.

    Attributes:
        code: Stable word to act on (`shedding`, `recogniser_failover`, `policy_changed`, …).
        message: Public text.
        severity: `info`, `warning` or `error`.
    """

    key_fields: ClassVar[tuple[str, ...]] = ("code",)

    code: str
    message: str
    severity: Literal["info", "warning", "error"] = "info"


PAYLOADS: dict[Kind, type[Payload]] = {
    "call": CallState,
    "transcript": Transcript,
    "annotation": Annotation,
    "action": Action,
    "checklist": Checklist,
    "gap": Gap,
    "translation": Translation,
    "summary": Summary,
    "notice": Notice,
}

_KIND_OF = {payload: kind for kind, payload in PAYLOADS.items()}


def kind_of(payload: Payload) -> Kind:
    """Kind under which this payload is published."""
    return _KIND_OF[type(payload)]


class Publication(msgspec.Struct, frozen=True, kw_only=True):
    """One item of a channel's log. Encoded once, the same bytes go to every subscriber.

    Attributes:
        ch: Channel as clients name it, `call:<id>` or `agent:<id>`.
        ep: Epoch: the channel's incarnation; offsets of different epochs do not compare.
        off: Offset, 1 and up without holes within the epoch.
        kind: What `d` is.
        t: Stamps of the utterance revision behind it.
        tp: W3C `traceparent`, empty when the call is not traced.
        d: Payload.
    """

    ch: str
    ep: str
    off: int
    kind: Kind
    t: Stamps
    d: Any
    tp: str = ""
