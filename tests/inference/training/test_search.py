"""A version gets its search head: built in, recorded, and nothing else of it changes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs the extra `train`")

from inference.embedding import RETRIEVAL
from inference.export.build import STATIC8_FILE
from inference.export.verify import open_session
from inference.golden import GOLDEN_FILE, read_golden
from inference.model_config import read_config
from inference.training.features import Runner, open_tokenizer
from inference.training.retrieval_head import Settings
from inference.training.search import add_search_head
from inference.training.service_bases import ServiceArticle, ServiceBase
from retrieval.practice import search_tasks

pytestmark = pytest.mark.slow

SHIPPED = Path(__file__).parents[3] / "model_repo" / "utterance"
TALK = (("customer", "my payment was late"), ("agent", "okay"))
BASES = tuple(
    ServiceBase(
        trade,
        (
            ServiceArticle(
                "a",
                "Late fee",
                f"A {trade} customer who pays late owes five.",
                (("i paid late", ()), ("what now", TALK)),
            ),
            ServiceArticle("b", "Refund", "Money goes back to the card.", (("i want my money back", ()),)),
        ),
    )
    for trade in ("bank", "gym", "hotel", "shop")
)


@pytest.fixture
def version(tmp_path: Path) -> Path:
    folder = tmp_path / "utterance"
    shutil.copytree(SHIPPED, folder, ignore=shutil.ignore_patterns("*.onnx", "retrieval.safetensors", GOLDEN_FILE))
    config = folder / "config.pbtxt"
    lines = config.read_text().splitlines(keepends=True)
    config.write_text("".join(line for line in lines if f'"{RETRIEVAL}"' not in line).replace("},\n]", "}\n]"))
    return folder / "1"


def test_the_head_is_built_in_and_the_rest_stays(version: Path) -> None:
    shipped = SHIPPED / "1" / STATIC8_FILE
    if not shipped.is_file():
        pytest.skip("not built: `make models`")
    tokenizer = open_tokenizer(SHIPPED / "tokenizer.json")
    tasks = search_tasks(BASES, ["who won the game"], Runner.for_file(shipped, tokenizer).embed)
    said: list[str] = []
    for _ in range(2):  # a second time replaces it
        add_search_head(version, tasks, Settings(epochs=2), judged=True, report=said.append)
    assert any(line.startswith("head, direct (8): recall@1") for line in said)
    outputs = [tensor.name for tensor in read_config(version.parent, "utterance").outputs]
    assert outputs == [output.name for output in open_session(version / STATIC8_FILE).get_outputs()]
    assert outputs[-1] == RETRIEVAL
    assert RETRIEVAL in read_golden(version / GOLDEN_FILE).tolerance
    texts = ["i was charged twice", "hello"]
    before, after = (Runner.for_file(file, tokenizer).run(texts, outputs) for file in (shipped, version / STATIC8_FILE))
    for name in outputs[:-1]:
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)
    # Begun as the embedding, and two steps on: near it, and not it.
    cosines = (after[RETRIEVAL] * after["embedding"]).sum(1)
    assert 0.9 < cosines.min() < cosines.max() < 1 - 1e-6
