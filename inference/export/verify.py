"""Proves built files before anyone serves them: golden answers, fused operators, precision, batch independence."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from inference.export.build import FP16_FILE, FP32_FILE, STATIC8_FILE
from inference.export.encoder import ATTENTION_MASK, INPUT_IDS
from inference.export.golden import check_golden, read_golden, run_row
from inference.export.weights import ExportError
from inference.golden import GOLDEN_FILE, Golden

MIN_MEAN_COSINE = 0.998
MIN_COSINE = 0.99
"""Of static int8 embeddings to fp32 over the golden rows; short and odd ones (empty text, one word) come lowest."""

MAX_BATCH_GAP = 1e-5
"""Largest change of a number of a row between alone and in a batch. Sums may be ordered otherwise, no more."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found of one file.

    Attributes:
        file: Its name.
        mean_cosine: Mean cosine of the embeddings to the golden ones.
        min_cosine: The lowest of them.
        batch_gap: Largest change of any output's number between alone and in a batch, as a share of it above one.
        operators: Operators of the optimised graph that matter for speed.
    """

    file: str
    mean_cosine: float
    min_cosine: float
    batch_gap: float
    operators: Mapping[str, int]


def expected_operators(num_layers: int) -> dict[str, int]:
    """Operators of the optimised static int8 graph: all products int8 and packed, no slow fused normalisation."""
    return {
        "SkipLayerNormalization": 0,
        "LayerNormalization": 2 * num_layers + 1,
        "MatMulIntegerToFloat": 3 * num_layers,
        "QAttention": num_layers,
        "NonZero": 1,
    }


def open_session(path: Path, optimised_to: Path | None = None) -> ort.InferenceSession:
    """Open a model on one CPU thread, with the one fusion that costs time switched off."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if optimised_to is not None:
        options.optimized_model_filepath = str(optimised_to)
    return ort.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=["SkipLayerNormFusion"]
    )


def verify_version(version: Path, num_layers: int) -> tuple[Verdict, ...]:
    """Check every built file of a version.

    Raises:
        ExportError: Naming the file and what is wrong.
    """
    golden = read_golden(version / GOLDEN_FILE)
    verdicts = []
    for name in (STATIC8_FILE, FP32_FILE, FP16_FILE):
        try:
            verdicts.append(_verify(version / name, golden, num_layers))
        except ExportError as error:
            raise ExportError(f"{version / name}: {error}") from error
    return tuple(verdicts)


def _verify(path: Path, golden: Golden, num_layers: int) -> Verdict:
    with tempfile.TemporaryDirectory() as folder:
        optimised = Path(folder) / "optimised.onnx"
        session = open_session(path, optimised)
        graph = onnx.load(optimised, load_external_data=False).graph
    found = Counter(node.op_type for node in graph.node)
    expected = expected_operators(num_layers)
    if path.name == STATIC8_FILE and any(found[op] != number for op, number in expected.items()):
        raise ExportError(f"operators { ({op: found[op] for op in expected}) }, expected {expected}")
    cosines = check_golden(session, golden)
    mean, lowest = float(cosines.mean()), float(cosines.min())
    if mean < MIN_MEAN_COSINE or lowest < MIN_COSINE:
        raise ExportError(f"cosine to fp32 {mean:.5f}, at worst {lowest:.5f}; allowed {MIN_MEAN_COSINE}, {MIN_COSINE}")
    gap = batch_gap(session, golden)
    if gap > MAX_BATCH_GAP:
        raise ExportError(f"a row changes by {gap:.2g} with its batch, allowed are {MAX_BATCH_GAP}")
    return Verdict(path.name, mean, lowest, gap, {op: found[op] for op in expected})


def batch_gap(session: ort.InferenceSession, golden: Golden) -> float:
    """Run the golden rows alone and in one padded batch; return the largest change of any output's number.

    A number above one changes by a share of itself: that is how sums are rounded.
    """
    width = max(len(row.input_ids) for row in golden.rows)
    tokens = np.zeros((2, len(golden.rows), width), np.int32)
    for place, row in enumerate(golden.rows):
        tokens[0, place, : len(row.input_ids)] = row.input_ids
        tokens[1, place, : len(row.input_ids)] = 1
    names = [output.name for output in session.get_outputs()]
    together = session.run(names, {INPUT_IDS: tokens[0], ATTENTION_MASK: tokens[1]})
    gaps = []
    for place, row in enumerate(golden.rows):
        alone = run_row(session, row.input_ids)
        for name, values in zip(names, together, strict=True):
            gaps.append((np.abs(alone[name] - values[place]) / np.maximum(1, np.abs(alone[name]))).max())
    return float(max(gaps))
