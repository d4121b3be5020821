"""From a built model's logits to `heads.json`: temperatures, biases and thresholds, fitted on the calibrate rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.export.heads import CARRY
from inference.training import calibrate
from inference.training.augment import as_on_calls
from inference.training.context import Run, logits_in_context
from inference.training.corpus import Corpus
from inference.training.tasks import SCOPE_TENSOR, SPEAKERS, TASKS, Examples, FloatArray, Kind, Task, join

FLAGS = {"question": "is_question"}


def fit_post_processing(corpus: Corpus, run: Run) -> Any:
    """Calibrate on the calibrate parts, with the logits of the model as it will be served.

    A score must hold on a call, where marks come and go with the recogniser: every row is read as typed, without case
    and marks, and as it might be heard.

    Args:
        corpus: Splits.
        run: Texts and output tensors in, tensors `[rows, …]` out.

    Returns:
        What `heads.json` holds: one object a logits tensor.
    """
    heads = {}
    first = 0
    for task in TASKS:
        part = as_on_calls(corpus.splits[task.name].calibrate)
        if not task.in_context:
            heads[task.tensor] = _post_process(task, part, run(part.texts, [task.tensor])[task.tensor])
            continue
        part = join([part, part.alone()])
        heads[task.tensor] = _post_process(task, part, logits_in_context(part, run, first))
        heads[task.tensor] |= {"carry": CARRY, "carry_first": first}
        first += len(part.labels)
    said = corpus.splits["acts"].fit
    heads["acts_logits"]["speakers"] = {speaker: _labels_said_by(said, speaker) for speaker in SPEAKERS}
    heads["intent_logits"] |= _scope(corpus, run)
    return heads


def _post_process(task: Task, part: Examples, values: FloatArray) -> dict[str, Any]:
    if task.kind.is_softmax:
        return {"kind": task.kind.value, "temperature": round(calibrate.fit_temperature(values, part.targets), 4)}
    num_labels = len(part.labels)
    temperature, bias, threshold = (np.zeros(num_labels) for _ in range(3))
    for columns in _columns_of_equal_evidence(part):
        known = part.mask[:, columns] > 0
        group, targets = values[:, columns], part.targets[:, columns]
        platt = calibrate.fit_platt(group, targets, part.mask[:, columns])
        scores = calibrate.sigmoid(group / platt.temperature + platt.bias)
        temperature[columns], bias[columns] = platt.temperature, platt.bias
        threshold[columns] = calibrate.best_threshold(scores[known], targets[known])
    head: dict[str, Any] = {
        "kind": task.kind.value,
        "temperature": _shortest(temperature),
        "bias": bias.round(4).tolist(),
        "threshold": _shortest(threshold),
    }
    if task.kind is Kind.BINARY and task.name in FLAGS:
        head["flag"] = FLAGS[task.name]
    return head


def _columns_of_equal_evidence(part: Examples) -> list[NDArray[np.intp]]:
    """Group the labels that are known on equally many rows: the same sources labelled them, so they share a scale.

    A catalogue of phrases and a labelled set of thousands do not; single labels have too few rows for their own.
    """
    known = part.mask.sum(0)
    return [np.flatnonzero(known == number) for number in np.unique(known)]


def _labels_said_by(rows: Examples, speaker: str) -> list[str]:
    said = [who == speaker for who in rows.speakers]
    return [label for label, number in zip(rows.labels, rows.targets[said].sum(0), strict=True) if number]


def _shortest(values: NDArray[np.float64]) -> float | list[float]:
    """One number where all labels share it, else one a label."""
    rounded: list[float] = values.round(4).tolist()
    return rounded[0] if len(set(rounded)) == 1 else rounded


def _scope(corpus: Corpus, run: Run) -> dict[str, Any]:
    """Calibrate the in-scope score; both sides weigh the same, as nobody knows the share of outside on a call."""
    inside, outside = (
        run(as_on_calls(rows).texts, [SCOPE_TENSOR])[SCOPE_TENSOR][:, 0]
        for rows in (corpus.splits["intent"].calibrate, corpus.outside.calibrate)
    )
    both = np.concatenate([inside, outside])
    targets = np.concatenate([np.ones_like(inside), np.zeros_like(outside)])
    weights = np.concatenate([np.full_like(inside, 1 / len(inside)), np.full_like(outside, 1 / len(outside))])
    platt = calibrate.fit_platt(both, targets, weights * len(both))
    kept = calibrate.keep_threshold(calibrate.sigmoid(inside / platt.temperature + platt.bias))
    return {
        "scope": SCOPE_TENSOR,
        "scope_temperature": round(platt.temperature, 4),
        "scope_bias": round(platt.bias, 4),
        "scope_threshold": round(kept, 4),
    }
