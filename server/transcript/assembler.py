"""Turns what a recogniser says into utterances: one bubble per stretch of speech, revisions that only grow.

    Interim ──▶ opens a bubble or revises it       Final ──▶ closes it       EndOfSpeech, Covered ──▶ close what is left

The promises, each a property test:

- a bubble keeps its id and `start_ms`; its revision grows by one with every change, and only with a change;
- while it is open its `end_ms` never decreases. The final's own end counts, even if shorter: a source resumes its
  audio from the end of the last final, and a longer claim would swallow words;
- nothing of an interim follows the final, however late or often it arrives: closed audio is known by its time;
- a final is said once, whatever is delivered twice; an empty final closes: what was never shown stays unsaid, what was
  shown is published once more, empty, so that screens can remove it;
- both speakers are independent.

A recogniser whose finals are parts of a sentence decides in its adapter what is a `Final` here (vendor flags are mapped
once). Pure, single-threaded: one `Assembler` a call. Source: DESIGN 5.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from msgspec import structs

from server.speech.contract import Closed, Covered, EndOfSpeech, Final, Interim, SpeechEvent, SpeechGap, SpeechStarted
from server.transcript.spans import Spans
from server.wire.errors import BadMessage
from server.wire.ids import ConversationId, Speaker, TenantId, UtteranceId
from server.wire.ingest import UtteranceIn
from server.wire.utterance import Origin, Utterance

ADOPT_WITHIN_MS = 500
"""After a resume, speech that begins this close to an unfinished bubble continues it: a recogniser that starts inside a
word finds its beginning some frames off."""

MAX_OPEN = 8
"""Bubbles of one speaker waiting for their final: a recogniser that never closes costs its oldest wait, not memory."""

_SPEECH_ID = re.compile(r"(customer|agent)-(\d+)(\.\d+)?")


@dataclass(slots=True)
class _Bubble:
    """An utterance that waits for its final. Once `utterance.is_final`, only a differing final may still revise it.

    Attributes:
        utterance: Its newest revision.
        heard_ms: Start that the recogniser gives it; differs from the utterance's own where that one was adopted.
    """

    utterance: Utterance
    heard_ms: int

    def is_same(self, start_ms: int, end_ms: int) -> bool:
        """The same start, or more than half of the shorter one's time in common."""
        if self.heard_ms == start_ms:
            return True
        common_ms = min(self.utterance.end_ms, end_ms) - max(self.utterance.start_ms, start_ms)
        shorter_ms = min(self.utterance.end_ms - self.utterance.start_ms, end_ms - start_ms)
        return shorter_ms > 0 and 2 * common_ms > shorter_ms


@dataclass(slots=True)
class _Side:
    """What is known of one speaker.

    Attributes:
        open: Bubbles that wait for their final, oldest first; mostly one.
        closed: Audio that is done with.
        closed_starts: Starts of closed bubbles: the same start is the same speech, however long it claims to be.
        orphans: Bubbles that an earlier life of this call left unfinished; id to start.
    """

    open: list[_Bubble] = field(default_factory=list)
    closed: Spans = field(default_factory=Spans)
    closed_starts: set[int] = field(default_factory=set)
    orphans: dict[str, int] = field(default_factory=dict)

    def is_closed(self, start_ms: int, end_ms: int) -> bool:
        """Whether this speech was closed before: the same start, or more than half of its time."""
        if start_ms in self.closed_starts:
            return True
        if end_ms <= start_ms:
            return start_ms in self.closed
        return 2 * self.closed.overlap_ms(start_ms, end_ms) > end_ms - start_ms

    def matching(self, start_ms: int, end_ms: int) -> list[_Bubble]:
        """Open bubbles that are this speech, oldest first."""
        return [bubble for bubble in self.open if bubble.is_same(start_ms, end_ms)]

    def close(self, bubble: _Bubble, end_ms: int) -> None:
        """Nothing more is expected of this bubble."""
        self.open.remove(bubble)
        self.closed_starts.add(bubble.heard_ms)
        self.closed.add(bubble.utterance.start_ms, end_ms)


class Assembler:
    """Utterances of one call.

    Args:
        tenant_id: Owner of the call.
        conversation_id: The call.
        known: Utterance id to (highest stored revision, is_final) of an earlier life of this call, as
            `Store.revisions` gives them.
        language: Language of transcript sources that name none, BCP 47.
    """

    def __init__(
        self,
        tenant_id: TenantId,
        conversation_id: ConversationId,
        known: Mapping[str, tuple[int, bool]] | None = None,
        *,
        language: str = "en",
    ) -> None:
        self._tenant_id = tenant_id
        self._conversation_id = conversation_id
        self._language = language
        self._revisions: dict[str, tuple[int, bool]] = dict(known or {})
        self._sides: dict[Speaker, _Side] = {"customer": _Side(), "agent": _Side()}
        for utterance_id, (_, is_final) in self._revisions.items():
            match = _SPEECH_ID.fullmatch(utterance_id)
            if match and not is_final:
                side = self._sides["customer" if match[1] == "customer" else "agent"]
                side.orphans[utterance_id] = int(match[2])

    @property
    def revisions(self) -> Mapping[str, tuple[int, bool]]:
        """Utterance id to (highest revision, is_final): what a next life of this call has to know."""
        return self._revisions

    def on_speech(
        self, speaker: Speaker, event: SpeechEvent, now_s: float, *, origin: Origin = "speech"
    ) -> tuple[Utterance, ...]:
        """Revisions to publish for one recogniser event, in order; mostly none or one.

        Args:
            speaker: Whose stream it came from.
            event: Any speech event; those without consequence for the text give nothing.
            now_s: Monotonic time, as every stage takes it. No rule here depends on it: audio time is the clock.
            origin: `backfill` for a repaired gap.
        """
        match event:
            case Interim():
                return tuple(self._on_interim(speaker, event, origin))
            case Final():
                return tuple(self._on_final(speaker, event, origin))
            case EndOfSpeech(covered_ms=covered_ms) | Covered(covered_ms=covered_ms):
                return tuple(self._settle(speaker, covered_ms))
            case Closed(error=None):
                return tuple(self._settle(speaker, None))
            case SpeechStarted() | SpeechGap() | Closed():
                return ()

    def on_utterance(self, utterance: UtteranceIn) -> Utterance | None:
        """The revision to publish for one message of a transcript source, which keeps its own ids and revisions.

        Returns:
            None if its revision is not higher than the known one, or if it would replace a final by an interim: it is
            to be acknowledged and ignored.

        Raises:
            BadMessage: It ends before it starts.
        """
        if utterance.end_ms < utterance.start_ms:
            raise BadMessage("the utterance ends before it starts", field="end_ms")
        known = self._revisions.get(utterance.utterance_id)
        if known is not None and (utterance.revision <= known[0] or (known[1] and not utterance.is_final)):
            return None
        self._revisions[utterance.utterance_id] = (utterance.revision, utterance.is_final)
        return Utterance(
            tenant_id=self._tenant_id,
            conversation_id=self._conversation_id,
            utterance_id=UtteranceId(utterance.utterance_id),
            speaker=utterance.speaker,
            start_ms=utterance.start_ms,
            end_ms=utterance.end_ms,
            revision=utterance.revision,
            text=_normalised(utterance.text),
            words=utterance.words,
            language=utterance.language or self._language,
            is_final=utterance.is_final,
            origin="transcript",
        )

    def close(self) -> tuple[Utterance, ...]:
        """The call is over: what is still open becomes final as it stands. Idempotent."""
        return tuple(utterance for speaker in self._sides for utterance in self._settle(speaker, None))

    def _on_interim(self, speaker: Speaker, event: Interim, origin: Origin) -> Iterator[Utterance]:
        side, text = self._sides[speaker], _normalised(event.text)
        matching = side.matching(event.start_ms, event.end_ms)
        if not text:
            return
        if matching:
            bubble = matching[0]
            current = bubble.utterance
            if not current.is_final and text != current.text:
                bubble.utterance = self._revised(current, event, text, max(current.end_ms, event.end_ms))
                yield bubble.utterance
        elif not side.is_closed(event.start_ms, event.end_ms):
            if len(side.open) == MAX_OPEN:
                oldest = side.open[0]
                yield from self._settle_bubble(side, oldest)
                side.close(oldest, oldest.utterance.end_ms)
            bubble = _Bubble(self._begun(speaker, event, text, origin), event.start_ms)
            side.open.append(bubble)
            yield bubble.utterance

    def _on_final(self, speaker: Speaker, event: Final, origin: Origin) -> Iterator[Utterance]:
        side, text = self._sides[speaker], _normalised(event.text)
        matching = side.matching(event.start_ms, event.end_ms)
        if matching:
            first, *merged = matching
            current = first.utterance
            end_ms = max(current.start_ms, event.end_ms)
            side.close(first, end_ms)
            if not current.is_final or text != current.text:
                yield self._revised(current, event, text, end_ms)
            for bubble in merged:  # the recogniser took several stretches for one after all
                side.close(bubble, end_ms)
                yield self._retracted(bubble.utterance)
        elif not side.is_closed(event.start_ms, event.end_ms):
            side.closed.add(event.start_ms, event.end_ms)
            side.closed_starts.add(event.start_ms)
            if text:
                yield self._begun(speaker, event, text, origin)

    def _settle(self, speaker: Speaker, covered_ms: int | None) -> Iterator[Utterance]:
        """Everything that began before `covered_ms` (None: everything) has been said, final or not."""
        side = self._sides[speaker]
        for bubble in tuple(side.open):
            if covered_ms is None or bubble.utterance.start_ms < covered_ms:
                yield from self._settle_bubble(side, bubble)
        for utterance_id, start_ms in tuple(side.orphans.items()):
            if covered_ms is None or start_ms < covered_ms:
                # Its audio has been heard again and is in other bubbles by now.
                del side.orphans[utterance_id]
                yield self._retracted(self._blank(speaker, utterance_id, start_ms))

    def _settle_bubble(self, side: _Side, bubble: _Bubble) -> Iterator[Utterance]:
        """Make an open bubble final as it stands; one that already was has waited long enough for a better text."""
        if bubble.utterance.is_final:
            side.close(bubble, bubble.utterance.end_ms)
        else:
            bubble.utterance = self._numbered(structs.replace(bubble.utterance, is_final=True))
            yield bubble.utterance

    def _begun(self, speaker: Speaker, event: Interim | Final, text: str, origin: Origin) -> Utterance:
        utterance_id, start_ms = self._adopted(self._sides[speaker], event.start_ms) or (
            self._new_id(speaker, event.start_ms),
            event.start_ms,
        )
        blank = structs.replace(self._blank(speaker, utterance_id, start_ms), origin=origin)
        return self._revised(blank, event, text, max(start_ms, event.end_ms))

    def _adopted(self, side: _Side, start_ms: int) -> tuple[str, int] | None:
        """Id and start of the unfinished bubble of an earlier life that this speech continues."""
        near = [
            (abs(orphan_ms - start_ms), utterance_id, orphan_ms)
            for utterance_id, orphan_ms in side.orphans.items()
            if abs(orphan_ms - start_ms) <= ADOPT_WITHIN_MS
        ]
        if not near:
            return None
        _, utterance_id, orphan_ms = min(near)
        del side.orphans[utterance_id]
        return utterance_id, orphan_ms

    def _new_id(self, speaker: Speaker, start_ms: int) -> str:
        utterance_id, attempt = f"{speaker}-{start_ms}", 1
        while utterance_id in self._revisions:
            attempt += 1
            utterance_id = f"{speaker}-{start_ms}.{attempt}"
        return utterance_id

    def _blank(self, speaker: Speaker, utterance_id: str, start_ms: int) -> Utterance:
        return Utterance(
            tenant_id=self._tenant_id,
            conversation_id=self._conversation_id,
            utterance_id=UtteranceId(utterance_id),
            speaker=speaker,
            start_ms=start_ms,
            end_ms=start_ms,
            revision=0,
            text="",
            language=self._language,
        )

    def _revised(self, current: Utterance, event: Interim | Final, text: str, end_ms: int) -> Utterance:
        return self._numbered(
            structs.replace(
                current,
                end_ms=end_ms,
                text=text,
                words=event.words,
                confidence=event.confidence,
                language=event.language,
                is_final=isinstance(event, Final),
            )
        )

    def _retracted(self, current: Utterance) -> Utterance:
        return self._numbered(structs.replace(current, text="", words=(), is_final=True))

    def _numbered(self, utterance: Utterance) -> Utterance:
        """The utterance with its next revision: the only place where a revision is given."""
        revision = self._revisions.get(utterance.utterance_id, (0, False))[0] + 1
        self._revisions[utterance.utterance_id] = (revision, utterance.is_final)
        return structs.replace(utterance, revision=revision)


def _normalised(text: str) -> str:
    # PostgreSQL takes no NUL in a text; nobody says one.
    return " ".join(text.replace("\x00", " ").split())
