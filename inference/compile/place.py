"""Pass 7, place: each model goes to a backend. The slot within it is taken per batch, by whichever is free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from inference.compile.draft import Draft
from inference.errors import GraphError
from inference.plan import Op
from inference.repository import ModelRepository

BACKENDS: Mapping[str, frozenset[str] | None] = {
    "onnxruntime": frozenset({"onnxruntime"}),
    "triton": None,
    "fake": None,
}
"""Our backends, and the `backend` of a `config.pbtxt` that each can serve; None: any."""


def place(draft: Draft, repository: ModelRepository, backends: Sequence[str] | Mapping[str, str]) -> Draft:
    """Choose the backend of each model.

    Args:
        draft: Any draft.
        repository: What each model was made for.
        backends: Names in order of preference; or model to name, with `*` for all other models.

    Raises:
        GraphError: If a name is unknown, or none of the backends can serve a model.
    """
    chosen: dict[str, str] = {}
    for model in draft.models:
        made_for = repository.model(model).config.backend
        if isinstance(backends, Mapping):
            candidates = [name for name in (backends.get(model), backends.get("*")) if name][:1]
        else:
            candidates = list(backends)
        fitting = [name for name in candidates if name in BACKENDS and _serves(name, made_for)]
        if not fitting:
            node = next(v.name for v in draft.vertices.values() if v.op is Op.MODEL and v.model == model)
            raise GraphError(
                f"no backend can serve model {model}",
                graph=draft.file,
                node=node,
                expected=" or ".join(name for name in BACKENDS if _serves(name, made_for)),
                given=", ".join(candidates) or "none",
            )
        chosen[model] = fitting[0]
    return replace(draft, backend=chosen)


def _serves(backend: str, made_for: str) -> bool:
    served = BACKENDS[backend]
    return served is None or made_for in served
