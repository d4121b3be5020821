"""Golden inputs: rows with the answers of the fp32 model, which a version must repeat wherever it runs.

    {"tolerance": {"embedding": 0.02, "intent_logits": 0.8, …},
     "rows": [{"text": …, "input_ids": […], "outputs": {"embedding": […], …}}, …]}

They lie beside the weights, so a file that was swapped, mixed up or cut short does not repeat them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from inference.backends.contract import LoadedModel, is_token_input
from inference.errors import ModelError
from inference.ladder import Ladder
from inference.model_config import NUMPY_DTYPES
from inference.regular_file import read_small
from inference.repository import ModelVersion
from inference.tokens import Tokenizer, pad_rows

GOLDEN_FILE = "golden.json"


class GoldenRow(msgspec.Struct, frozen=True):
    """One input and what fp32 answers.

    Attributes:
        text: Where the ids come from.
        input_ids: Tokens of the row, unpadded.
        outputs: Tensor name to the row's numbers.
    """

    text: str
    input_ids: list[int]
    outputs: dict[str, list[float]]


class Golden(msgspec.Struct, frozen=True):
    """Content of `golden.json`.

    Attributes:
        tolerance: Tensor name to the largest difference of any number allowed, in any precision.
        rows: The inputs.
    """

    tolerance: dict[str, float]
    rows: list[GoldenRow]


def read_golden(path: Path) -> Golden:
    """Read `golden.json`.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is malformed, or a tensor has no tolerance.
    """
    try:
        golden = msgspec.json.decode(read_small(path), type=Golden)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from error
    for row in golden.rows:
        if loose := sorted(row.outputs.keys() - golden.tolerance.keys()):
            raise ValueError(f"output {loose[0]} has no tolerance")
    if not golden.rows:
        raise ValueError("holds no row")
    return golden


def difference(row: GoldenRow, given: Mapping[str, NDArray[Any]], tolerance: Mapping[str, float]) -> str:
    """Say which output of a row is wrong, empty where none is.

    Args:
        row: What is expected.
        given: Tensor name to the row's numbers.
        tolerance: Of each tensor.
    """
    for name, numbers in row.outputs.items():
        if name not in given:
            return f"the model has no output {name}"
        expected = np.array(numbers, np.float32)
        if given[name].shape != expected.shape:
            return f"{name} has {given[name].size} numbers, expected {expected.size}"
        gap = float(np.abs(given[name] - expected).max())
        if not gap <= tolerance[name]:  # so written, because a gap that is no number is wrong as well
            return f"{name} differs by {gap:.4f}, allowed are {tolerance[name]}"
    return ""


def check_version(version: ModelVersion, model: LoadedModel, tokenizer: Tokenizer | None, ladder: Ladder) -> bool:
    """Run a version's golden inputs through the backend that is to serve it; blocks.

    Args:
        version: Just loaded.
        model: Its handle.
        tokenizer: Of the version; has to make the recorded ids of the recorded texts.
        ladder: Shapes that the model takes.

    Returns:
        Whether there was something to compare with.

    Raises:
        ModelError: Naming the row and what is wrong with it.
    """
    path = version.path / GOLDEN_FILE
    where = f"{version.name}/{version.version}/{GOLDEN_FILE}"
    if not path.exists():
        return False
    try:
        golden = read_golden(path)
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot be read: {error}", path=where) from error
    names = [spec.name for spec in version.config.outputs]
    for number, row in enumerate(golden.rows):
        ids = np.array(row.input_ids, np.int32).tobytes()
        if tokenizer is not None and tokenizer.encode(row.text) != ids:
            raise ModelError("the tokeniser makes other tokens of the text", path=where, key=f"row {number}")
        shape = ladder.fit(1, len(row.input_ids))
        token_ids, mask = pad_rows([ids], shape.rows, shape.tokens)
        tensors = {"input_ids": token_ids, "attention_mask": mask, "token_type_ids": np.zeros_like(token_ids)}
        inputs = {
            spec.name: tensors[spec.name].astype(NUMPY_DTYPES[spec.dtype], copy=False)
            for spec in version.config.inputs
            if is_token_input(spec)
        }
        try:
            outputs = model.run(inputs, names)
        except Exception as error:
            problem = f"the model fails on it ({type(error).__name__})"
            raise ModelError(problem, path=where, key=f"row {number}") from error
        problem = difference(row, {name: array[0] for name, array in outputs.items()}, golden.tolerance)
        if problem:
            raise ModelError(problem, path=where, key=f"row {number}")
    return True
