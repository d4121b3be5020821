"""Steps that the product's own graph does not use: pooling of token vectors, and select."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from inference.engine import Engine
from inference.graph import parse_graph
from inference.ops import pooled
from inference.repository import ModelRepository
from tests.inference.tiny_models import WORDS, bert_tokenizer

GRAPH = parse_graph(
    """
name: pooling
inputs: {text: string, speaker: [customer, agent]}
nodes:
  tokens: {op: tokenize, model: states, inputs: [text]}
  states: {op: model, model: states, inputs: [tokens]}
  mean:   {op: pool, inputs: [states.hidden, tokens]}
  first:  {op: pool, inputs: [states.hidden, tokens], mode: first, when: speaker == customer}
  max:    {op: pool, inputs: [states.hidden, tokens], mode: max, when: speaker == agent}
  either: {op: select, inputs: [first, max]}
outputs: [mean, either]
""",
    "pooling.yaml",
)
TABLE = np.random.default_rng(0).normal(size=(len(WORDS), 4)).astype(np.float32)


def write_states(repository: Path) -> None:
    folder = repository / "states"
    (folder / "1").mkdir(parents=True)
    (folder / "tokenizer.json").write_text(bert_tokenizer().to_str())
    (folder / "config.pbtxt").write_text(
        """
name: "states"
backend: "onnxruntime"
max_batch_size: 8
input { name: "input_ids" data_type: TYPE_INT32 dims: [-1] }
output { name: "hidden" data_type: TYPE_FP32 dims: [-1, 4] }
"""
    )
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], ["hidden"])],
        "states",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT32, ["rows", "tokens"])],
        [helper.make_tensor_value_info("hidden", TensorProto.FLOAT, ["rows", "tokens", 4])],
        [numpy_helper.from_array(TABLE, "table")],
    )
    model = helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)])
    onnx.save(model, folder / "1" / "model.onnx")


async def test_pooling_leaves_padding_out_and_select_takes_what_is_there(tmp_path: Path) -> None:
    write_states(tmp_path)
    engine = Engine(ModelRepository.open(tmp_path))
    await engine.start()
    plan = engine.compile(GRAPH, None)
    texts = ["my card", "thank you please help me now", ""]
    for speaker in ("customer", "agent"):
        for text in texts:
            outputs = await engine.run(plan, {"text": text, "speaker": speaker})
            kept = TABLE[bert_tokenizer().encode(text).ids]
            other = kept[0] if speaker == "customer" else kept.max(axis=0)
            np.testing.assert_allclose(outputs["mean"].value, unit(kept.mean(axis=0)), atol=1e-6)
            np.testing.assert_allclose(outputs["either"].value, unit(other), atol=1e-6)
    await engine.stop()


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


@pytest.mark.parametrize("mode", ["mean", "max", "first"])
def test_a_vector_of_zeros_stays_finite(mode: str) -> None:
    assert pooled(np.zeros((3, 4), np.float32), 2, mode).tolist() == [0.0] * 4
