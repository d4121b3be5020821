"""The committed utterance model without the engine: a text's embedding and the values of its heads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from inference.errors import ModelError
from inference.heads import HeadBank
from inference.repository import ModelRepository
from inference.request import PrototypeSet
from inference.tokens import Tokenizer

ROOT = Path(__file__).parents[3]
MAX_TOKENS = 128
CUSTOMER_ONLY = {"intent", "intent_banking", "intent_modular", "sentiment", "dissatisfied", "question"}


class Encoder:
    def __init__(self) -> None:
        try:
            self._model = ModelRepository.open(ROOT / "model_repo").model("utterance").latest
        except ModelError:
            pytest.skip("the model's weights are not built; run `make models`")
        assert self._model.tokenizer is not None
        self._tokens = Tokenizer.from_file(self._model.tokenizer, MAX_TOKENS)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(self._model.weights, options, providers=["CPUExecutionProvider"])
        self._names = [output.name for output in self._session.get_outputs()]
        self._heads = HeadBank(self._model.heads, self._model.labels)

    def outputs(self, text: str) -> dict[str, NDArray[np.float32]]:
        ids = np.frombuffer(self._tokens.encode(text), np.int32)[None]
        values = self._session.run(self._names, {"input_ids": ids, "attention_mask": np.ones_like(ids)})
        return dict(zip(self._names, values, strict=True))

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.concatenate([self.outputs(text)["embedding"] for text in texts])

    def claims(self, text: str, speaker: str, prototypes: PrototypeSet | None = None) -> dict[str, Any]:
        """All outputs of the guidance graph for one text; None where the graph would not run them."""
        arrays = self.outputs(text)
        claims: dict[str, Any] = {}
        reading = self._heads.read(arrays)
        for tensor in self._model.heads:
            name = tensor.removesuffix("_logits")
            is_wanted = speaker == "customer" or name not in CUSTOMER_ONLY
            claims[name] = reading.value(tensor, 0, speaker)[0] if is_wanted else None
        if prototypes is not None:
            similarity = prototypes.vectors @ arrays["embedding"][0]
            claims["moments"] = []
            for label, name in enumerate(prototypes.labels):
                own = np.flatnonzero(prototypes.label_of == label)
                best = own[similarity[own].argmax()]
                if similarity[best] >= prototypes.thresholds[label]:
                    score = round(float(similarity[best]), 4)
                    claims["moments"].append({"label": name, "score": score, "phrase": prototypes.phrases[best]})
        return claims
