"""A student with fewer layers: some layers of the teacher, tuned like any encoder, held to the teacher's features.

    teacher ──keep_layers──▶ student ──finetune, reference = the teacher's features──▶ student, its way to them

The student learns labels as the teacher did, and where the teacher puts a text, heard or typed. Source: patient
knowledge distillation (Sun et al., 2019), of the pooled vector alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from inference.export.weights import Encoder, FloatArray

_LAYER = re.compile(r"encoder\.layer\.(\d+)\.(.+)")


def keep_layers(teacher: Encoder, layers: Sequence[int]) -> Encoder:
    """Return an encoder of these layers of the teacher, in this order, and its embeddings.

    Raises:
        ValueError: If a layer is not there, or none is kept.
    """
    if not layers or any(not 0 <= layer < teacher.num_layers for layer in layers):
        raise ValueError(f"expected layers of 0 to {teacher.num_layers - 1}, given {list(layers)}")
    tensors = {}
    for name, value in teacher.tensors.items():
        match = _LAYER.fullmatch(name)
        if match is None:
            tensors[name] = value
            continue
        for place, layer in enumerate(layers):
            if layer == int(match[1]):
                tensors[f"encoder.layer.{place}.{match[2]}"] = value
    return Encoder(tensors, len(layers), teacher.num_heads, teacher.epsilon)


def embedding_of(to_teacher: FloatArray, projection: FloatArray | None) -> FloatArray:
    """Join the student's way to the teacher's features with the teacher's from there to the embedding.

    Lengths are made one at the end, so one product is enough.

    Args:
        to_teacher: `[dims, dims]`, from `fit_projection`.
        projection: `[dims, dims]`, the teacher's; None: its features are the embedding.
    """
    return to_teacher if projection is None else np.asarray(projection @ to_teacher, np.float32)
