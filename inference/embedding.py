"""Texts to vectors, through the engine like any other row: in full batches, behind all live requests."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from inference.errors import ModelError, ModelFailed
from inference.graph import Graph, Node
from inference.repository import ModelRepository
from inference.request import EmbeddingArray, RowClass

if TYPE_CHECKING:
    from inference.engine import Engine

EMBEDDING = "embedding"
"""Output of a model that is a text's vector."""
RETRIEVAL = "retrieval"
"""Output that is the vector to search by, where a model has one of its own for that."""

_WINDOW = 128
"""Texts of one `embed` under way at once: full batches for every worker, a fraction of the queue."""


def embedding_graph(model: str, output: str) -> Graph:
    """Declare what makes the vector of one `text`; the graph's output has the name of the model's."""
    nodes = {
        "tokens": Node(op="tokenize", model=model, inputs=("text",)),
        "encoder": Node(op="model", model=model, inputs=("tokens",)),
        output: Node(op="select", inputs=(f"encoder.{output}",)),
    }
    return Graph("embed", {"text": "string"}, nodes, (output,))


async def vectors_of(
    engine: Engine, model: str, texts: Sequence[str], version: int, output: str, row_class: RowClass
) -> EmbeddingArray:
    """Embed texts, all at once, without those that are remembered.

    Args:
        engine: Started.
        model: With such an output.
        texts: At least one, and no more than may be queued.
        version: Loaded version; never left to the moment, for another may answer between recalling and asking.
        output: `EMBEDDING` or `RETRIEVAL`.
        row_class: Who goes first.

    Returns:
        `[texts, dims] float32`, L2-normalised.

    Raises:
        InferenceError: As `Engine.run`.
    """
    found = engine.recall(model, texts, version, output)
    unknown = [number for number, vector in enumerate(found) if vector is None]
    if unknown:
        plan = engine.compile(embedding_graph(model, output), None)
        pins = {model: version}
        runs = (engine.run(plan, {"text": texts[number]}, row_class=row_class, pins=pins) for number in unknown)
        for number, outputs in zip(unknown, await asyncio.gather(*runs), strict=True):
            found[number] = outputs[output].value
    return np.array(found)


async def embed(
    engine: Engine, repository: ModelRepository, model: str, texts: Sequence[str], version: int | None, output: str
) -> EmbeddingArray:
    """Embed texts. See `Engine.embed`.

    Args:
        engine: Started.
        repository: What it serves.
        model: With such an output.
        texts: Any number.
        version: Loaded version; None: the one that answers.
        output: `EMBEDDING` or `RETRIEVAL`.

    Raises:
        ModelFailed: If a vector is not made of numbers; compared with anything, it would find nothing, and nobody told.
    """
    found: list[EmbeddingArray] = []
    version = version if version is not None else engine.service(model).version.version
    for start in range(0, len(texts), _WINDOW):
        part = texts[start : start + _WINDOW]
        found.append(await vectors_of(engine, model, part, version, output, RowClass.BACKGROUND))
        await asyncio.sleep(0)  # all of them may be remembered, and the loop has others to serve
    if not found:
        outputs = repository.model(model).config.outputs
        return np.empty((0, next(spec.size for spec in outputs if spec.name == output)), np.float32)
    vectors = np.concatenate(found)
    if not np.isfinite(vectors).all():
        raise ModelFailed(f"{output} of model {model} is not finite for some text")
    return vectors


def first_with_embedding(repository: ModelRepository) -> str:
    """Name the first model that has an embedding.

    Raises:
        ModelError: If none has.
    """
    for name, model in repository.models.items():
        if any(spec.name == EMBEDDING for spec in model.config.outputs):
            return name
    raise ModelError("no model has an output `embedding`", path=repository.path.name)
