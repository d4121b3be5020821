"""How right, how calibrated and how fast a built version is, on the rows that nothing learned from.

Scores are made exactly as `heads.json` tells the engine to make them. Each task is scored three times: as typed, as
typed without case and marks, and as a recogniser might have heard it. Rows of dialogues have the turn before them at
hand, as on a call; what they score without it is told beside.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inference.embedding import EMBEDDING, RETRIEVAL
from inference.errors import ModelError
from inference.export.build import HEADS_FILE
from inference.export.heads import load_heads
from inference.head_spec import HeadSpec
from inference.repository import ModelRepository
from inference.training import metrics
from inference.training.augment import as_heard, spell_numbers, strip_marks
from inference.training.calibrate import sigmoid, softmax
from inference.training.context import logits_in_context
from inference.training.corpus import Corpus, labels_of
from inference.training.features import Runner, open_tokenizer
from inference.training.folder import check_labels
from inference.training.retrieval import read_retrieval_set, score_retrieval
from inference.training.tasks import SCOPE_TENSOR, TASKS, Examples, FloatArray, Kind, Task, join, sample

SHAPES = ((1, 8), (1, 16), (1, 32), (8, 16), (16, 16))
"""Rows x tokens that are timed."""

HEARD_SEED = 7

ALL_SOURCES = "all"
"""Name of all sources of a task together: what a target means that is set for the head as a whole."""

Hear = Callable[[Sequence[str]], Sequence[str]]
"""Speaks texts over a telephone line and returns what the recogniser wrote, in the same order."""


@dataclass(frozen=True, slots=True)
class LabelRow:
    """One label of a table."""

    label: str
    precision: float
    recall: float
    f1: float
    rows: int


@dataclass(frozen=True, slots=True)
class TaskReport:
    """What was found of one task on one source.

    Attributes:
        task: Its name.
        source: Data set, or `ALL_SOURCES`.
        rows: Rows scored.
        numbers: Name to number; the first is the one that the targets speak of.
        unmarked: The first number without case and marks.
        heard: The first number as a recogniser might have heard it.
        spoken: The first number of rows that were really spoken and recognised (the turn before them typed), and of the
            same rows typed; None: none.
        labels: A row a label that occurs.
        confusions: Most frequent errors: true label, given label, rows.
        reliability: Scores against truth.
        matrix: Rows of each true label (first) given each label, `[labels, labels]`; None unless one label is true.
        names: Labels of the matrix.
        exact: The first number in fp32; None: not asked for.
        alone: The first number without the turn before; None: the task does not look at it.
    """

    task: str
    source: str
    rows: int
    numbers: Mapping[str, float]
    unmarked: float
    heard: float
    spoken: tuple[float, float] | None
    labels: tuple[LabelRow, ...]
    confusions: tuple[tuple[str, str, int], ...]
    reliability: metrics.Reliability
    matrix: NDArray[np.int64] | None = None
    names: tuple[str, ...] = ()
    exact: float | None = None
    alone: float | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything a report shows.

    Attributes:
        tasks: In the order of the model's outputs, a row a source.
        retrieval: Name to number, from the retrieval set.
        word_errors: Share of words that recognised speech has wrong, missing or added; None where nothing was spoken.
        latency_ms: (rows, tokens) to median and least milliseconds of one pass on one thread.
        part: Which rows were scored: `validate`, or `calibrate` where the weights learned from those as well.
    """

    tasks: tuple[TaskReport, ...]
    retrieval: Mapping[str, float] = field(default_factory=dict)
    word_errors: float | None = None
    latency_ms: Mapping[tuple[int, int], tuple[float, float]] = field(default_factory=dict)
    part: str = "validate"


def evaluate_file(
    file: Path,
    corpus: Corpus,
    *,
    max_rows: int = 2000,
    against: Path | None = None,
    hear: Hear | None = None,
    spoken_rows: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> Evaluation:
    """Judge a built file with everything: tasks, retrieval, latency.

    Args:
        file: Such as `model_repo/utterance/1/model.onnx`; `heads.json` lies beside it.
        corpus: Data, cut under the seed of the training.
        max_rows: At most so many rows a source.
        against: fp32 file that is judged on the same rows, to tell what the precision costs.
        hear: Speaks and recognises.
        spoken_rows: At most so many rows a source are spoken.
        progress: Called with what is being done.

    Raises:
        ModelError: If the model folder is not in order, or the version lacks a head.
        ExportError: If the version lacks its heads, or the data has other labels.
    """
    check_labels(file.parent.parent, labels_of(corpus))
    model = ModelRepository.open(file.parent.parent.parent, weights=False).model(file.parent.parent.name)
    number = int(file.parent.name)
    if number not in model.versions:
        raise model.problems.get(number) or ModelError("no such version", path=f"{model.where}/{number}")
    version = model.versions[number]
    lacking = [task.tensor for task in TASKS if task.tensor not in version.heads]
    if lacking:
        raise ModelError(f"heads.json lacks {', '.join(lacking)}", path=f"{model.where}/{number}")
    tokenizer = open_tokenizer(version.tokenizer or model.path / "tokenizer.json")
    runner = Runner.for_file(file, tokenizer)
    found = evaluate(
        runner,
        version.heads,
        corpus,
        part="calibrate" if load_heads(file.parent / HEADS_FILE).is_refitted else "validate",
        max_rows=max_rows,
        reference=None if against is None else Runner.for_file(against, tokenizer),
        hear=hear,
        spoken_rows=spoken_rows,
        progress=progress,
    )
    outputs = [tensor.name for tensor in version.config.outputs]
    progress("retrieval")
    vector = RETRIEVAL if RETRIEVAL in outputs else EMBEDDING  # the one that bases are searched by
    retrieval = score_retrieval(read_retrieval_set(), lambda texts: runner.run(texts, [vector])[vector])
    progress("latency")
    return replace(found, retrieval=retrieval, latency_ms=measure_latency(runner, outputs))


def scores_of(spec: HeadSpec, logits: FloatArray) -> FloatArray:
    """Turn logits `[rows, labels]` into scores as the engine does."""
    bias = 0.0 if spec.bias is None else np.asarray(spec.bias, np.float32)
    scaled = np.asarray(logits / np.asarray(spec.temperature, np.float32) + bias, np.float32)
    return softmax(scaled) if spec.kind in ("single", "distribution") else sigmoid(scaled)


def silence_other_speaker(spec: HeadSpec, rows: Examples, scores: FloatArray) -> FloatArray:
    """Set the scores of labels that a row's speaker cannot have to zero."""
    if spec.speakers is None:
        return scores
    allowed = {
        speaker: np.array([label in labels for label in rows.labels]) for speaker, labels in spec.speakers.items()
    }
    everyone = np.ones(len(rows.labels), bool)
    return np.asarray(scores * np.stack([allowed.get(who, everyone) for who in rows.speakers]), np.float32)


def decide(spec: HeadSpec, scores: FloatArray) -> NDArray[np.bool_]:
    """Say which labels are claimed, `[rows, labels] bool`."""
    if spec.kind in ("single", "distribution"):
        return metrics.one_hot(scores.argmax(1), scores.shape[1])
    return np.asarray(scores >= np.asarray(spec.threshold, np.float32))


def task_metrics(task: Task, scores: FloatArray, claimed: NDArray[np.bool_], rows: Examples) -> dict[str, float]:
    """Compute the metrics of a task; the first is the one that targets speak of."""
    known, true = rows.mask > 0, rows.targets > 0.5
    counts = metrics.count(claimed & known, true & known)
    if task.kind is Kind.SINGLE:
        return {"accuracy": float((claimed & true).any(1).mean()), "macro_f1": counts.macro_f1}
    if task.kind is Kind.DISTRIBUTION:
        found = {"macro_recall": counts.macro_recall, "weighted_f1": counts.weighted_f1}
        found |= {"macro_f1": counts.macro_f1, "accuracy": float((claimed & true).any(1).mean())}
        # MELD is told by weighted F1, TweetEval by macro recall.
        return {"weighted_f1": found.pop("weighted_f1"), **found} if rows.sources[0] == "meld" else found
    if task.kind is Kind.MULTI:
        return {"micro_f1": counts.micro_f1, "macro_f1": counts.macro_f1}
    base = float(true.mean())
    precision = metrics.average_precision(scores[:, 0], true[:, 0])
    found = {"ap_over_base": precision / max(base, 1e-9), "average_precision": precision, "base_rate": base}
    found |= {"f1": counts.micro_f1, "auroc": metrics.auroc(scores[true[:, 0], 0], scores[~true[:, 0], 0])}
    return found if task.name == "dissatisfied" else {"f1": found.pop("f1"), **found}


def calibration(task: Task, scores: FloatArray, claimed: NDArray[np.bool_], rows: Examples) -> metrics.Reliability:
    """Bin what the user sees: the best label's score, a binary score, or the scores of claimed labels."""
    true, known = rows.targets > 0.5, rows.mask > 0
    shown = np.asarray(claimed & known, np.bool_)
    if task.kind.is_softmax:
        return metrics.reliability(scores.max(1), np.asarray((claimed & true).any(1)))
    if task.kind is Kind.BINARY:
        return metrics.reliability(scores[:, 0], true[:, 0])
    return metrics.reliability(scores[shown], true[shown])


def evaluate(
    runner: Runner,
    heads: Mapping[str, HeadSpec],
    corpus: Corpus,
    *,
    part: str = "validate",
    max_rows: int = 2000,
    reference: Runner | None = None,
    hear: Hear | None = None,
    spoken_rows: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> Evaluation:
    """Score every task of a version.

    Args:
        runner: Over the built file that is to be judged.
        heads: Its `heads.json`.
        corpus: Data, cut under the seed of the training.
        part: Which part to score.
        max_rows: At most so many rows a source, drawn at random but always the same.
        reference: Over the fp32 file, to tell what the precision costs.
        hear: Speaks and recognises.
        spoken_rows: At most so many rows a source are spoken.
        progress: Called with each task's name.
    """
    reports: list[TaskReport] = []
    errors = words = 0
    judged = _Remembered(runner)
    exact = None if reference is None else _Remembered(reference)
    for task in TASKS:
        for source, some in _by_source(getattr(corpus.splits[task.name], part), max_rows):
            progress(f"{task.name} on {source}")
            report = _evaluate_task(judged, heads[task.tensor], some, source)
            if exact is not None:
                report = replace(report, exact=_first_number(exact, heads[task.tensor], some))
            if task.name == "intent":
                scope = _scope_metrics(judged, heads[task.tensor], some, getattr(corpus.outside, part))
                report = replace(report, numbers={**report.numbers, **scope})
            if hear is not None and spoken_rows and source != ALL_SOURCES:
                progress(f"{task.name} on {source}, spoken")
                typed = sample(some, spoken_rows)
                recognised = hear(typed.texts)
                report = replace(report, spoken=_spoken(judged, heads[task.tensor], typed, recognised))
                errors += sum(map(word_errors, typed.texts, recognised))
                words += sum(len(_words(text)) for text in typed.texts)
            reports.append(report)
    return Evaluation(tuple(reports), word_errors=errors / words if words else None, part=part)


class _Remembered:
    """A runner that runs each text once for an output: tasks share texts, and all sources together are the parts."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._known: dict[str, dict[str, FloatArray]] = {}

    def run(self, texts: Sequence[str], outputs: Sequence[str]) -> dict[str, FloatArray]:
        """Run all texts and return each output `[rows, …]`."""
        found = {}
        for output in outputs:
            known = self._known.setdefault(output, {})
            missing = [text for text in dict.fromkeys(texts) if text not in known]
            if missing:
                known.update(zip(missing, self._runner.run(missing, [output])[output], strict=True))
            found[output] = np.stack([known[text] for text in texts])
        return found


def _by_source(rows: Examples, max_rows: int) -> Iterable[tuple[str, Examples]]:
    """Cut rows by data set, at most so many of each; where there are several, all of these together come last."""
    parts = []
    for source in sorted(set(rows.sources)):
        chosen = np.flatnonzero([name == source for name in rows.sources])
        parts.append(sample(rows.take(chosen), max_rows))
        yield source, parts[-1]
    if len(parts) > 1:
        yield ALL_SOURCES, join(parts)


def _words(text: str) -> list[str]:
    return strip_marks(spell_numbers(text)).split()


def word_errors(typed: str, recognised: str) -> int:
    """Count words to change, drop or add, case, marks and the writing of numbers aside (Levenshtein)."""
    reference, given = _words(typed), _words(recognised)
    row = list(range(len(given) + 1))
    for i, word in enumerate(reference, start=1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(given, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
    return row[-1]


def _spoken(runner: _Remembered, spec: HeadSpec, rows: Examples, recognised: Sequence[str]) -> tuple[float, float]:
    """Return the first number of recognised and of typed rows."""
    heard = replace(rows, texts=tuple(recognised))
    return _first_number(runner, spec, heard), _first_number(runner, spec, rows)


def _score(runner: _Remembered, spec: HeadSpec, rows: Examples) -> tuple[FloatArray, NDArray[np.bool_]]:
    tensor = rows.task.tensor
    plain = spec.carry is None
    logits = (
        runner.run(rows.texts, [tensor])[tensor] if plain else logits_in_context(rows, runner.run, spec.carry_first)
    )
    scores = silence_other_speaker(spec, rows, scores_of(spec, logits))
    return scores, decide(spec, scores)


def _first_number(runner: _Remembered, spec: HeadSpec, rows: Examples) -> float:
    return next(iter(task_metrics(rows.task, *_score(runner, spec, rows), rows).values()))


def _evaluate_task(runner: _Remembered, spec: HeadSpec, rows: Examples, source: str) -> TaskReport:
    task = rows.task
    rng = random.Random(HEARD_SEED)

    scores, claimed = _score(runner, spec, rows)
    reliability = calibration(task, scores, claimed, rows)
    known, true = rows.mask > 0, rows.targets > 0.5
    return TaskReport(
        task=task.name,
        source=source,
        rows=len(rows),
        numbers={**task_metrics(task, scores, claimed, rows), "calibration_error": reliability.error}
        | {"calibration_chance": reliability.chance},
        unmarked=_first_number(runner, spec, rows.rewritten(strip_marks)),
        heard=_first_number(runner, spec, rows.rewritten(lambda text: as_heard(text, rng))),
        spoken=None,
        labels=tuple(_label_rows(rows.labels, metrics.count(claimed & known, true & known))),
        confusions=tuple(_confusions(rows.labels, claimed, true)) if task.kind.is_softmax else (),
        reliability=reliability,
        matrix=true.T.astype(np.int64) @ claimed if task.kind.is_softmax else None,
        names=rows.labels,
        alone=None if spec.carry is None else _first_number(runner, spec, rows.alone()),
    )


def _label_rows(labels: Sequence[str], counts: metrics.Counts) -> Iterable[LabelRow]:
    columns = zip(labels, counts.precision, counts.recall, counts.f1, counts.true, strict=True)
    for label, precision, recall, f1, rows in columns:
        if rows:
            yield LabelRow(label, float(precision), float(recall), float(f1), int(rows))


def _confusions(
    labels: Sequence[str], claimed: NDArray[np.bool_], true: NDArray[np.bool_], most: int = 12
) -> Iterable[tuple[str, str, int]]:
    pairs = Counter((labels[t], labels[c]) for t, c in zip(true.argmax(1), claimed.argmax(1), strict=True) if t != c)
    return ((was, given, rows) for (was, given), rows in pairs.most_common(most))


def _scope_metrics(runner: _Remembered, spec: HeadSpec, inside: Examples, outside: Examples) -> dict[str, float]:
    def scope(texts: Sequence[str]) -> FloatArray:
        logits = runner.run(texts, [SCOPE_TENSOR])[SCOPE_TENSOR][:, 0]
        return sigmoid(logits / spec.scope_temperature + spec.scope_bias)

    known, unknown = scope(inside.texts), scope(outside.texts)
    return {
        "oos_recall_at_95": metrics.recall_at_kept(known, unknown),
        "oos_auroc": metrics.auroc(known, unknown),
        "in_scope_kept": float((known >= spec.scope_threshold).mean()),
        "oos_caught": float((unknown < spec.scope_threshold).mean()),
    }


def measure_latency(
    runner: Runner, outputs: Sequence[str], repeats: int = 40
) -> dict[tuple[int, int], tuple[float, float]]:
    """Time one pass of each shape, median and least of `repeats` after a warm-up, in milliseconds."""
    found = {}
    for rows, tokens in SHAPES:
        text = " ".join(["card"] * (tokens - 2))  # one token a word, and the two marks around them
        times = []
        for _ in range(repeats + 3):
            started_s = time.perf_counter()
            runner.run([text] * rows, outputs)
            times.append((time.perf_counter() - started_s) * 1000)
        found[rows, tokens] = (float(np.median(times[3:])), min(times[3:]))
    return found
