"""From pooled vectors to heads, in about a minute; `post_processing` makes their scores probabilities."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from inference.export.attention import Attention
from inference.export.experts import Experts
from inference.export.heads import Heads, Linear, OpenSet
from inference.training import calibrate, open_set
from inference.training.attention import READS_TOKENS, States, fit_reader, mix
from inference.training.augment import as_on_calls
from inference.training.context import Embed, fit_carry
from inference.training.corpus import Corpus
from inference.training.experts import HAS_EXPERTS, ask, fit_experts, means_of, weighed
from inference.training.linear import fit_linear, logits
from inference.training.tasks import SCOPE_TENSOR, TASKS, Examples, FloatArray, Task

STRENGTH = {"sentiment": 1.0, "dissatisfied": 1.0, "question": 5.0, "intent_modular": 80.0}
"""Inverse L2 penalty where it is not `DEFAULT_STRENGTH`: noisy labels take a stronger one, clean small sets less."""
DEFAULT_STRENGTH = 20.0

CATALOGUE_WEIGHT = 10.0
"""A phrase of the action catalogue stands for many; rows of other tasks only say that an action is or is not shown."""

BALANCE = {"tweeteval": 0.7}
"""How far a source's classes are evened out: 0 as they come, 1 all of equal weight. Tweets are told by the mean recall
of the classes, held out: 0.675 at 0, 0.698 at 0.7. MELD, told by weighted F1, comes as it is: 0.657, then 0.660."""

REFITTED = ("actions", "sentiment")
"""Heads that are always fitted afterwards: the likelihood of the rows as they come would choose against `BALANCE`, and
the catalogue of `actions` is small and grows without another fine-tuning."""

PROJECTION_RIDGE = 1.0

SHRINKAGE = 1.0
"""Of the open-set covariance; 0.01 to 3 differ by less than 0.001 AUROC once mixed."""
DETECTOR_STRENGTH = 10.0


def fit_heads(corpus: Corpus, embed: Embed) -> Heads:
    """Fit every head and the open-set score on the fit parts; the mix of the open-set views on the calibrate parts."""
    linear = {task.tensor: fit_head(task, corpus.splits[task.name].fit, embed) for task in TASKS}
    carry = fit_carries(corpus, embed, linear)
    return Heads(linear, {SCOPE_TENSOR: fit_open_set(corpus, linear["intent_logits"], embed)}, carry=carry)


def fit_carries(corpus: Corpus, embed: Embed, linear: Mapping[str, Linear]) -> dict[str, Linear]:
    """Fit what the turn before adds to the heads of tasks that depend on it, by tensor."""
    return {
        task.tensor: fit_carry(corpus.splits[task.name].fit, embed, linear[task.tensor], _strength(task))
        for task in TASKS
        if task.in_context
    }


def fit_attentions(
    corpus: Corpus, states: States, embed: Embed, linear: Mapping[str, Linear], num_layers: int
) -> tuple[dict[str, Linear], dict[str, Attention]]:
    """Fit what heads read among the tokens, and weigh it against the linear heads on the calibrate rows.

    Args:
        corpus: Splits.
        states: Texts and a title in, token states out.
        embed: Texts and a title in, features out.
        linear: Output tensor to head.
        num_layers: Whose states lie side by side.

    Returns:
        All linear heads, those that were weighed scaled, and the attention of these, by tensor.
    """
    scaled, attention = dict(linear), {}
    for task in TASKS:
        if task.name in READS_TOKENS:
            rows, held = (
                as_on_calls(part) for part in (corpus.splits[task.name].fit, corpus.splits[task.name].calibrate)
            )
            reader = fit_reader(states(rows.texts, f"{task.name}, tokens"), rows, num_layers)
            scaled[task.tensor], attention[task.tensor] = mix(
                linear[task.tensor], reader, embed(held.texts, ""), states(held.texts, ""), held
            )
    return scaled, attention


def fit_all_experts(
    corpus: Corpus, states: States, embed: Embed, linear: Mapping[str, Linear], num_layers: int
) -> dict[str, Experts]:
    """Fit the experts of heads that have some, and weigh them against the linear heads on the calibrate rows.

    Args:
        corpus: Splits.
        states: Texts and a title in, token states of the averaged layers out.
        embed: Texts and a title in, features out.
        linear: Output tensor to head.
        num_layers: Whose states lie side by side.

    Returns:
        Experts by tensor.
    """
    found = {}
    for task in TASKS:
        if task.name in HAS_EXPERTS:
            rows, held = corpus.splits[task.name].fit, as_on_calls(corpus.splits[task.name].calibrate)
            means, held_means = (
                means_of(states(part.texts, f"{task.name}, means"), num_layers) for part in (rows, held)
            )
            experts = fit_experts(means, rows, row_weights(rows), HAS_EXPERTS[task.name])
            given = logits(embed(held.texts, ""), linear[task.tensor])
            found[task.tensor] = weighed(experts, given, ask(held_means, experts), held.targets)
    return found


def fit_projection(features: FloatArray, embeddings: FloatArray) -> FloatArray:
    """Find the product that takes features to where a reference puts the same texts, by least squares.

    Better than the one learned along with the encoder, which the last steps leave behind: cosine to the base model on
    phrases of the shipped policies 0.949 instead of 0.944, and 0.928 instead of 0.925 when heard.

    Args:
        features: `[rows, dims] float32`, of the tuned encoder.
        embeddings: `[rows, dims] float32`, of the reference.

    Returns:
        `[dims, dims] float32`, applied as `projection @ features`; lengths are made one behind it.
    """
    x, y = features.astype(np.float64), embeddings.astype(np.float64)
    return np.linalg.solve(x.T @ x + PROJECTION_RIDGE * np.eye(x.shape[1]), x.T @ y).T.astype(np.float32)


def _strength(task: Task) -> float:
    return STRENGTH.get(task.name, DEFAULT_STRENGTH)


def choose_heads(corpus: Corpus, embed: Embed, tuned: Mapping[str, Linear]) -> dict[str, Linear]:
    """Take for each task the head that explains the calibrate rows better: tuned with the encoder, or fitted after it.

    Tuned heads have seen augmented text; fitted ones are the optimum on clean text.
    """
    chosen = {}
    for task in TASKS:
        split = corpus.splits[task.name]
        fitted = fit_head(task, split.fit, embed)
        rows, features = split.calibrate, embed(split.calibrate.texts, "")
        candidates = (fitted,) if task.name in REFITTED else (tuned[task.tensor], fitted)
        chosen[task.tensor] = min(candidates, key=lambda head: _loss(task, logits(features, head), rows))
    return chosen


def _loss(task: Task, values: FloatArray, rows: Examples) -> float:
    """Negative log-likelihood of calibrated scores: the same yardstick for heads of any sharpness."""
    if task.kind.is_softmax:
        scores = calibrate.softmax(values / calibrate.fit_temperature(values, rows.targets))
        return float(-np.log((scores * rows.targets).sum(1) + 1e-9).mean())
    platt = calibrate.fit_platt(values, rows.targets, rows.mask)
    scores = calibrate.sigmoid(values / platt.temperature + platt.bias)
    entries = rows.targets * np.log(scores + 1e-9) + (1 - rows.targets) * np.log(1 - scores + 1e-9)
    return float(-(entries * rows.mask).sum() / rows.mask.sum())


def fit_head(task: Task, rows: Examples, embed: Embed) -> Linear:
    """Fit one head."""
    return fit_linear(
        embed(rows.texts, task.name),
        rows.targets,
        mask=rows.mask,
        weights=row_weights(rows),
        softmax=task.kind.is_softmax,
        strength=_strength(task),
    )


def row_weights(rows: Examples) -> FloatArray:
    """Say how much each row counts, `[rows] float32`: by source, and by class where its source is evened out."""
    sources = np.array(rows.sources)
    weights = np.where(sources == "catalogue", CATALOGUE_WEIGHT, 1.0).astype(np.float32)
    for source, power in BALANCE.items():
        chosen = sources == source
        if chosen.any():
            share = rows.targets[chosen].mean(0)
            even = rows.targets[chosen] @ np.maximum(share, 1e-6) ** -power
            weights[chosen] = even / even.mean()
    return weights


def fit_open_set(corpus: Corpus, head: Linear, embed: Embed) -> OpenSet:
    """Fit the in-scope score of the intent head."""
    inside, outside = corpus.splits["intent"], corpus.outside
    vectors = embed(inside.fit.texts, "scope")
    projection, centres = open_set.whiten(vectors, inside.fit.targets.argmax(1), SHRINKAGE)
    detector = open_set.fit_detector(vectors, embed(outside.fit.texts, ""), DETECTOR_STRENGTH)
    score = OpenSet("intent_logits", projection, centres, detector, np.zeros(4, np.float32))
    held_inside = open_set.views(embed(inside.calibrate.texts, ""), head, score)
    held_outside = open_set.views(embed(outside.calibrate.texts, ""), head, score)
    return OpenSet(score.head, projection, centres, detector, open_set.fit_mix(held_inside, held_outside))
