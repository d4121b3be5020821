"""One call's knowledge assist: starts, stops and delivers what `Questions` decides. Event-loop thread only.

    Search ─▶ task ─▶ Library ─▶ held until confirmed ─▶ Screen ─▶ Found, through the call's mailbox
                                                           └─▶ task ─▶ Writer ─▶ Found, again and again

A search that failed costs its card and nothing else; why is in the metric, and once in the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import msgspec

from inference.errors import InferenceError
from inference.generation import GenerationError
from retrieval.conversation import TYPED_CONTEXT_SHARE, build_query
from retrieval.errors import BadQuery, RetrievalError
from retrieval.search import Answer
from server.knowledge.answers import NOTHING_FOUND, Screen, Shown, finding_of, plain_finding, unanswered
from server.knowledge.library import Library
from server.knowledge.questions import Confirm, Decision, Question, Questions, QuestionsState, Search, Withdraw
from server.knowledge.writer import Writer
from server.metrics import Metrics
from server.policy.cards import Finding
from server.policy.rules import QUESTION_OUTPUT, Policy
from server.wire.clock import Stamps
from server.wire.publication import Action, Annotation
from server.wire.utterance import Utterance

log = logging.getLogger(__name__)

MAX_SEARCHES = 4
"""Of one call at once; one more takes the place of the oldest, which nobody waits for any longer."""
SEARCH_TIMEOUT_S = 2.0
"""An answer that comes later than this is to a question of the past."""


@dataclass(frozen=True, slots=True)
class Found:
    """Something to show, with the stamps of the words that asked."""

    finding: Finding
    stamps: Stamps


@dataclass(frozen=True, slots=True)
class Gone:
    """A question that was none."""

    key: str


@dataclass(frozen=True, slots=True)
class Unanswered:
    """A question that no article answers: an action that was wanted, for the store alone."""

    action: Action


class AssistState(msgspec.Struct, frozen=True, array_like=True):
    """What an assistant remembers, for another process to go on with; what was said and shown, the log knows.

    Attributes:
        questions: What was asked.
        dealt_with: Passages that the agent does not want to see again.
        searching: Questions whose search had not ended: utterances to be heard once more.
    """

    questions: QuestionsState = QuestionsState()
    dealt_with: tuple[Shown, ...] = ()
    searching: tuple[str, ...] = ()


@dataclass(slots=True)
class _Search:
    """A search under way, or a tentative one that is done and waits for its final."""

    question: Question
    stamps: Stamps
    started_s: float
    is_confirmed: bool
    task: asyncio.Task[None] | None = None
    answer: Answer | None = None


class Assistant:
    """Looks up what one call asks.

    Args:
        library: All bases; None: there are none here.
        tenant: Whose call it is.
        policy: Pinned; it names the base.
        deliver: Takes what is found; called from the loop.
        metrics: Counts outcomes.
        writer: Writes answers; None: the sentences of the passage are the answer.
    """

    def __init__(
        self,
        library: Library | None,
        tenant: str,
        policy: Policy,
        deliver: Callable[[Found | Gone | Unanswered], None],
        metrics: Metrics,
        writer: Writer | None = None,
    ) -> None:
        self._library = library
        self._writer = writer
        self._writing: tuple[str, asyncio.Task[None]] | None = None
        self._tenant = tenant
        self._policy = policy
        self._base = policy.knowledge if library is not None else None
        self._deliver = deliver
        self._metrics = metrics
        self._questions = Questions(policy.assist)
        self._screen = Screen()
        self._searches: dict[str, _Search] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._has_failed = False

    def on_utterance(self, utterance: Utterance, stamps: Stamps) -> None:
        """Take in a revision, before its annotations."""
        if self._base is not None:
            self._perform(self._questions.on_utterance(utterance), stamps)

    def on_annotations(self, annotations: Iterable[Annotation], utterance: Utterance, stamps: Stamps) -> None:
        """Take in outputs for a revision."""
        if self._base is not None:
            for annotation in annotations:
                if annotation.output == QUESTION_OUTPUT:
                    self._perform(self._questions.on_annotation(annotation, utterance), stamps)

    def on_action(self, action: Action, stamps: Stamps) -> None:
        """Take in a published card: it may want a passage, and passages on the screen are not shown twice."""
        self._screen.on_action(action)
        if action.type == "answer" and action.state in ("expire", "retract") and action.evidence:
            self._stop_writing(action.evidence[-1].utterance_id)
        rule = self._policy.action(action.id)
        if self._base is not None and rule is not None and rule.knowledge and action.state == "new":
            self._perform(self._questions.on_card(action), stamps)

    def ask(self, text: str, stamps: Stamps) -> None:
        """The agent asks. The answer, or that there is none, comes as a card."""
        search = self._questions.ask(text)
        if self._base is None:
            self._found(plain_finding(search.question, "There is no knowledge base for this call."), stamps)
        else:
            self._perform([search], stamps)

    def state(self) -> AssistState:
        """All that the next process cannot know by itself; no words."""
        searching = [key for key, search in self._searches.items() if search.question.trigger == "question"]
        return AssistState(self._questions.state(but=searching), self._screen.dealt_with, tuple(searching))

    def restore(self, state: AssistState, said: Iterable[Utterance], cards: Iterable[Action]) -> None:
        """Go on where another process stopped.

        Args:
            state: From `state`.
            said: Finals, in the order of the log.
            cards: Those on the screen.
        """
        self._questions.restore(state.questions, said)
        self._screen.restore(state.dealt_with, cards)

    async def stop(self) -> None:
        """The call is over: nothing is delivered any more."""
        self._searches.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # Inside

    def _perform(self, decisions: Sequence[Decision], stamps: Stamps) -> None:
        for decision in decisions:
            match decision:
                case Search(question, is_tentative):
                    self._start(question, stamps, is_tentative=is_tentative)
                case Confirm(question):
                    self._confirm(question, stamps)
                case Withdraw(key):
                    self._stop_writing(key)
                    if self._forget(key) is not None:
                        self._count_speculation("cancelled")
                    self._deliver(Gone(key))

    def _start(self, question: Question, stamps: Stamps, *, is_tentative: bool) -> None:
        before = self._forget(question.key)
        self._stop_writing(question.key)
        if not is_tentative and question.trigger == "question":
            was_tentative = before is not None and not before.is_confirmed
            self._count_speculation("changed" if was_tentative else "none")
        while len(self._searches) >= MAX_SEARCHES:
            self._forget(next(iter(self._searches)))
            self._metrics.knowledge_questions.labels("superseded").inc()
        search = _Search(question, stamps, self._loop.time(), is_confirmed=not is_tentative)
        self._searches[question.key] = search
        search.task = self._run(self._search(search), "knowledge-search")

    def _confirm(self, question: Question, stamps: Stamps) -> None:
        search = self._searches.get(question.key)
        if search is None or search.is_confirmed:
            return
        self._count_speculation("hit")
        search.question, search.stamps, search.started_s = question, stamps, self._loop.time()
        search.is_confirmed = True
        if search.answer is not None:
            self._conclude(search, search.answer)

    def _forget(self, key: str) -> _Search | None:
        search = self._searches.pop(key, None)
        if search is not None and search.task is not None:
            search.task.cancel()
        return search

    async def _search(self, search: _Search) -> None:
        question = search.question
        assert self._base is not None
        assert self._library is not None
        try:
            share = TYPED_CONTEXT_SHARE if question.trigger == "asked" else 1.0
            query = build_query(question.text, question.context, share)
        except BadQuery:  # a lone question mark: nothing was asked, and nothing failed
            self._searches.pop(question.key, None)
            if question.trigger == "asked":
                self._found(plain_finding(question, NOTHING_FOUND), search.stamps)
            return
        try:
            async with asyncio.timeout(SEARCH_TIMEOUT_S):
                # A card goes to everybody who follows the call, so it holds what everybody may see.
                answer = await self._library.search(self._tenant, self._base, query)
        except (RetrievalError, InferenceError, TimeoutError) as error:
            self._fail(search, error)
        except Exception as error:
            log.exception("a knowledge search broke", extra={"kb": self._base})
            self._fail(search, error)
        else:
            search.answer = answer
            if search.is_confirmed:
                self._conclude(search, answer)

    def _conclude(self, search: _Search, answer: Answer) -> None:
        self._searches.pop(search.question.key, None)
        outcome, finding = finding_of(search.question, answer, self._screen)
        self._metrics.knowledge_questions.labels(outcome).inc()
        if outcome == "abstained" and search.question.trigger != "moment":
            self._deliver(Unanswered(unanswered(search.question)))
        self._metrics.knowledge_card.labels("passage").observe(self._loop.time() - search.started_s)
        if finding is not None:
            self._found(finding, search.stamps)
            if self._writer is not None and finding.cites and not finding.action_id:
                self._write(self._writer, search, answer, finding)
        elif search.question.trigger == "question":
            self._deliver(Gone(search.question.key))  # an earlier revision of the same words may have a card

    def _fail(self, search: _Search, error: BaseException) -> None:
        self._searches.pop(search.question.key, None)
        self._metrics.knowledge_questions.labels("failed").inc()
        if not self._has_failed:
            self._has_failed = True
            log.warning("knowledge assist fails", extra={"kb": self._base, "reason": type(error).__name__})
        if search.question.trigger == "asked":
            self._found(plain_finding(search.question, "The knowledge base cannot be searched now."), search.stamps)

    def _write(self, writer: Writer, search: _Search, answer: Answer, finding: Finding) -> None:
        """Begin the second step of a card. An older question's is given up: its moment is over."""
        if self._writing is not None:
            self._stop_writing(self._writing[0])
        task = self._run(self._written(writer, search, answer, finding), "knowledge-writing")
        self._writing = (finding.key, task)

    async def _written(self, writer: Writer, search: _Search, answer: Answer, finding: Finding) -> None:
        assert self._base is not None
        is_written = False
        try:
            async with aclosing(writer.write(self._tenant, self._base, search.question, answer)) as bodies:
                async for body in bodies:
                    is_written = True
                    self._found(msgspec.structs.replace(finding, body=body, is_update=True), search.stamps)
        except (GenerationError, InferenceError):
            pass  # counted by the client; the passage, or what was written so far, stands
        except Exception:
            log.exception("writing an answer broke", extra={"kb": self._base})
        if is_written:
            self._metrics.knowledge_card.labels("answer").observe(self._loop.time() - search.started_s)

    def _stop_writing(self, key: str) -> None:
        if self._writing is not None and self._writing[0] == key:
            self._writing[1].cancel()
            self._writing = None

    def _run(self, work: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _found(self, finding: Finding, stamps: Stamps) -> None:
        self._deliver(Found(finding, stamps))

    def _count_speculation(self, result: str) -> None:
        self._metrics.knowledge_speculation.labels(result).inc()
