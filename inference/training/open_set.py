"""Fits the open-set score of a head: is an utterance any of the known intents?

Three views that fail differently: energy of the logits, distance to the nearest intent in a space where intents have
unit covariance, and a detector trained against utterances outside. Their mix is a logistic regression on held-out rows.
"""

from __future__ import annotations

import numpy as np

from inference.export.heads import Linear, OpenSet
from inference.training.linear import fit_linear, logits
from inference.training.tasks import FloatArray


def views(embeddings: FloatArray, head: Linear, score: OpenSet) -> FloatArray:
    """Compute energy, negative distance and detector, `[rows, 3] float32`."""
    known = logits(embeddings, head)
    top = known.max(1)
    energy = top + np.log(np.exp(known - top[:, None]).sum(1))
    white = embeddings @ score.whitening
    cross = np.square(score.centres).sum(1) - 2 * white @ score.centres.T
    distance = np.square(white).sum(1) + cross.min(1)
    return np.stack([energy, -distance, embeddings @ score.detector], 1).astype(np.float32)


def whiten(embeddings: FloatArray, labels: np.ndarray, shrinkage: float) -> tuple[FloatArray, FloatArray]:
    """Find the projection that gives the known labels unit covariance, and their centres in it.

    Args:
        embeddings: `[rows, dims] float32`.
        labels: `[rows] int`, label of each row.
        shrinkage: Share of the average variance added to every direction.

    Returns:
        `[dims, dims]` projection and `[labels, dims]` centres, float32.
    """
    centres = np.stack([embeddings[labels == label].mean(0) for label in range(labels.max() + 1)])
    rest = (embeddings - centres[labels]).astype(np.float64)
    covariance = rest.T @ rest / len(rest)
    covariance += shrinkage * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    values, vectors = np.linalg.eigh(covariance)
    projection = (vectors / np.sqrt(values)).astype(np.float32)
    return projection, (centres @ projection).astype(np.float32)


def fit_detector(inside: FloatArray, outside: FloatArray, strength: float) -> FloatArray:
    """Fit a linear detector with both sides of equal weight, `[dims] float32`."""
    features = np.concatenate([inside, outside])
    targets = np.concatenate([np.ones(len(inside)), np.zeros(len(outside))]).astype(np.float32)[:, None]
    share = [len(features) / (2 * len(inside)), len(features) / (2 * len(outside))]
    weights = np.repeat(share, [len(inside), len(outside)]).astype(np.float32)
    weight = fit_linear(features, targets, weights=weights, softmax=False, strength=strength).weight
    return np.asarray(weight[0], np.float32)


def fit_mix(inside: FloatArray, outside: FloatArray, strength: float = 10.0) -> FloatArray:
    """Fit the mix of views `[rows, 3]`, both sides of equal weight.

    Returns:
        `[4] float32`, three weights and a constant, on the raw scale of the views.
    """
    both = np.concatenate([inside, outside])
    mean, spread = both.mean(0), both.std(0)
    targets = np.concatenate([np.ones(len(inside)), np.zeros(len(outside))]).astype(np.float32)[:, None]
    share = [len(both) / (2 * len(inside)), len(both) / (2 * len(outside))]
    weights = np.repeat(share, [len(inside), len(outside)]).astype(np.float32)
    head = fit_linear((both - mean) / spread, targets, weights=weights, softmax=False, strength=strength)
    raw = head.weight[0] / spread
    return np.append(raw, head.bias[0] - float(raw @ mean)).astype(np.float32)
