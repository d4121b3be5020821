"""Golden inputs of our own model: sentences with the answers of fp32, which every built file must repeat.

`inference.golden` has their form, and checks them again wherever a version is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from inference.export.encoder import ATTENTION_MASK, INPUT_IDS
from inference.export.weights import ExportError, FloatArray
from inference.golden import Golden, GoldenRow, difference
from inference.golden import read_golden as read_file

SENTENCES = (
    "",
    "yes",
    "my account number is four zero seven one eight",
    "i was charged twice for my october bill and i want my money back",
    "hi thanks for calling this is dana how can i help you today",
    "can you tell me when the technician will be at my place tomorrow morning",
    "the oil light is still on even though you changed it last week",
    "i'm so sorry about that let me check what happened to your order",
    "this is the third time i'm calling about this and nobody could help me",
    "could i put you on hold for a minute while i look that up",
    "what's the weather like on mars at this time of year",
    "so that is two adults for saturday the ninth at half past seven is that correct",
    "um i would like to uh cancel no wait move my appointment to friday if that is possible because i have to take my "
    "daughter to the dentist on thursday and i can't be in two places at once you know",
)
"""From one token to some forty, both speakers, in scope and out."""


def run_row(session: ort.InferenceSession, ids: Sequence[int]) -> Mapping[str, FloatArray]:
    """Run one unpadded row and return every output's numbers, `[labels] float32` each."""
    tokens: NDArray[np.int32] = np.array([ids], np.int32)
    names = [output.name for output in session.get_outputs()]
    values = session.run(names, {INPUT_IDS: tokens, ATTENTION_MASK: np.ones_like(tokens)})
    return {name: value[0] for name, value in zip(names, values, strict=True)}


def make_golden(
    reference: ort.InferenceSession, served: ort.InferenceSession, rows: Mapping[str, Sequence[int]]
) -> Golden:
    """Record the reference's answers, and as tolerance twice what the served precision differs.

    Args:
        reference: The fp32 model.
        served: The static int8 model.
        rows: Text to token ids.
    """
    golden, gaps = [], dict[str, float]()
    for text, ids in rows.items():
        expected, given = run_row(reference, ids), run_row(served, ids)
        for name, value in expected.items():
            gaps[name] = max(gaps.get(name, 0.0), float(np.abs(value - given[name]).max()))
        outputs = {name: [round(float(x), 5) for x in value] for name, value in expected.items()}
        golden.append(GoldenRow(text, list(ids), outputs))
    return Golden({name: round(2 * gap + 1e-3, 3) for name, gap in gaps.items()}, golden)


def write_golden(golden: Golden, path: Path) -> None:
    """Write `golden.json`, one row a line."""
    rows = ",\n  ".join(msgspec.json.encode(row).decode() for row in golden.rows)
    tolerance = msgspec.json.encode(golden.tolerance).decode()
    path.write_text(f'{{"tolerance": {tolerance},\n "rows": [\n  {rows}\n ]}}\n')


def read_golden(path: Path) -> Golden:
    """Read `golden.json`.

    Raises:
        ExportError: If it is missing or malformed.
    """
    try:
        return read_file(path)
    except (OSError, ValueError) as error:
        raise ExportError(f"{path}: {error}") from error


def check_golden(session: ort.InferenceSession, golden: Golden) -> FloatArray:
    """Compare a model with the golden answers.

    Returns:
        Cosine of each row's embedding to its golden one, `[rows] float32`.

    Raises:
        ExportError: Naming the row, the tensor and the difference, if one is beyond its tolerance.
    """
    cosines = []
    for number, row in enumerate(golden.rows):
        given = run_row(session, row.input_ids)
        if problem := difference(row, given, golden.tolerance):
            raise ExportError(f"golden row {number}: {problem}")
        if "embedding" in row.outputs:
            expected = np.array(row.outputs["embedding"], np.float32)
            cosines.append(expected @ given["embedding"] / np.linalg.norm(expected))
    return np.array(cosines, np.float32)
