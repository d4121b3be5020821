"""How the engine runs: one frozen section of settings, checked when the engine is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from inference.batching import BatchingSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """How the engine runs.

    Attributes:
        device: Where in-process models run; `cuda` without a CUDA build refuses the start.
        precision: Weights file of each version, `model.<precision>.onnx`; empty: what the repository says, and on CUDA
            half precision where it is built.
        workers: Batches side by side; 0: what the backend prefers, one a core on CPU.
        max_queue_rows: Rows that may wait; more are refused.
        max_batch_rows: Most rows of a batch.
        max_batch_tokens: Most padded tokens of a batch.
        max_wait_s: Longest wait for company while other batches run; 0 takes what is there.
        memo_rows: Rows whose results are remembered; 0 computes every row.
        embedding_model: Model behind `embed`; empty: the first with an `embedding` output.
    """

    device: Literal["cpu", "cuda"] = "cpu"
    precision: str = ""
    workers: int = 0
    max_queue_rows: int = 1024
    max_batch_rows: int = 16
    max_batch_tokens: int = 256
    max_wait_s: float = 0.0
    memo_rows: int = 4096
    embedding_model: str = ""

    @property
    def batching(self) -> BatchingSettings:
        """Their part for the batching policy."""
        return BatchingSettings(
            max_queued_rows=self.max_queue_rows,
            max_batch_rows=self.max_batch_rows,
            max_padded_tokens=self.max_batch_tokens,
            max_queue_delay_s=self.max_wait_s,
        )
