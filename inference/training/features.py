"""Texts to pooled vectors through the fp32 encoder on onnxruntime, length-sorted, with progress."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from rich.progress import track
from tokenizers import Tokenizer

from inference.export.encoder import ATTENTION_MASK, INPUT_IDS
from inference.export.heads import EMBEDDING, Heads, fused_model
from inference.export.precision import Float
from inference.export.weights import MAX_TOKENS, Encoder, ExportError
from inference.training.tasks import FloatArray

BATCH_ROWS = 32


def open_tokenizer(path: Path) -> Tokenizer:
    """Read a `tokenizer.json` with padding off and rows cut at the longest of the ladder.

    Raises:
        ExportError: If it is missing or no tokeniser.
    """
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ExportError(f"{path}: {error}") from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    return tokenizer


class Runner:
    """Runs a fused model over any number of texts. One thread at a time."""

    def __init__(self, session: ort.InferenceSession, tokenizer: Tokenizer) -> None:
        self._session = session
        self._tokenizer = tokenizer

    @classmethod
    def for_encoder(cls, encoder: Encoder, tokenizer: Tokenizer, num_threads: int = 1) -> Runner:
        """Build the encoder without heads, in fp32."""
        model = fused_model(encoder, Heads({}, {}), Float()).SerializeToString()
        return cls(
            ort.InferenceSession(model, session_options(num_threads), providers=["CPUExecutionProvider"]), tokenizer
        )

    @classmethod
    def for_file(cls, path: Path, tokenizer: Tokenizer, num_threads: int = 1) -> Runner:
        """Open a built model file, as the engine does.

        Raises:
            ExportError: If it is missing or damaged.
        """
        try:
            session = ort.InferenceSession(
                str(path),
                session_options(num_threads),
                providers=["CPUExecutionProvider"],
                disabled_optimizers=["SkipLayerNormFusion"],
            )
        except Exception as error:  # the library's errors have no base class of their own
            raise ExportError(f"{path}: cannot be opened, run `cueline models build --force`: {error}") from error
        return cls(session, tokenizer)

    def run(self, texts: Sequence[str], outputs: Sequence[str], title: str = "") -> dict[str, FloatArray]:
        """Run all texts and return each output `[rows, …]`, rows in the order of the texts.

        Args:
            texts: Any number, empty ones too.
            outputs: Output tensors wanted.
            title: Shown beside the progress bar; empty shows none.
        """
        ids = [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]
        results: dict[str, FloatArray] = {}
        parts = batches(ids)
        for rows, tokens in track(parts, title) if title else parts:
            values = self._session.run(list(outputs), {INPUT_IDS: tokens[0], ATTENTION_MASK: tokens[1]})
            for name, value in zip(outputs, values, strict=True):
                if name not in results:
                    results[name] = np.zeros((len(texts), *value.shape[1:]), np.float32)
                results[name][rows] = value
        return results

    def embed(self, texts: Sequence[str], title: str = "") -> FloatArray:
        """Run all texts and return `[rows, dims] float32`, L2-normalised."""
        return self.run(texts, [EMBEDDING], title)[EMBEDDING]


def batches(ids: Sequence[Sequence[int]]) -> list[tuple[list[int], NDArray[np.int32]]]:
    """Cut rows of token ids into batches of like length.

    Returns:
        For each the rows in it, and their ids and mask, `[2, rows, tokens] int32`, padded on the right.
    """
    order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
    found = []
    for start in range(0, len(order), BATCH_ROWS):
        rows = order[start : start + BATCH_ROWS]
        tokens = np.zeros((2, len(rows), max(len(ids[row]) for row in rows)), np.int32)
        for place, row in enumerate(rows):
            tokens[0, place, : len(ids[row])] = ids[row]
            tokens[1, place, : len(ids[row])] = 1
        found.append((rows, tokens))
    return found


def session_options(num_threads: int) -> ort.SessionOptions:
    """Let a session use so many threads, none of which spins."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options
