"""Real but tiny parts for engine tests: a BERT tokeniser of a few words, and an encoder of a few numbers in ONNX."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers import models, normalizers, pre_tokenizers, processors

from tests.inference.model_folders import LABELS, ONE_COLUMN, write_model

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "my", "card", "is", "lost", "##t", "los", "a", "b", "##b", "1"]
WORDS += [*".,!?;:\"'…", "中", "é", "e", "poison", "please", "help", "me", "now", "thank", "you", "order", "late"]


def bert_tokenizer() -> HuggingFaceTokenizer:
    """A BERT tokeniser in every respect but the size of its vocabulary."""
    tokenizer = HuggingFaceTokenizer(
        models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]", max_input_chars_per_word=100)
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)  # type: ignore[assignment]
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # type: ignore[assignment]
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))  # type: ignore[assignment]
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    return tokenizer


def encoder_onnx(dims: int = 4, seed: int = 0) -> bytes:
    """Masked mean of token vectors, L2-normalised, and a linear head for each logits tensor of `model_folders`."""
    rng = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def constant(name: str, value: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(value, name))
        return name

    def node(op: str, inputs: list[str], output: str, **attributes: object) -> str:
        nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    table = constant("table", rng.normal(size=(len(WORDS), dims)).astype(np.float32))
    mask = node("Cast", ["attention_mask"], "mask_float", to=TensorProto.FLOAT)
    weights = node("Unsqueeze", [mask, constant("last", np.array([2]))], "weights")
    kept = node("Mul", [node("Gather", [table, "input_ids"], "vectors"), weights], "kept")
    total = node("ReduceSum", [kept, constant("axis", np.array([1]))], "total", keepdims=0)
    norm = node("ReduceL2", [total], "norm", axes=[-1], keepdims=1)
    divisor = node("Max", [norm, constant("floor", np.float32(1e-12))], "divisor")
    embedding = node("Div", [total, divisor], "embedding")
    outputs = [("embedding", dims)]
    for tensor, width in [*((t, len(labels)) for t, labels in LABELS.items()), *((t, 1) for t in ONE_COLUMN)]:
        weight = constant(f"{tensor}.weight", rng.normal(size=(dims, width), scale=3.0).astype(np.float32))
        node("MatMul", [embedding, weight], tensor)
        outputs.append((tensor, width))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            helper.make_tensor_value_info(name, TensorProto.INT32, ["rows", "tokens"])
            for name in ("input_ids", "attention_mask")
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", width]) for name, width in outputs],
        constants,
    )
    return helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()


def write_encoder(repository: Path, name: str = "utterance", *, versions: tuple[int, ...] = (1,)) -> Path:
    """Write a model folder that really runs; each version has other weights."""
    folder = write_model(repository, name, versions=versions, tokenizer=bert_tokenizer().to_str())
    for version in versions:
        (folder / str(version) / "model.onnx").write_bytes(encoder_onnx(seed=version))
    return folder
