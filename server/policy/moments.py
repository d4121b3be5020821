"""Utterances and annotations in, moments out: they begin, are confirmed by a final, withdrawn by it, or end.

Pure: audio time comes in as milliseconds, and the same inputs give the same events.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import msgspec

from server.policy.conditions import Claim, Hit, Judge, Verdict, View, claimed
from server.policy.memory import MatcherState, Occurrence, Run, Track, Turn, Window
from server.policy.rulebook import RuleBook
from server.policy.rules import KEEP_MARGIN, Moment
from server.policy.words import normalise
from server.wire.publication import Annotation, Evidence
from server.wire.utterance import Utterance

STABLE_INTERIMS = 2
"""`stable`: so many interims in a row; two agreeing decodes seldom change (the usual rule of streaming recognition)."""

PATIENCE_MS = 3_000
"""An absence is not declared while words said in time may still be on their way through recogniser and models."""

MAX_CHARS = 4_000
"""What is searched of one utterance: minutes of speech. A pasted book would hold every other call up for its search."""
_TURNS_KEPT = 32
_VIEWS_KEPT = 4
_OCCURRENCES_KEPT = 8
_EVIDENCE_CHARS = 400


class Change(Enum):
    """What became of a moment."""

    BEGAN = "began"
    CONFIRMED = "confirmed"
    WITHDRAWN = "withdrawn"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class MomentEvent:
    """One change of one occurrence of a moment.

    Attributes:
        change: What happened. `ENDED` is for absences: at last it was said.
        moment: Moment id.
        occurrence: 1 and up within the moment; the same number through its life.
        at_ms: Audio time of the occurrence: end of its words, or the deadline of an absence.
        strength: 0 to 1, for ranking.
        evidence: What it stands on; None for an absence in a call in which nobody spoke.
    """

    change: Change
    moment: str
    occurrence: int
    at_ms: int
    strength: float = 1.0
    evidence: Evidence | None = None


class MomentMatcher:
    """Finds the moments of one call.

    Args:
        book: The rules.
        state: To go on from, as `state` gave it; the matcher owns it from here on.
    """

    def __init__(self, book: RuleBook, state: MatcherState | None = None) -> None:
        self._book = book
        self._events: list[MomentEvent] = []
        if state is None:
            state = MatcherState()
            for moment in book.absences:
                if not moment.after and moment.not_within_s is not None:
                    state.windows[moment.id] = Window(0, round(moment.not_within_s * 1000))
        self.state = state
        self._judged = ""
        self._judge = Judge(book, self._run_before)

    def observe(self, utterance: Utterance) -> tuple[MomentEvent, ...]:
        """Take in one utterance revision. A revision that is not newer, or that follows a final, changes nothing."""
        turn = self.state.turns.get(utterance.utterance_id)
        if turn is None:
            turn = Turn(utterance.utterance_id, utterance.speaker, utterance.start_ms, utterance.end_ms)
            self.state.turns[turn.utterance_id] = turn
            while len(self.state.turns) > _TURNS_KEPT:
                del self.state.turns[next(iter(self.state.turns))]
        last = turn.views[-1] if turn.views else None
        if turn.is_judged or (last is not None and (last.is_final or utterance.revision <= last.revision)):
            return ()
        words = normalise(utterance.text[:MAX_CHARS])
        view = View(utterance.revision, utterance.text, words, utterance.is_final)
        if last is not None and last.words == view.words:
            view.claims = dict(last.claims)  # the same words mean the same: no need to wait for the models again
        turn.views = (view,) if view.is_final else (*turn.views[1 - _VIEWS_KEPT :], view)
        turn.start_ms, turn.end_ms = utterance.start_ms, utterance.end_ms
        self._evaluate(turn, view)
        for output in view.claims:
            self._count_run(turn, view, output)
        self._forget_judged(turn, view)
        return self._taken()

    def annotate(self, annotations: Sequence[Annotation]) -> tuple[MomentEvent, ...]:
        """Take in outputs of one utterance, each for a revision observed before; a superseded one changes nothing."""
        turn = self.state.turns.get(annotations[0].utterance_id) if annotations else None
        if turn is None or turn.is_judged:
            return ()
        reads = self._book.reads[turn.speaker]
        for view in turn.views:
            claims = {
                annotation.output: Claim(annotation.value, annotation.model, annotation.version)
                for annotation in annotations
                if annotation.output in reads and annotation.revision == view.revision
            }
            if claims:
                view.claims.update(claims)
                self._evaluate(turn, view)
            for output in sorted(claims):
                self._count_run(turn, view, output)
        self._forget_judged(turn, turn.views[-1])
        return self._taken()

    def tick(self, at_ms: int) -> tuple[MomentEvent, ...]:
        """Declare the absences that are due at this audio time, earliest first."""
        due = sorted((window.deadline_ms, name) for name, window in self.state.windows.items())
        for deadline_ms, name in due:
            if name not in self.state.windows or self._due_ms(name) > at_ms:
                continue
            window = self.state.windows.pop(name)
            if not window.said_by:
                self._declare(self._book.moments[name], window, deadline_ms, ())
        return self._taken()

    def next_due_ms(self) -> int | None:
        """Audio time at which `tick` should be called next, None if nothing waits."""
        return min((self._due_ms(name) for name in self.state.windows), default=None)

    # One moment on one view

    def _evaluate(self, turn: Turn, view: View) -> None:
        self._judged = turn.utterance_id
        said = self._judge.said(view, turn.speaker)
        for rule in self._book.candidates[turn.speaker].of(said, view.claims, turn.tracks):
            track = turn.tracks.get(rule.id)
            if track is not None and (track.is_decided or view.revision <= track.revision):
                continue
            verdict = self._verdict(rule, view, KEEP_MARGIN if view.is_final and track and track.occurrence else 0.0)
            if verdict.holds is None:
                continue
            if track is None:
                if not verdict.holds and not rule.is_absence:
                    continue  # nothing to remember: what does not hold on a revision never will on the same one
                track = turn.tracks[rule.id] = Track()
            track.revision = view.revision
            track.streak = track.streak + 1 if verdict.holds else 0
            track.is_decided = view.is_final
            if rule.is_absence:
                self._said(rule, turn, view, track, holds=verdict.holds)
            elif track.occurrence and view.is_final:
                self._settle(rule, turn, view, track, verdict.hit)
            elif verdict.hit is not None and not track.occurrence and self._fires(rule, view, track):
                track.occurrence = self._begin(rule, turn, view, verdict.hit)

    def _forget_judged(self, turn: Turn, view: View) -> None:
        """Let go of a final once every moment is decided on it; absences alone look back on what held."""
        if view.is_final and (not view.words or self._book.reads[turn.speaker] <= view.claims.keys()):
            turn.is_judged = True
            turn.views = turn.counted = ()
            turn.tracks = {name: track for name, track in turn.tracks.items() if self._book.moments[name].is_absence}

    def _verdict(self, rule: Moment, view: View, margin: float) -> Verdict:
        verdict = self._judge.judge(rule.condition, view, margin)
        if verdict.hit is None or not rule.negatives:
            return verdict
        vetoed = self._judge.veto(rule.negatives, rule.condition, view)
        return verdict if vetoed is False else Verdict(None if vetoed is None else False)

    @staticmethod
    def _fires(rule: Moment, view: View, track: Track) -> bool:
        if view.is_final or rule.on == "interim":
            return True
        return rule.on == "stable" and track.streak >= STABLE_INTERIMS

    def _begin(self, rule: Moment, turn: Turn, view: View, hit: Hit) -> int:
        """Note an occurrence if time and history allow; returns its number, 0 if not."""
        cause = self._allowed(rule, turn)
        if cause is None or not self._is_free(rule, turn.end_ms):
            return 0
        evidence = _evidence(turn, view, hit)
        return self._note(rule, turn.utterance_id, turn.end_ms, evidence, hit.strength, cause)

    def _settle(self, rule: Moment, turn: Turn, view: View, track: Track, hit: Hit | None) -> None:
        """The final has spoken: confirm the occurrence, or withdraw it."""
        occurrence = self._find(rule.id, track.occurrence)
        if occurrence is None:
            return
        if hit is None:
            self._withdraw(rule.id, occurrence.number)
            return
        occurrence.at_ms, occurrence.strength = turn.end_ms, hit.strength
        occurrence.evidence = _evidence(turn, view, hit)
        for name, window in self.state.windows.items():
            if window.anchor == (rule.id, occurrence.number):
                window.deadline_ms = turn.end_ms + round((self._book.moments[name].not_within_s or 0.0) * 1000)
                window.evidence = occurrence.evidence
        self._emit(Change.CONFIRMED, rule.id, occurrence)

    def _count_run(self, turn: Turn, view: View, output: str) -> None:
        """Lengthen or break the runs of `for_turns`, once for each output of a final turn."""
        leaves = self._book.runs.get((turn.speaker, output))
        if not leaves or not view.is_final or not view.is_turn or output in turn.counted:
            return
        turn.counted += (output,)
        for leaf in leaves:
            found = claimed(view.claims[output].value, leaf.labels, leaf.min_score)
            run = self.state.runs.setdefault(leaf.path, Run())
            run.turn_id, run.before = turn.utterance_id, run.length
            run.length = run.length + 1 if found else 0

    def _run_before(self, path: str) -> int:
        """Length of a run before the turn that is being judged."""
        run = self.state.runs.get(path)
        if run is None:
            return 0
        return run.before if run.turn_id == self._judged else run.length

    # Time and history

    def _allowed(self, rule: Moment, turn: Turn) -> list[tuple[str, int]] | None:
        """What lets the moment happen now (`after`), or None if its interval does not hold this turn."""
        if any(self._earlier(name, turn) for name in rule.before):
            return None
        if not rule.after:
            return []
        limit_ms = None if rule.within_s is None else round(rule.within_s * 1000)
        for name in sorted(rule.after):
            for occurrence in reversed(self._earlier(name, turn)):
                if limit_ms is None or turn.start_ms - occurrence.at_ms <= limit_ms:
                    return [(name, occurrence.number)]
        return None

    def _earlier(self, name: str, turn: Turn) -> list[Occurrence]:
        """Occurrences in other utterances that were over when this turn was."""
        known = self.state.occurrences.get(name, [])
        return [o for o in known if o.utterance_id != turn.utterance_id and o.at_ms <= turn.end_ms]

    def _is_free(self, rule: Moment, at_ms: int) -> bool:
        known = self.state.occurrences.get(rule.id)
        if not known:
            return True
        return not rule.once and at_ms - max(o.at_ms for o in known) >= rule.cooldown_s * 1000

    def _find(self, name: str, number: int) -> Occurrence | None:
        return next((o for o in self.state.occurrences.get(name, []) if o.number == number), None)

    def _note(
        self,
        rule: Moment,
        utterance_id: str,
        at_ms: int,
        evidence: Evidence | None,
        strength: float,
        cause: list[tuple[str, int]],
    ) -> int:
        number = self.state.counts.get(rule.id, 0) + 1
        self.state.counts[rule.id] = number
        occurrence = Occurrence(number, utterance_id, at_ms, evidence, strength, rule.is_absence, cause)
        known = self.state.occurrences.setdefault(rule.id, [])
        known.append(occurrence)
        del known[:-_OCCURRENCES_KEPT]
        self._emit(Change.BEGAN, rule.id, occurrence)
        for absence in self._book.absences:
            if rule.id in absence.before:
                self._close(absence, at_ms, (rule.id, number))
            if rule.id in absence.after:
                self._open(absence, rule.id, occurrence)
        return number

    def _withdraw(self, name: str, number: int) -> None:
        """Take an occurrence back, and with it all that hangs on it."""
        occurrence = self._find(name, number)
        if occurrence is None:
            return
        self.state.occurrences[name].remove(occurrence)
        self._emit(Change.WITHDRAWN, name, occurrence)
        for window_name in [n for n, window in self.state.windows.items() if window.anchor == (name, number)]:
            del self.state.windows[window_name]
        for other, known in list(self.state.occurrences.items()):
            for dependent in [o for o in known if (name, number) in o.cause]:
                self._withdraw(other, dependent.number)

    def _emit(self, change: Change, name: str, occurrence: Occurrence) -> None:
        self._events.append(
            MomentEvent(change, name, occurrence.number, occurrence.at_ms, occurrence.strength, occurrence.evidence)
        )

    def _taken(self) -> tuple[MomentEvent, ...]:
        events = tuple(self._events)
        self._events.clear()
        return events

    # Absences

    def _open(self, rule: Moment, anchor: str, occurrence: Occurrence) -> None:
        """Start to wait for the words, unless a window is open already."""
        if rule.id in self.state.windows or not self._is_free(rule, occurrence.at_ms):
            return
        since_ms = occurrence.evidence.start_ms if occurrence.evidence else occurrence.at_ms
        deadline_ms = occurrence.at_ms + round((rule.not_within_s or 0.0) * 1000)
        window = Window(since_ms, deadline_ms, occurrence.evidence, (anchor, occurrence.number))
        for turn in self.state.turns.values():  # both may speak at once: it may have been said already
            track = turn.tracks.get(rule.id)
            if track is not None and track.streak and turn.end_ms > since_ms:
                if track.is_decided:
                    return
                window.said_by.append(turn.utterance_id)
        self.state.windows[rule.id] = window

    def _close(self, rule: Moment, at_ms: int, by: tuple[str, int]) -> None:
        """`before` has come: what was not said by now was not said in time."""
        window = self.state.windows.pop(rule.id, None)
        if window is not None and not window.said_by:
            self._declare(rule, window, at_ms, (by,))

    def _declare(self, rule: Moment, window: Window, at_ms: int, by: tuple[tuple[str, int], ...]) -> None:
        if not self._is_free(rule, at_ms):
            return
        evidence = window.evidence
        if evidence is None and by:
            closing = self._find(*by[0])
            evidence = closing.evidence if closing else None
        if evidence is not None:
            evidence = msgspec.structs.replace(
                evidence, rule=f"{rule.path}.not_within_s", phrase="", score=None, model="", version=0
            )
        cause = [*((window.anchor,) if window.anchor else ()), *by]
        self._note(rule, evidence.utterance_id if evidence else "", at_ms, evidence, 1.0, cause)

    def _said(self, rule: Moment, turn: Turn, view: View, track: Track, *, holds: bool) -> None:
        """The words of an absence were, or were not, in this turn."""
        window = self.state.windows.get(rule.id)
        if window is not None and turn.end_ms > window.since_ms:
            if not holds and turn.utterance_id in window.said_by:
                window.said_by.remove(turn.utterance_id)
            elif holds and view.is_final:
                del self.state.windows[rule.id]
            elif holds and turn.utterance_id not in window.said_by:
                window.said_by.append(turn.utterance_id)
        if holds and view.is_final:
            for occurrence in self.state.occurrences.get(rule.id, []):
                if occurrence.is_open and (occurrence.evidence is None or turn.end_ms > occurrence.evidence.start_ms):
                    occurrence.is_open = False
                    self._emit(Change.ENDED, rule.id, occurrence)

    def _due_ms(self, name: str) -> int:
        """When a window may be judged: at its deadline, or once those who spoke in time have been understood."""
        rule, window = self._book.moments[name], self.state.windows[name]
        due_ms = window.deadline_ms
        for turn in self.state.turns.values():
            is_in_time = turn.speaker == rule.speaker and window.since_ms < turn.end_ms
            if is_in_time and turn.start_ms < window.deadline_ms:
                track = turn.tracks.get(name)
                if track is None or not track.is_decided:
                    due_ms = max(due_ms, max(window.deadline_ms, turn.end_ms) + PATIENCE_MS)
        return due_ms


def _evidence(turn: Turn, view: View, hit: Hit) -> Evidence:
    text = view.text if len(view.text) <= _EVIDENCE_CHARS else view.text[: _EVIDENCE_CHARS - 1] + "…"
    return Evidence(
        utterance_id=turn.utterance_id,
        text=text,
        start_ms=turn.start_ms,
        end_ms=turn.end_ms,
        speaker=turn.speaker,
        rule=hit.path,
        phrase=hit.phrase,
        score=hit.score,
        model=hit.model,
        version=hit.version,
        is_final=view.is_final,
    )
