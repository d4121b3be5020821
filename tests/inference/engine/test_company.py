"""The same row, the same answer, whatever it shares a batch with; in every precision that ships."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference.backends.contract import Tensors
from inference.repository import ModelRepository
from tests.inference.engine.running import GRAPH, close, running
from tests.inference.tiny_models import WORDS


async def test_a_row_in_any_batch_equals_the_row_alone(real_repository: Path) -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS[5:], size=rng.integers(0, 28))) for _ in range(200)]
    inputs = [{"text": text, "speaker": "customer", "is_final": True} for text in texts]
    async with running(real_repository, memo_rows=0) as engine:
        plan = engine.compile(GRAPH, None)
        alone = [await engine.run(plan, row) for row in inputs]
        before = engine.stats().batches
        together = await asyncio.gather(*(engine.run(plan, row) for row in inputs))
        assert engine.stats().batches - before < len(texts) / 2, "no batches were formed"
    for one, other in zip(alone, together, strict=True):
        assert {name: output.value for name, output in one.items()} == {
            name: close(output.value) for name, output in other.items()
        }


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["", "fp16", "fp32"])
async def test_a_row_in_any_batch_equals_the_row_alone_in_every_precision_we_ship(precision: str) -> None:
    root = Path(__file__).parents[3] / "model_repo"
    weights = root / "utterance" / "1" / (f"model.{precision}.onnx" if precision else "model.onnx")
    if not weights.exists():
        pytest.skip(f"{weights.name} is not built; `make models` builds it")
    repository = ModelRepository.open(root)
    service_version = repository.model("utterance").latest
    from inference.backends.onnxruntime import OnnxRuntimeBackend
    from inference.tokens import Tokenizer, pad_rows

    model = OnnxRuntimeBackend().load(
        service_version if not precision else _with_weights(service_version, weights, precision)
    )
    assert service_version.tokenizer is not None
    tokenizer = Tokenizer.from_file(service_version.tokenizer, 128)
    rng = np.random.default_rng(0)
    words = ["my", "card", "was", "charged", "twice", "and", "i", "want", "the", "money", "back", "4711", "late", "?"]
    rows = [tokenizer.encode(" ".join(rng.choice(words, size=rng.integers(1, 40)))) for _ in range(64)]
    outputs = [spec.name for spec in service_version.config.outputs]

    def run(part: list[bytes], num_rows: int, num_tokens: int) -> Tensors:
        ids, mask = pad_rows(part, num_rows, num_tokens)
        return model.run({"input_ids": ids, "attention_mask": mask}, outputs)

    alone = [run([row], 1, len(row) // 4) for row in rows]
    for _ in range(4):
        order = rng.permutation(64).tolist()
        while order:
            size = int(rng.integers(1, 17))
            chosen, order = order[:size], order[size:]
            part = [rows[i] for i in chosen]
            longest = max(len(row) // 4 for row in part)
            found = run(part, len(part) + int(rng.integers(0, 3)), longest + int(rng.integers(0, 9)))
            for position, i in enumerate(chosen):
                for name in outputs:
                    np.testing.assert_allclose(found[name][position], alone[i][name][0], atol=2e-4, rtol=1e-4)


def _with_weights(version: Any, weights: Path, precision: str) -> Any:
    from dataclasses import replace

    return replace(version, weights=weights, precision=precision)
