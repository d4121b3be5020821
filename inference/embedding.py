"""Texts to vectors, through the engine like any other row: in full batches, behind all live requests."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from inference.errors import ModelError
from inference.graph import Graph, Node
from inference.repository import ModelRepository
from inference.request import EmbeddingArray, Output, RowClass

if TYPE_CHECKING:
    from inference.engine import Engine

EMBEDDING = "embedding"
"""Output of a model that is a text's vector."""

_WINDOW = 128
"""Texts of one `embed` under way at once: full batches for every worker, a fraction of the queue."""


async def embed(
    engine: Engine, repository: ModelRepository, model: str, texts: Sequence[str], version: int | None
) -> EmbeddingArray:
    """Embed texts. See `Engine.embed`.

    Args:
        engine: Started.
        repository: What it serves.
        model: With an output `embedding`.
        texts: Any number.
        version: Loaded version; None: the one that answers.
    """
    nodes = {
        "tokens": Node(op="tokenize", model=model, inputs=("text",)),
        "encoder": Node(op="model", model=model, inputs=("tokens",)),
        EMBEDDING: Node(op="select", inputs=(f"encoder.{EMBEDDING}",)),
    }
    plan = engine.compile(Graph("embed", {"text": "string"}, nodes, (EMBEDDING,)), None)
    pins = {} if version is None else {model: version}
    found: list[dict[str, Output]] = []
    for start in range(0, len(texts), _WINDOW):
        part = texts[start : start + _WINDOW]
        runs = (engine.run(plan, {"text": text}, row_class=RowClass.BACKGROUND, pins=pins) for text in part)
        found.extend(await asyncio.gather(*runs))
    if not found:
        outputs = repository.model(model).config.outputs
        return np.empty((0, next(spec.size for spec in outputs if spec.name == EMBEDDING)), np.float32)
    return np.stack([outputs[EMBEDDING].value for outputs in found])


def first_with_embedding(repository: ModelRepository) -> str:
    """Name the first model that has an embedding.

    Raises:
        ModelError: If none has.
    """
    for name, model in repository.models.items():
        if any(spec.name == EMBEDDING for spec in model.config.outputs):
            return name
    raise ModelError("no model has an output `embedding`", path=repository.path.name)
