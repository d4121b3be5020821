"""A document becomes a `Policy`, whole and right, or a `ConfigError` that names the path of the wrong value.

Types are checked where the file is read; here is what a type cannot say: names that must exist or be unique,
conditions that must be one thing, patterns that must compile, moments that must not wait for each other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NoReturn

from server.policy.document import (
    ActionDocument,
    AssistTrigger,
    ConditionDocument,
    MomentDocument,
    PolicyDocument,
    StepDocument,
)
from server.policy.rules import (
    ACTIONS_OUTPUT,
    QUESTION_OUTPUT,
    SEMANTIC_OUTPUT,
    ActionRule,
    AllOf,
    AnyOf,
    Assist,
    Attention,
    Condition,
    Lexical,
    Moment,
    OutputIs,
    OwnAction,
    Policy,
    Semantic,
    Step,
    leaves,
    outputs_read,
)
from server.policy.words import WordPattern, compile_pattern, normalise
from server.wire.errors import ConfigError
from server.wire.ids import Speaker

Graphs = Mapping[str, Mapping[str, frozenset[str] | None]]
"""What the product graphs offer: graph → output → its labels (None: any label may come)."""

DEFAULT_MIN_SCORE = 0.5
_ID = re.compile(r"[a-z][a-z0-9_]{0,47}")
_LANGUAGE = re.compile(r"[a-z]{2,3}(?:-[A-Za-z0-9]{2,8})*")
_KINDS = ("semantic", "lexical", "output", "sentiment", "moment", "any", "all")


def compile_policy(document: PolicyDocument, *, source: str, digest: str, graphs: Graphs | None = None) -> Policy:
    """Check a document as a whole and compile it. Pure.

    Args:
        document: As read.
        source: Names the file in errors and warnings.
        digest: Of the file's text.
        graphs: What the graphs offer; None leaves output names and labels unchecked against the graph.

    Raises:
        ConfigError: Anything is wrong; `field` is such as `car_service.yaml: moments[2].any[0].semantic`.
    """
    return _Compiler(source, document, digest, graphs).policy()


def _stands_for(condition: ConditionDocument) -> Iterator[str]:
    """Moments whose condition a condition takes over, at any depth."""
    yield from _listed(condition.moment)
    for inner in (*(condition.any or ()), *(condition.all or ())):
        yield from _stands_for(inner)


def _listed(value: str | Iterable[str] | None) -> tuple[str, ...]:
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)


class _Compiler:
    """Compiles one document; lives for one call of `policy`."""

    def __init__(self, source: str, document: PolicyDocument, digest: str, graphs: Graphs | None) -> None:
        self._source = source
        self._digest = digest
        self._document = document
        self._graphs = graphs
        self._offered: Mapping[str, frozenset[str] | None] | None = None
        self._warnings: list[str] = []

    def policy(self) -> Policy:
        document = self._document
        self._check_spelling()
        self._check_outputs()
        own_actions = tuple(self._own_actions())
        self._check_unique("moments", [moment.id for moment in document.moments])
        self._check_unique("actions", [action.id for action in document.actions])
        steps = [StepDocument(id=step) if isinstance(step, str) else step for step in document.checklist]
        self._check_unique("checklist", [step.id for step in steps])
        self._check_cycles()
        moments = [self._moment(moment, f"moments[{index}]") for index, moment in enumerate(document.moments)]
        actions = tuple(self._action(action, f"actions[{index}]") for index, action in enumerate(document.actions))
        checklist = []
        for index, step in enumerate(steps):
            compiled, own = self._step(step, f"checklist[{index}]")
            checklist.append(compiled)
            moments.extend(own)
        for key in ("pause_on", "resume_on"):
            self._known(getattr(document.recording, key), f"recording.{key}")
        self._warn_unused(moments, actions, checklist)
        self._warn_shared_phrases(moments, own_actions)
        return Policy(
            tenant=document.tenant,
            version=document.version,
            digest=self._digest,
            graph=document.graph,
            languages=document.languages,
            keyterms=document.keyterms,
            outputs={name: output.min_score for name, output in document.outputs.items()},
            labels={
                name: frozenset((*output.labels, *output.examples))
                for name, output in document.outputs.items()
                if output.labels
            },
            own_actions=own_actions,
            pins=dict(document.pins),
            moments=tuple(moments),
            actions=actions,
            attention=self._attention(),
            checklist=tuple(checklist),
            knowledge=document.knowledge,
            assist=self._assist(),
            redaction=document.redaction,
            recording=document.recording,
            retention=document.retention,
            warnings=tuple(self._warnings),
        )

    def _fail(self, path: str, problem: str) -> NoReturn:
        raise ConfigError(problem, field=f"{self._source}: {path}")

    def _warn(self, path: str, problem: str) -> None:
        self._warnings.append(f"{self._source}: {path}: {problem}")

    # Names

    def _check_spelling(self) -> None:
        document = self._document
        names = {"tenant": document.tenant, "graph": document.graph}
        if document.knowledge is not None:
            names["knowledge"] = document.knowledge
        names |= {f"outputs.{name}": name for name in document.outputs}
        for output, wanted in document.outputs.items():
            names |= {f"outputs.{output}.examples.{name}": name for name in wanted.examples}
        names |= {f"pins.{name}": name for name in document.pins}
        names |= {f"moments[{index}].id": moment.id for index, moment in enumerate(document.moments)}
        names |= {f"actions[{index}].id": action.id for index, action in enumerate(document.actions)}
        for index, step in enumerate(document.checklist):
            names |= {f"checklist[{index}]": step} if isinstance(step, str) else {f"checklist[{index}].id": step.id}
        for path, name in names.items():
            if not _ID.fullmatch(name):
                self._fail(path, "expected a name: a letter, then letters, digits and underscores, all lower case")
        for index, language in enumerate(document.languages):
            if not _LANGUAGE.fullmatch(language):
                self._fail(f"languages[{index}]", "expected a BCP 47 tag, such as `en` or `es-MX`")

    def _check_outputs(self) -> None:
        document = self._document
        if self._graphs is None:
            return
        if document.graph not in self._graphs:
            self._fail("graph", f"no graph `{document.graph}`; there are: {', '.join(sorted(self._graphs))}")
        self._offered = self._graphs[document.graph]
        for name, output in document.outputs.items():
            if name not in self._offered:
                self._fail(f"outputs.{name}", f"graph `{document.graph}` has no output `{name}`")
            for index, label in enumerate(output.labels or ()):
                if label not in (self._offered[name] or ()) and label not in output.examples:
                    self._fail(f"outputs.{name}.labels[{index}]", f"output `{name}` has no label `{label}`")

    def _own_actions(self) -> Iterator[OwnAction]:
        """Labels by example; they stand beside those of the model, under names of their own."""
        for output, declared in self._document.outputs.items():
            if declared.examples and output != ACTIONS_OUTPUT:
                self._fail(f"outputs.{output}.examples", f"only `{ACTIONS_OUTPUT}` has labels of the tenant's own")
            for name, examples in declared.examples.items():
                path = f"outputs.{output}.examples.{name}"
                if self._offered is not None and SEMANTIC_OUTPUT not in self._offered:
                    problem = f"graph `{self._document.graph}` has no output `{SEMANTIC_OUTPUT}` to find examples with"
                    self._fail(f"outputs.{output}.examples", problem)
                if self._offered is not None and name in (self._offered[output] or ()):
                    self._fail(path, f"`{name}` is a label of the model already")
                phrases = self._phrases(examples.phrases, f"{path}.phrases")
                yield OwnAction(name, path, examples.speaker, phrases, examples.threshold)

    def _check_unique(self, section: str, ids: list[str]) -> None:
        first: dict[str, int] = {}
        for index, name in enumerate(ids):
            if name in first:
                self._fail(f"{section}[{index}].id", f"`{name}` is the id of {section}[{first[name]}] already")
            first[name] = index

    def _known(self, names: str | list[str] | None, path: str) -> frozenset[str]:
        """Names of declared moments, or an error."""
        known = {moment.id for moment in self._document.moments}
        listed = _listed(names)
        for index, name in enumerate(listed):
            if name not in known:
                self._fail(path if isinstance(names, str) else f"{path}[{index}]", f"no moment `{name}`")
        return frozenset(listed)

    def _check_cycles(self) -> None:
        """Neither may a moment wait for itself (`after`) nor stand for itself (`moment`)."""
        moments = self._document.moments
        known = {moment.id for moment in moments}
        for key, waits in (("after", lambda m: _listed(m.after)), ("moment", _stands_for)):
            edges = {moment.id: set(waits(moment)) & known for moment in moments}
            for index, moment in enumerate(moments):
                reached: set[str] = set()
                front = edges[moment.id]
                while front:
                    reached |= front
                    front = set[str]().union(*(edges[name] for name in front)) - reached
                if moment.id in reached:
                    self._fail(f"moments[{index}].{key}", f"`{moment.id}` would depend on itself")

    # Moments and conditions

    def _moment(self, moment: MomentDocument, path: str) -> Moment:
        if moment.within_s is not None and moment.after is None:
            self._fail(f"{path}.within_s", "needs `after`, from which the time runs")
        if moment.within_s is not None and moment.not_within_s is not None:
            self._fail(f"{path}.within_s", "excludes `not_within_s`")
        rule_path = f"moments.{moment.id}"
        condition = self._condition(moment, path, rule_path, moment.speaker)
        negatives = self._negatives(moment, path, rule_path, condition)
        return Moment(
            id=moment.id,
            path=rule_path,
            speaker=moment.speaker,
            condition=condition,
            on=moment.on,
            negatives=negatives,
            after=self._known(moment.after, f"{path}.after"),
            before=self._known(moment.before, f"{path}.before"),
            within_s=moment.within_s,
            not_within_s=moment.not_within_s,
            once=moment.once,
            cooldown_s=moment.cooldown_s,
            reads=outputs_read(AllOf("", (condition, *negatives))),
        )

    def _condition(self, document: ConditionDocument, path: str, rule_path: str, speaker: Speaker) -> Condition:
        given = [kind for kind in _KINDS if getattr(document, kind) is not None]
        if len(given) != 1:
            what = f"has {' and '.join(f'`{kind}`' for kind in given)}" if given else "has none"
            self._fail(path, f"a condition is exactly one of {', '.join(_KINDS)}; this one {what}")
        kind = given[0]
        for key, kinds in (("threshold", ("semantic",)), ("min_score", ("sentiment",))):
            if getattr(document, key) is not None and kind not in kinds:
                self._fail(f"{path}.{key}", f"belongs to {' or '.join(kinds)}")
        if document.for_turns is not None and kind not in ("output", "sentiment"):
            self._fail(f"{path}.for_turns", "belongs to output or sentiment")
        match kind:
            case "semantic":
                return Semantic(rule_path, self._phrases(document.semantic, f"{path}.semantic"), document.threshold)
            case "lexical":
                return Lexical(rule_path, self._patterns(document.lexical, f"{path}.lexical"))
            case "output":
                return self._output(document, path, rule_path)
            case "sentiment":
                labels = frozenset({str(document.sentiment)})
                min_score = self._min_score("sentiment", document.min_score, f"{path}.sentiment")
                return OutputIs(rule_path, "sentiment", labels, min_score, document.for_turns or 1)
            case "moment":
                return self._same_as(document.moment, f"{path}.moment", rule_path, speaker)
            case _:
                inner: list[ConditionDocument] = getattr(document, kind)
                if not inner:
                    self._fail(f"{path}.{kind}", "holds no condition")
                conditions = tuple(
                    self._condition(each, f"{path}.{kind}[{index}]", f"{rule_path}.{kind}[{index}]", speaker)
                    for index, each in enumerate(inner)
                )
                return AnyOf(rule_path, conditions) if kind == "any" else AllOf(rule_path, conditions)

    def _same_as(self, names: str | list[str] | None, path: str, rule_path: str, speaker: Speaker) -> Condition:
        """The conditions of other moments, under their own paths."""
        self._known(names, path)
        conditions = []
        for name in _listed(names):
            index, other = next((i, m) for i, m in enumerate(self._document.moments) if m.id == name)
            if other.speaker != speaker:
                self._fail(path, f"`{name}` is about what the {other.speaker} says")
            conditions.append(self._condition(other, f"moments[{index}]", f"moments.{name}", speaker))
        if not conditions:
            self._fail(path, "names no moment")
        return conditions[0] if len(conditions) == 1 else AnyOf(rule_path, tuple(conditions))

    def _phrases(self, phrases: str | list[str] | None, path: str) -> tuple[str, ...]:
        listed = _listed(phrases)
        if not listed:
            self._fail(path, "holds no phrase")
        seen: set[str] = set()
        for index, phrase in enumerate(listed):
            words = normalise(phrase)
            where = path if isinstance(phrases, str) else f"{path}[{index}]"
            if not words:
                self._fail(where, "holds no word")
            if words in seen:
                self._fail(where, "is given twice")
            seen.add(words)
        return listed

    def _patterns(self, patterns: str | list[str] | None, path: str) -> tuple[WordPattern, ...]:
        listed = _listed(patterns)
        if not listed:
            self._fail(path, "holds no pattern")
        compiled = []
        for index, pattern in enumerate(listed):
            try:
                compiled.append(compile_pattern(pattern))
            except ValueError as error:
                self._fail(path if isinstance(patterns, str) else f"{path}[{index}]", str(error))
        return tuple(compiled)

    def _output(self, document: ConditionDocument, path: str, rule_path: str) -> OutputIs:
        wanted = dict(document.output or {})
        min_score = wanted.pop("min_score", None)
        is_score = isinstance(min_score, int | float) and not isinstance(min_score, bool) and 0 <= min_score <= 1
        if min_score is not None and not is_score:
            self._fail(f"{path}.output.min_score", "expected a number from 0 to 1")
        if len(wanted) != 1:
            self._fail(f"{path}.output", "names exactly one output, and `min_score` if needed")
        name, value = next(iter(wanted.items()))
        where = f"{path}.output.{name}"
        labels: tuple[str, ...] = ()
        if value is not True:
            labels = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else ()
            if not labels or not all(isinstance(label, str) and label for label in labels):
                self._fail(where, "expected a label, a list of labels, or `true` for an output that is a bare score")
        threshold = self._min_score(name, min_score, where)
        allowed, own = self._document.outputs[name].labels, self._document.outputs[name].examples
        for label in labels if allowed else ():
            if label not in (allowed or ()) and label not in own:
                self._fail(where, f"`{label}` is not among the `labels` of this policy's output `{name}`")
        known = self._offered.get(name) if self._offered is not None else None
        if known is not None:
            for label in labels:
                if label not in known and label not in own:
                    self._fail(where, f"output `{name}` has no label `{label}`")
        return OutputIs(rule_path, name, frozenset(labels), threshold, document.for_turns or 1)

    def _min_score(self, output: str, min_score: float | None, path: str) -> float:
        if output not in self._document.outputs:
            self._fail(path, f"`{output}` is not among the `outputs` of this policy")
        if min_score is not None:
            return float(min_score)
        declared = self._document.outputs[output].min_score
        return DEFAULT_MIN_SCORE if declared is None else declared

    def _negatives(
        self, moment: MomentDocument, path: str, rule_path: str, condition: Condition
    ) -> tuple[Semantic | Lexical, ...]:
        negatives: list[Semantic | Lexical] = []
        phrases: list[str] = []
        for index, negative in enumerate(moment.negatives):
            where = f"{path}.negatives[{index}]"
            if isinstance(negative, str):
                phrases.extend(self._phrases(negative, where))
                continue
            if (negative.semantic is None) == (negative.lexical is None):
                self._fail(where, "is a phrase, `semantic` or `lexical`")
            if negative.semantic is not None:
                phrases.extend(self._phrases(negative.semantic, f"{where}.semantic"))
            else:
                patterns = self._patterns(negative.lexical, f"{where}.lexical")
                negatives.append(Lexical(f"{rule_path}.negatives[{index}]", patterns))
        wanted = {normalise(p) for leaf in leaves(condition) if isinstance(leaf, Semantic) for p in leaf.phrases}
        for phrase in phrases:
            if normalise(phrase) in wanted:
                self._fail(f"{path}.negatives", f"`{phrase}` is an example of the moment itself")
        if phrases:
            negatives.append(Semantic(f"{rule_path}.negatives", tuple(dict.fromkeys(phrases))))
        return tuple(negatives)

    # Actions and checklist

    def _action(self, action: ActionDocument, path: str) -> ActionRule:
        if not _listed(action.on):
            self._fail(f"{path}.on", "names no moment")
        on = self._known(action.on, f"{path}.on")
        retract_on = self._known(action.retract_on, f"{path}.retract_on")
        if on & retract_on:
            self._fail(f"{path}.retract_on", "names a moment of `on`")
        if action.knowledge and self._document.knowledge is None:
            self._fail(f"{path}.knowledge", "the policy names no knowledge base")
        return ActionRule(
            id=action.id,
            on=on,
            type=action.type,
            title=action.title,
            body=action.body,
            priority=action.priority,
            ttl_s=action.ttl_s,
            knowledge=action.knowledge,
            retract_on=retract_on,
        )

    def _step(self, step: StepDocument, path: str) -> tuple[Step, list[Moment]]:
        title = step.title or step.id.replace("_", " ").capitalize()
        rule_path = f"checklist.{step.id}"
        done = step.done_when
        own: Condition | None = None
        if done is None:
            if any(moment.id == step.id for moment in self._document.moments):
                return Step(step.id, title, frozenset({step.id})), []
            if "actions" not in self._document.outputs:
                self._warn(path, "nothing ticks it: no `done_when`, no moment of that id and no `actions` output")
                return Step(step.id, title, frozenset()), []
            min_score = self._min_score("actions", None, path)
            own = OutputIs(rule_path, "actions", frozenset({step.id}), min_score)
        elif done.moment is not None and [kind for kind in _KINDS if getattr(done, kind) is not None] == ["moment"]:
            return Step(step.id, title, self._known(done.moment, f"{path}.done_when.moment")), []
        else:
            own = self._condition(done, f"{path}.done_when", rule_path, step.speaker)
        moment = Moment(
            id=rule_path, path=rule_path, speaker=step.speaker, condition=own, once=True, reads=outputs_read(own)
        )
        return Step(step.id, title, frozenset({rule_path})), [moment]

    def _attention(self) -> Attention:
        declared = self._document.attention
        if declared.reserved_for_urgent >= declared.max_cards_per_min:
            self._fail("attention.reserved_for_urgent", "leaves nothing of `max_cards_per_min` for other cards")
        return Attention(declared.max_cards_per_min, declared.reserved_for_urgent, declared.max_wait_s)

    def _assist(self) -> Assist:
        declared = self._document.assist
        on: frozenset[AssistTrigger] = frozenset(("question", "checking") if declared.on is None else declared.on)
        if self._offered is not None and QUESTION_OUTPUT not in self._offered:
            if declared.on is not None and "question" in on:
                self._fail("assist.on", f"graph `{self._document.graph}` has no output `{QUESTION_OUTPUT}`")
            on -= {"question"}
        return Assist(
            on=on,
            min_score=declared.min_score,
            checking=self._patterns(list(declared.checking), "assist.checking"),
            priority=declared.priority,
            ttl_s=declared.ttl_s,
            max_shown=declared.max_shown,
        )

    # What is allowed but probably not meant

    def _warn_unused(self, moments: list[Moment], actions: tuple[ActionRule, ...], checklist: list[Step]) -> None:
        recording = self._document.recording
        used = set(_listed(recording.pause_on)) | set(_listed(recording.resume_on))
        for action in actions:
            used |= action.on | action.retract_on
        for step in checklist:
            used |= step.done_on
        for moment in moments:
            used |= moment.after | moment.before
        for declared in self._document.moments:
            used |= set(_stands_for(declared))
        for index, declared in enumerate(self._document.moments):
            if declared.id not in used:
                self._warn(f"moments[{index}]", f"nothing uses `{declared.id}`")

    def _warn_shared_phrases(self, moments: list[Moment], own_actions: tuple[OwnAction, ...]) -> None:
        """A phrase means one moment, and one label; it may well mean a moment and a label."""
        conditions = [(moment.speaker, leaf) for moment in moments for leaf in leaves(moment.condition)]
        semantic = [(speaker, leaf.path, leaf.phrases) for speaker, leaf in conditions if isinstance(leaf, Semantic)]
        for examples in (semantic, [(action.speaker, action.path, action.phrases) for action in own_actions]):
            owner: dict[tuple[str, str], str] = {}
            for speaker, path, phrases in examples:
                for phrase in phrases:
                    first = owner.setdefault((speaker, normalise(phrase)), path)
                    if first != path:
                        self._warn(path, f"`{phrase}` is an example of `{first}` too")
