"""Fits the vector that bases are searched by, on bases of many trades, over an encoder that stays as it is.

    token states ─▶ pooling, projection ─▶ vectors ─▶ scores as a search makes them ─▶ the answering article is first

The others of the same base are what it is told from: near neighbours, which is where a search goes wrong. The head
begins as the embedding and is held to it, so that it says of a new trade what the embedding does where it has learned
nothing better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from inference.export.retrieval import RetrievalHead
from inference.training.search_task import SearchTask
from inference.training.tasks import FloatArray

States = FloatArray
"""`[tokens, layers x dims]` of one text, the last layer first."""

_LENGTHS = (12, 24, 48, 128)
"""Texts up to each length in tokens are padded together."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a fit depends on beside its data.

    Attributes:
        layers: Of the encoder, the last ones, that are read.
        epochs: Times that every base is seen.
        bases: A step.
        rate: Peak learning rate of the projection; it falls linearly.
        query_rate: The same of the pooling's query.
        dropout: Of the pooled vector.
        temperature: Of scores: below the distance of neighbours, above that of equals.
        alone: Weight of the loss of the last text of a question alone, beside all texts together.
        apart: Weight of the loss of direct questions whose evidence is below that of questions nothing answers.
        held: Weight of one minus the cosine to the embedding.
        seed: Of everything.
    """

    layers: int = 1
    epochs: int = 12
    bases: int = 2
    rate: float = 3e-4
    query_rate: float = 9e-4
    dropout: float = 0.1
    temperature: float = 0.06
    alone: float = 0.5
    apart: float = 2.0
    held: float = 2.0
    seed: int = 0


class PooledHead(nn.Module):
    """`RetrievalHead` as torch trains it. It begins as the mean of the last layer and the projection given.

    Args:
        projection: `[dims, dims] float32`: of the embedding.
        num_layers: Layers it reads.
        dropout: Of the pooled vectors.
    """

    def __init__(self, projection: FloatArray, num_layers: int, dropout: float) -> None:
        super().__init__()
        dims = len(projection)
        others = np.zeros((dims, (num_layers - 1) * dims), np.float32)
        self.query = nn.Parameter(torch.zeros(num_layers, dims))
        self.projection = nn.Parameter(torch.from_numpy(np.concatenate([projection, others], axis=1)))
        self.bias = nn.Parameter(torch.zeros(dims))
        self._dropout = dropout

    def forward(self, packed: Packed) -> Tensor:
        """Return `[texts, dims]`, of length one."""
        vectors = self.bias.new_zeros(packed.num_texts, len(self.bias))
        for rows, states, mask in packed.groups:
            layers = states.unflatten(2, self.query.shape)
            products = (layers * self.query).sum(3).masked_fill(mask[:, :, None] == 0, -1e4)
            pooled = F.normalize((products.softmax(1)[..., None] * layers).sum(1), dim=-1).flatten(1)
            pooled = F.dropout(pooled, self._dropout, self.training)
            vectors = vectors.index_copy(0, rows, pooled @ self.projection.T + self.bias)
        return F.normalize(vectors, dim=-1)

    def export(self) -> RetrievalHead:
        """Return the weights."""
        query, projection, bias = (x.detach().numpy().copy() for x in (self.query, self.projection, self.bias))
        return RetrievalHead(query, projection, bias)


@dataclass(frozen=True, slots=True)
class Packed:
    """States of texts, padded in groups of like length: rows, `[rows, tokens, width]`, mask `[rows, tokens]`."""

    num_texts: int
    groups: tuple[tuple[Tensor, Tensor, Tensor], ...]


def pack(states: Sequence[States]) -> Packed:
    """Put states of a few hundred texts into tensors."""
    lengths = np.array([len(one) for one in states])
    groups = []
    for shortest, longest in zip((0, *_LENGTHS), _LENGTHS, strict=False):
        rows = np.flatnonzero((lengths > shortest) & (lengths <= longest))
        if not len(rows):
            continue
        padded = np.zeros((len(rows), lengths[rows].max(), states[0].shape[1]), np.float32)
        mask = np.zeros(padded.shape[:2], np.float32)
        for place, row in enumerate(rows):
            padded[place, : lengths[row]], mask[place, : lengths[row]] = states[int(row)], 1
        groups.append((torch.from_numpy(rows), torch.from_numpy(padded), torch.from_numpy(mask)))
    return Packed(len(states), tuple(groups))


class PackedTask:
    """A task as tensors.

    Args:
        task: What is searched and asked.
        states_of: Gives the states of texts.
    """

    def __init__(self, task: SearchTask, states_of: Callable[[Sequence[str]], list[States]]) -> None:
        self.task = task
        self.documents, self.texts = pack(states_of(task.documents)), pack(states_of(task.texts))
        self.off_topic = pack(states_of(task.off_topic))
        self.off_topic_lexical = torch.from_numpy(task.off_topic_lexical)
        self.shares, self.lexical = torch.from_numpy(task.shares), torch.from_numpy(task.lexical)
        self.last, self.answers = torch.from_numpy(task.last), torch.from_numpy(task.answers)
        self.is_direct = torch.from_numpy(task.is_direct)
        self._part_of, self._measures = torch.from_numpy(task.part_of), torch.tensor(task.measures)
        self._num_passages, self._num_parts = len(task.passages), len(task.parts)

    def scores(self, documents: Tensor, texts: Tensor, lexical: Tensor) -> Tensor:
        """Return `[texts, parts]`, as `retrieval.scoring` has them."""
        similar = texts @ documents.T
        passages, others = similar[:, : self._num_passages], similar[:, self._num_passages :]
        empty = similar.new_full((len(texts), self._num_parts), -1.0)
        best = empty.scatter_reduce(1, self._part_of.expand(len(texts), -1), passages, "amax")
        kinds = others.reshape(len(texts), -1, self._num_parts)
        return self._measures[0] * best + (kinds * self._measures[1:, None]).sum(1) + lexical

    def rank(self, head: PooledHead) -> NDArray[np.int64]:
        """Return `[questions] int64`, how many parts come before the one that answers."""
        head.eval()
        with torch.no_grad():
            found = self.shares @ self.scores(head(self.documents), head(self.texts), self.lexical)
            own = found.gather(1, self.answers[:, None])
            return np.asarray((found > own).sum(1).numpy(), np.int64)


def fit_retrieval(
    tasks: Sequence[PackedTask],
    projection: FloatArray,
    settings: Settings,
    progress: Callable[[int, float], None] = lambda *_: None,
) -> PooledHead:
    """Fit the head. The same seed and tasks give the same weights; a minute or two on one core.

    Args:
        tasks: Bases with questions.
        projection: Where it begins, and what it is held to.
        settings: What else it depends on.
        progress: Called after each step with the number of steps done and the loss.
    """
    torch.manual_seed(settings.seed)
    head, anchor = (PooledHead(projection, settings.layers, rate) for rate in (settings.dropout, 0.0))
    anchor.eval()
    with torch.no_grad():
        held = [(anchor(task.documents), anchor(task.texts)) for task in tasks]
    groups = [
        {"params": [head.projection, head.bias], "lr": settings.rate},
        {"params": [head.query], "lr": settings.query_rate},
    ]
    optimizer = torch.optim.Adam(groups)
    per_epoch = math.ceil(len(tasks) / settings.bases)
    steps = settings.epochs * per_epoch
    warmup = max(1.0, 0.1 * steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / warmup) * (1 - step / max(steps, 1))
    )
    head.train()
    for step in range(steps):
        if step % per_epoch == 0:
            order = torch.randperm(len(tasks)).tolist()
        place = step % per_epoch * settings.bases
        chosen = order[place : place + settings.bases]
        losses = [_loss(head, tasks[number], held[number], settings) for number in chosen]
        loss = torch.stack(losses).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        progress(step + 1, loss.item())
    head.eval()
    return head


def _loss(head: PooledHead, task: PackedTask, held: tuple[Tensor, Tensor], settings: Settings) -> Tensor:
    documents, texts = head(task.documents), head(task.texts)
    scores = task.scores(documents, texts, task.lexical) / settings.temperature
    together = F.cross_entropy(task.shares @ scores, task.answers)
    alone = F.cross_entropy(scores[task.last], task.answers)
    # Evidence decides whether anything is shown: all pairs of a direct question and one that nothing answers.
    evidence = scores[task.last[task.is_direct]].amax(1)
    off_topic = task.scores(documents, head(task.off_topic), task.off_topic_lexical).amax(1) / settings.temperature
    apart = F.softplus(off_topic[None] - evidence[:, None]).mean()
    near = 2 - (documents * held[0]).sum(1).mean() - (texts * held[1]).sum(1).mean()
    return together + settings.alone * alone + settings.apart * apart + settings.held * near
