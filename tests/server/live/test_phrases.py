from pathlib import Path

import numpy as np
import pytest

from server.live.phrases import PhraseVectors


class CountingEncoder:
    """Stands in for the orchestrator: a vector a phrase, and what it was asked for."""

    def __init__(self) -> None:
        self.weights = "model.onnx 7 1"
        self.asked: list[str] = []

    def encoder_weights(self, version: int) -> str:
        return self.weights

    async def embed(self, texts, version: int):
        self.asked.extend(texts)
        return np.array([[len(text), version, 0.0] for text in texts], np.float32)


@pytest.fixture
def encoder() -> CountingEncoder:
    return CountingEncoder()


async def test_a_second_start_embeds_only_what_changed(tmp_path: Path, encoder: CountingEncoder) -> None:
    folder = tmp_path / "examples"
    first = await PhraseVectors(encoder, folder).of("shop", ["a", "bb", "a"], 1)
    assert encoder.asked == ["a", "bb"]
    again = await PhraseVectors(encoder, folder).of("shop", ["bb", "ccc", "a"], 1)
    assert encoder.asked == ["a", "bb", "ccc"]
    assert again.tolist() == [first[1].tolist(), [3.0, 1.0, 0.0], first[0].tolist()]
    assert again.dtype == np.float32
    assert b"ccc" not in next(folder.iterdir()).read_bytes()


async def test_other_weights_and_other_versions_are_not_believed(tmp_path: Path, encoder: CountingEncoder) -> None:
    vectors = PhraseVectors(encoder, tmp_path / "examples")
    await vectors.of("shop", ["a"], 1)
    assert (await vectors.of("shop", ["a"], 2)).tolist() == [[1.0, 2.0, 0.0]]
    encoder.weights = "model.onnx 7 2"
    await vectors.of("shop", ["a"], 1)
    assert encoder.asked == ["a", "a", "a"]


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 torn"])
async def test_a_damaged_file_costs_one_embedding(tmp_path: Path, encoder: CountingEncoder, content: bytes) -> None:
    folder = tmp_path / "examples"
    folder.mkdir()
    (folder / "shop-1.npz").write_bytes(content)
    assert (await PhraseVectors(encoder, folder).of("shop", ["a"], 1)).tolist() == [[1.0, 1.0, 0.0]]
    await PhraseVectors(encoder, folder).of("shop", ["a"], 1)
    assert encoder.asked == ["a"]


async def test_a_folder_that_cannot_be_written_stops_nobody(tmp_path: Path, encoder: CountingEncoder) -> None:
    (tmp_path / "file").write_text("")
    assert len(await PhraseVectors(encoder, tmp_path / "file" / "examples").of("shop", ["a"], 1)) == 1
    assert len(await PhraseVectors(encoder, None).of("shop", ["a"], 1)) == 1
