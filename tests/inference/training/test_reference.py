"""The real base model: our graph agrees with sentence-transformers, and static int8 does not mind company."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from inference.export.golden import SENTENCES, read_golden
from inference.export.verify import batch_gap, open_session
from inference.export.weights import base_model_folder, load_base_encoder
from inference.training.features import Runner, open_tokenizer

pytestmark = pytest.mark.slow

VERSION = Path(__file__).parents[3] / "model_repo" / "utterance" / "1"


def test_the_base_embedding_is_that_of_sentence_transformers() -> None:
    reference = pytest.importorskip("sentence_transformers")
    folder = base_model_folder()
    texts = [text for text in SENTENCES if text]
    expected = reference.SentenceTransformer(str(folder), device="cpu").encode(texts, normalize_embeddings=True)
    given = Runner.for_encoder(load_base_encoder(), open_tokenizer(folder / "tokenizer.json")).embed(texts)
    assert (expected * given).sum(1).min() > 0.9999


def test_a_row_of_the_served_model_does_not_depend_on_its_batch() -> None:
    model = VERSION / "model.onnx"
    if not model.is_file():
        pytest.skip("not built: `make models`")
    assert batch_gap(open_session(model), read_golden(VERSION / "golden.json")) < 1e-5


def test_texts_of_any_length_run() -> None:
    runner = Runner.for_encoder(load_base_encoder(), open_tokenizer(base_model_folder() / "tokenizer.json"))
    vectors = runner.embed(["", "word " * 10_000, "\x00\ud7ff𝔘 ￿", "yes"])
    assert np.isfinite(vectors).all()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
