"""What a user assembles without this project: the shipped encoder behind mosec, with three heads read.

    python -m benchmarks.others.mosec_server --port 8123 --address 127.0.0.1

As lean as it can be: one session of one thread a core, texts tokenised in the worker, batches of what is queued, no
graph, no deadline, no memory, no tenant. Needs `pip install mosec==0.9.8`, which nothing else here does.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from mosec import Server, Worker  # type: ignore[import-not-found, unused-ignore]

from benchmarks.engine.harness import THREADS, Bare, shipped_version
from inference.tokens import ID_BYTES, pad_rows

HEADS = ("intent_logits", "sentiment_logits", "actions_logits")
MAX_BATCH_ROWS = 16
MAX_WAIT_MS = 1
"""Longer waits made every percentile worse, and the rate no higher."""


class Annotate(Worker):  # type: ignore[misc, unused-ignore]
    """Text in, the best label of each head out."""

    def __init__(self) -> None:
        self._bare = Bare(shipped_version())
        self._labels = [self._bare.version.labels[head] for head in HEADS]

    def deserialize(self, data: bytes) -> str:
        """Read a request: its text."""
        return msgspec.json.decode(data, type=str)

    def serialize(self, data: Any) -> bytes:
        """Write an answer."""
        return msgspec.json.encode(data)

    def forward(self, data: list[str]) -> list[dict[str, tuple[str, float]]]:
        """Run a batch."""
        rows = [self._bare.tokenizer.encode(text) for text in data]
        ids, mask = pad_rows(rows, len(rows), max(map(len, rows)) // ID_BYTES)
        outputs = self._bare.model.run({"input_ids": ids, "attention_mask": mask}, HEADS)
        answers: list[dict[str, tuple[str, float]]] = [{} for _ in data]
        for head, labels in zip(HEADS, self._labels, strict=True):
            logits = outputs[head] - outputs[head].max(1, keepdims=True)
            shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
            for row, best in enumerate(shares.argmax(1)):
                answers[row][head] = (labels[best], float(shares[row, best]))
        return answers


if __name__ == "__main__":
    server = Server()
    server.append_worker(Annotate, num=THREADS, max_batch_size=MAX_BATCH_ROWS, max_wait_time=MAX_WAIT_MS)
    server.run()
