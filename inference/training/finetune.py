"""Fine-tunes the shared encoder on all tasks at once, held to the frozen encoder so that retrieval stays whole.

Every batch mixes rows of all tasks; one forward serves every loss. The pooled vector feeds the heads; a projection of
it must stay at the frozen encoder's embedding of the clean text, whatever a recogniser made of the words. Embeddings
and lowest layers stay as they are: rare words keep their meaning, and a step costs less.

A step's rows and augmentation depend on the seed and the step alone, so a resumed run continues as if it had not
stopped.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn

from inference.export.heads import Linear
from inference.export.weights import Encoder
from inference.training.augment import DEFAULT_RECIPE, Recipe, as_heard
from inference.training.calibrate import sigmoid, softmax
from inference.training.tasks import Examples, FloatArray

DEFAULT_QUOTAS: Mapping[str, int] = {
    "intent": 60,
    "outside": 10,
    "intent_banking": 40,
    "intent_modular": 26,
    "sentiment": 56,
    "dissatisfied": 20,
    "acts": 22,
    "actions": 8,
    "question": 8,
    "plain": 6,
}
"""Rows of each source in a pool of 256. Small sets are seen often, noisy ones seldom."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run depends on beside its data.

    Attributes:
        steps: Optimiser steps in all.
        batch_rows: Rows a step.
        max_tokens: Longer rows are cut.
        frozen_layers: Lowest layers that keep their weights; each saves a ninth of a step.
        encoder_rate: Peak learning rate of the encoder.
        head_rate: Peak learning rate of heads and projection.
        warmup: Share of the steps until the peak; from there linear to zero.
        distillation: Weight of the loss that holds the embedding to the frozen one.
        augmented: Share of rows written as heard.
        weight_decay: Of the encoder's matrices.
        seed: Of everything.
        save_every: Steps between checkpoints.
        floor: Share of the peak rate that the fall stops at; above zero it keeps moving, which `averaged` needs.
        averaged: Share of the steps, the last ones, of whose weights the mean is taken; 0: the last weights.
        quotas: Rows of each source in a pool.
        recipe: How texts are changed.
    """

    steps: int = 3000
    batch_rows: int = 64
    max_tokens: int = 40
    frozen_layers: int = 2
    encoder_rate: float = 1.5e-4
    head_rate: float = 2e-3
    warmup: float = 0.06
    distillation: float = 2.0
    augmented: float = 0.6
    weight_decay: float = 0.02
    seed: int = 0
    save_every: int = 250
    floor: float = 0.0
    averaged: float = 0.0
    quotas: Mapping[str, int] = field(default_factory=lambda: dict(DEFAULT_QUOTAS))
    recipe: Recipe = DEFAULT_RECIPE


@dataclass(frozen=True, slots=True)
class Source:
    """Rows to draw from.

    Attributes:
        tensor: Logits that answer them; empty: only held to the frozen encoder.
        softmax: How logits become scores.
        texts: One a row.
        targets: `[rows, labels] float32`; a softmax row may spread over all labels (utterances outside).
        mask: `[rows, labels] float32`, 1 where known.
        frozen: `[rows, dims] float32`, embedding of the clean text by the frozen encoder.
    """

    tensor: str
    softmax: bool
    texts: Sequence[str]
    targets: FloatArray
    mask: FloatArray
    frozen: FloatArray


def as_source(rows: Examples, frozen: FloatArray) -> Source:
    """Make a source of a task's fit rows."""
    return Source(rows.task.tensor, rows.task.kind.is_softmax, rows.texts, rows.targets, rows.mask, frozen)


def softened(source: Source, logits: FloatArray, share: float) -> Source:
    """Believe the labels only in part, and for the rest the model that the run continues from.

    Raters disagree on moods: more steps on their labels alone learn them by heart.
    Source: self-distillation (Furlanello et al., 2018).

    Args:
        source: Rows to draw from.
        logits: `[rows, labels] float32`, of that model for these rows.
        share: Of the model, 0 to 1.
    """
    scores = softmax(logits) if source.softmax else sigmoid(logits)
    return replace(source, targets=np.asarray(share * scores + (1 - share) * source.targets, np.float32))


class SharedModel(nn.Module):
    """Encoder, heads on its pooled vector, and the projection to the embedding.

    Args:
        encoder: Where the weights start.
        heads: Where the heads start: fitted on this encoder, so that training begins at that quality.
        projection: `[dims, dims] float32`, where the projection starts; None: at the identity, as the base model does.
    """

    def __init__(self, encoder: Encoder, heads: Mapping[str, Linear], projection: FloatArray | None = None) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        positions = encoder.tensors["embeddings.position_embeddings.weight"].shape[0]
        config = BertConfig(
            vocab_size=encoder.tensors["embeddings.word_embeddings.weight"].shape[0],
            hidden_size=encoder.dims,
            num_hidden_layers=encoder.num_layers,
            num_attention_heads=encoder.num_heads,
            intermediate_size=encoder.tensors["encoder.layer.0.intermediate.dense.weight"].shape[0],
            max_position_embeddings=positions,
            layer_norm_eps=encoder.epsilon,
            # Dropout costs as much as all matrix products on CPU; augmentation and the frozen reference regularise.
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            attn_implementation="sdpa",
        )
        self.encoder = BertModel(config, add_pooling_layer=False)
        state = {name: torch.from_numpy(np.array(value)) for name, value in encoder.tensors.items()}
        state = {name: value for name, value in state.items() if not name.startswith("pooler.")}
        self.encoder.load_state_dict(state, strict=True)
        self.heads = nn.ModuleDict()
        for name, head in heads.items():
            layer = nn.Linear(head.weight.shape[1], head.weight.shape[0])
            layer.load_state_dict({"weight": torch.from_numpy(head.weight), "bias": torch.from_numpy(head.bias)})
            self.heads[name] = layer
        self.projection = nn.Linear(encoder.dims, encoder.dims, bias=False)
        with torch.no_grad():
            self.projection.weight.copy_(
                torch.eye(encoder.dims) if projection is None else torch.from_numpy(projection)
            )

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features `[rows, dims]` and embedding `[rows, dims]`, both of length one."""
        hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        total = (hidden * mask[:, :, None]).sum(1)
        features = nn.functional.normalize(total, dim=1)
        return features, nn.functional.normalize(self.projection(features), dim=1)

    def freeze(self, num_layers: int) -> None:
        """Keep the embeddings and the lowest layers as they are."""
        for part in (self.encoder.embeddings, *self.encoder.encoder.layer[:num_layers]):
            part.requires_grad_(False)

    def export(self, start: Encoder) -> tuple[Encoder, FloatArray, dict[str, Linear]]:
        """Return encoder, projection `[dims, dims]` (applied as `projection @ features`) and heads as arrays."""
        tensors = {name: value.detach().float().numpy() for name, value in self.encoder.state_dict().items()}
        encoder = Encoder(tensors, start.num_layers, start.num_heads, start.epsilon)
        heads = {
            name: Linear(layer.weight.detach().numpy().copy(), layer.bias.detach().numpy().copy())
            for name, layer in self.heads.items()
        }
        return encoder, self.projection.weight.detach().numpy().copy(), heads


@dataclass(frozen=True, slots=True)
class Row:
    """One drawn row: where from, and its tokens."""

    source: str
    row: int
    ids: list[int]


def draw_pool(sources: Mapping[str, Source], settings: Settings, tokenizer: Tokenizer, pool: int) -> list[list[Row]]:
    """Draw one pool by quota, augment and tokenise it, and cut it into length-sorted batches in random order."""
    rng = random.Random(f"{settings.seed}:{pool}")
    drawn: list[tuple[str, int, str]] = []
    for name, quota in settings.quotas.items():
        source = sources[name]
        for _ in range(quota):
            row = rng.randrange(len(source.texts))
            text = source.texts[row]
            drawn.append(
                (name, row, as_heard(text, rng, settings.recipe) if rng.random() < settings.augmented else text)
            )
    encodings = tokenizer.encode_batch([text for _, _, text in drawn])
    rows = [
        Row(name, row, encoding.ids[: settings.max_tokens])
        for (name, row, _), encoding in zip(drawn, encodings, strict=True)
    ]
    rng.shuffle(rows)
    rows.sort(key=lambda row: len(row.ids))
    batches = [rows[start : start + settings.batch_rows] for start in range(0, len(rows), settings.batch_rows)]
    rng.shuffle(batches)
    return batches


def batch_loss(model: SharedModel, batch: Sequence[Row], sources: Mapping[str, Source], distillation: float) -> Any:
    """Run a batch and add up its losses, as a mean over rows."""
    width = max(len(row.ids) for row in batch)
    ids, mask = torch.zeros(len(batch), width, dtype=torch.long), torch.zeros(len(batch), width)
    for place, row in enumerate(batch):
        ids[place, : len(row.ids)] = torch.tensor(row.ids)
        mask[place, : len(row.ids)] = 1
    features, embedding = model(ids, mask)
    frozen = torch.from_numpy(np.stack([sources[row.source].frozen[row.row] for row in batch]))
    loss = distillation * (1 - (embedding * frozen).sum(1)).sum()
    places: dict[str, list[int]] = {}
    for place, row in enumerate(batch):
        places.setdefault(row.source, []).append(place)
    for name, chosen in places.items():
        source = sources[name]
        if not source.tensor:
            continue
        rows = [batch[place].row for place in chosen]
        logits = model.heads[source.tensor](features[chosen])
        targets = torch.from_numpy(source.targets[rows])
        if source.softmax:
            loss = loss - (torch.log_softmax(logits, 1) * targets).sum()
        else:
            known = torch.from_numpy(source.mask[rows])
            entries = nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
            loss = loss + (entries * known).sum()
    return loss / len(batch)


def learning_rate(step: int, settings: Settings) -> float:
    """Share of the peak rate at a step: linear up, linear down to the floor."""
    warm = max(1, round(settings.steps * settings.warmup))
    if step < warm:
        return (step + 1) / warm
    return max(settings.floor, (settings.steps - step) / max(1, settings.steps - warm))


class _Average:
    """Mean of a model's weights over steps (stochastic weight averaging, Izmailov et al., 2018)."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.num_steps = 0
        self.means = {name: value.detach().clone() for name, value in self._moving()}

    def _moving(self) -> Iterator[tuple[str, torch.Tensor]]:
        return ((name, value) for name, value in self._model.named_parameters() if value.requires_grad)

    def add(self) -> None:
        """Count the weights as they are now."""
        self.num_steps += 1
        for name, value in self._moving():
            self.means[name].lerp_(value.detach(), 1 / self.num_steps)

    def apply(self) -> None:
        """Give the model the mean, where there is one."""
        if self.num_steps:
            self._model.load_state_dict(self.means, strict=False)


def finetune(
    model: SharedModel,
    sources: Mapping[str, Source],
    tokenizer: Tokenizer,
    settings: Settings,
    state_file: Path,
    progress: Callable[[int, float], None] = lambda _step, _loss: None,
) -> None:
    """Train in place; continue from `state_file` where it exists.

    Args:
        model: Changed in place.
        sources: By name; must hold every name of the quotas.
        tokenizer: Without padding.
        settings: Of the run; a state written under other settings is refused.
        state_file: Checkpoint, replaced whole every `save_every` steps.
        progress: Called after each step with the number of steps done and the loss.

    Raises:
        ValueError: If the state was written under other settings.
    """
    model.freeze(settings.frozen_layers)
    matrices = [p for p in model.encoder.parameters() if p.requires_grad and p.ndim > 1]
    vectors = [p for p in model.encoder.parameters() if p.requires_grad and p.ndim == 1]
    own = [*model.heads.parameters(), *model.projection.parameters()]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "peak": settings.encoder_rate, "weight_decay": settings.weight_decay},
            {"params": vectors, "peak": settings.encoder_rate, "weight_decay": 0.0},
            {"params": own, "peak": settings.head_rate, "weight_decay": 0.0},
        ],
        lr=settings.encoder_rate,
        fused=True,
    )
    average = _Average(model)
    start = _resume(model, optimizer, average, settings, state_file)
    first_averaged = settings.steps - round(settings.steps * settings.averaged)
    model.train()
    per_pool = -(-sum(settings.quotas.values()) // settings.batch_rows)
    pool: list[list[Row]] = []
    for step in range(start, settings.steps):
        if not pool or step % per_pool == 0:
            pool = draw_pool(sources, settings, tokenizer, step // per_pool)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * learning_rate(step, settings)
        loss = batch_loss(model, pool[step % per_pool], sources, settings.distillation)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([*matrices, *vectors], 5.0)
        optimizer.step()
        if step >= first_averaged:
            average.add()
        progress(step + 1, loss.item())
        if (step + 1) % settings.save_every == 0 or step + 1 == settings.steps:
            partial = state_file.with_suffix(".partial")
            torch.save(
                {
                    "step": step + 1,
                    "settings": repr(settings),
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "average": average.means,
                    "averaged": average.num_steps,
                },
                partial,
            )
            partial.replace(state_file)
    average.apply()


def _resume(
    model: SharedModel, optimizer: torch.optim.Optimizer, average: _Average, settings: Settings, state_file: Path
) -> int:
    if not state_file.is_file():
        return 0
    state = torch.load(state_file, weights_only=True)
    if state["settings"] != repr(settings):
        raise ValueError(f"{state_file} belongs to a run with other settings: remove it or use them")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    average.means, average.num_steps = state["average"], state["averaged"]
    return int(state["step"])
