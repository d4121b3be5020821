"""A student keeps layers of its teacher, and learns to put texts where the teacher does."""

from __future__ import annotations

import numpy as np
import pytest

from inference.training.distil import embedding_of, keep_layers
from tests.inference.export.tiny_bert import DIMS, NUM_LAYERS, reference_hidden, tiny_encoder


def test_all_layers_are_the_teacher() -> None:
    teacher = tiny_encoder()
    student = keep_layers(teacher, range(NUM_LAYERS))
    assert student.tensors.keys() == teacher.tensors.keys()
    np.testing.assert_array_equal(reference_hidden(student, [1, 2, 3]), reference_hidden(teacher, [1, 2, 3]))


def test_some_layers_keep_their_weights_in_the_order_asked_for() -> None:
    teacher = tiny_encoder()
    student = keep_layers(teacher, [NUM_LAYERS - 1])
    assert student.num_layers == 1
    assert not any(name.startswith("encoder.layer.1.") for name in student.tensors)
    last = teacher.tensors[f"encoder.layer.{NUM_LAYERS - 1}.output.dense.weight"]
    assert student.tensors["encoder.layer.0.output.dense.weight"] is last
    words = "embeddings.word_embeddings.weight"
    assert student.tensors[words] is teacher.tensors[words]


@pytest.mark.parametrize("layers", [[], [NUM_LAYERS], [-1]])
def test_layers_that_are_not_there_are_refused(layers: list[int]) -> None:
    with pytest.raises(ValueError, match="expected layers of 0 to"):
        keep_layers(tiny_encoder(), layers)


def test_the_way_to_the_embedding_leads_over_the_teachers_features() -> None:
    rng = np.random.default_rng(0)
    features, one, two = rng.normal(size=DIMS), rng.normal(size=(DIMS, DIMS)), rng.normal(size=(DIMS, DIMS))
    np.testing.assert_allclose(embedding_of(one, two) @ features, two @ (one @ features), rtol=1e-4)
    assert embedding_of(one, None) is one
