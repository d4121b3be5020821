"""Pass 6, bucket: each model gets its ladder of shapes, (rows, tokens), each warmed before the model is ready."""

from __future__ import annotations

from dataclasses import replace

from inference.compile.draft import Draft
from inference.repository import ModelRepository


def bucket(draft: Draft, repository: ModelRepository) -> Draft:
    """Attach the ladders that the model configs declare."""
    return replace(draft, buckets={model: repository.model(model).latest.buckets for model in draft.models})
