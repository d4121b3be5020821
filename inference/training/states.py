"""Texts to token states through the fp32 encoder: what heads read that look at the tokens themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from rich.progress import track
from tokenizers import Tokenizer

from inference.export.encoder import ATTENTION_MASK, INPUT_IDS, add_encoder, layer_states
from inference.export.graph import GraphBuilder, tensor_info
from inference.export.precision import Float
from inference.export.weights import Encoder
from inference.training.features import batches, session_options
from inference.training.tasks import FloatArray


@dataclass(frozen=True, slots=True)
class TokenStates:
    """States of all tokens of all texts, one text behind the other.

    Attributes:
        values: `[tokens, layers x dims] float32`, the layers side by side.
        starts: `[texts + 1] int64`, where each text begins, and the end. A text has one token at least.
    """

    values: FloatArray
    starts: NDArray[np.int64]

    @property
    def owners(self) -> NDArray[np.int64]:
        """Text of each token, `[tokens] int64`."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))


class StateRunner:
    """Runs an encoder without heads over any number of texts. One thread at a time.

    Args:
        encoder: Whose states are wanted.
        layers: Which, counted from 1.
        tokenizer: Without padding.
        num_threads: Of onnxruntime.
    """

    def __init__(self, encoder: Encoder, layers: Sequence[int], tokenizer: Tokenizer, num_threads: int = 1) -> None:
        graph = GraphBuilder()
        add_encoder(graph, encoder, Float())
        self._names = [layer_states(graph, layer, np.float32) for layer in layers]
        inputs = [tensor_info(name, np.int32, ["rows", "tokens"]) for name in (INPUT_IDS, ATTENTION_MASK)]
        outputs = [tensor_info(name, np.float32, ["rows", "tokens", encoder.dims]) for name in self._names]
        model = graph.model("states", inputs, outputs).SerializeToString()
        self._session = ort.InferenceSession(model, session_options(num_threads), providers=["CPUExecutionProvider"])
        self._tokenizer = tokenizer
        self._width = len(self._names) * encoder.dims

    def run(self, texts: Sequence[str], title: str = "") -> TokenStates:
        """Run all texts.

        Args:
            texts: Any number.
            title: Shown beside the progress bar; empty shows none.
        """
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        starts = np.cumsum([0, *map(len, ids)])
        values = np.empty((starts[-1], self._width), np.float32)
        parts = batches(ids)
        for rows, tokens in track(parts, title) if title else parts:
            feeds = {INPUT_IDS: tokens[0], ATTENTION_MASK: tokens[1]}
            states = np.concatenate(self._session.run(self._names, feeds), axis=2)
            for place, row in enumerate(rows):
                values[starts[row] : starts[row + 1]] = states[place, : len(ids[row])]
        return TokenStates(values, starts)
