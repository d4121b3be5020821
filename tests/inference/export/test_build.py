"""A tiny version folder is built, verified, and refused when something in it is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from inference.export.build import FP32_FILE, STATIC8_FILE, build_version
from inference.export.golden import make_golden, read_golden, write_golden
from inference.export.heads import save_heads
from inference.export.scales import measure_ranges, save_ranges
from inference.export.verify import expected_operators, open_session, verify_version
from inference.export.weights import ExportError, save_encoder
from inference.golden import GOLDEN_FILE
from server.cli.models import models
from tests.inference.export.tiny_bert import NUM_LAYERS, WORDS, tiny_encoder, tiny_heads

SENTENCES = {"one": [1, 5, 9], "two": [3], "three": [4, 4, 8, 11, 30, 2, 5]}


@pytest.fixture
def version(tmp_path: Path) -> Path:
    folder = tmp_path / "utterance" / "1"
    folder.mkdir(parents=True)
    encoder = tiny_encoder()
    rng = np.random.default_rng(0)
    save_encoder(encoder, folder / "encoder.safetensors")
    save_heads(tiny_heads(), folder / "heads.safetensors")
    rows = [rng.integers(0, WORDS, rng.integers(1, 12)).astype(np.int32) for _ in range(200)]
    save_ranges(measure_ranges(encoder, rows), folder / "static8.safetensors")
    build_version(folder)
    sessions = [open_session(folder / name) for name in (FP32_FILE, STATIC8_FILE)]
    write_golden(make_golden(sessions[0], sessions[1], SENTENCES), folder / GOLDEN_FILE)
    return folder


def test_a_built_version_passes_and_building_again_gives_the_same_bytes(version: Path) -> None:
    before = {path.name: path.read_bytes() for path in version.glob("*.onnx")}
    assert sorted(before) == ["model.fp16.onnx", "model.fp32.onnx", "model.onnx"]
    verdicts = verify_version(version, NUM_LAYERS)
    assert verdicts[0].operators == expected_operators(NUM_LAYERS)
    assert all(verdict.min_cosine > 0.99 for verdict in verdicts)
    build_version(version)
    assert {path.name: path.read_bytes() for path in version.glob("*.onnx")} == before


def test_other_weights_do_not_pass_for_these(version: Path) -> None:
    save_encoder(tiny_encoder(seed=9), version / "encoder.safetensors")
    build_version(version)
    with pytest.raises(ExportError, match=r"model\.onnx.*golden row 0"):
        verify_version(version, NUM_LAYERS)


def test_a_golden_file_is_read_as_written_and_a_broken_one_is_named(version: Path) -> None:
    golden = read_golden(version / GOLDEN_FILE)
    assert [row.input_ids for row in golden.rows] == list(SENTENCES.values())
    assert set(golden.tolerance) == {"embedding", "intent_logits", "question_logits", "intent_scope", "carry"}
    raw = json.loads((version / GOLDEN_FILE).read_text())
    (version / GOLDEN_FILE).write_text(json.dumps({"rows": raw["rows"]}))
    with pytest.raises(ExportError, match=r"golden\.json.*tolerance"):
        read_golden(version / GOLDEN_FILE)


def test_the_command_builds_what_is_missing_and_leaves_what_is_fresh(version: Path) -> None:
    repo = str(version.parent.parent)
    (version / STATIC8_FILE).unlink()
    first = CliRunner().invoke(models, ["build", "--repo", repo])
    assert first.exit_code == 0, first.output
    assert (version / STATIC8_FILE).is_file()
    written_ns = (version / STATIC8_FILE).stat().st_mtime_ns
    assert CliRunner().invoke(models, ["build", "--repo", repo]).exit_code == 0
    assert (version / STATIC8_FILE).stat().st_mtime_ns == written_ns


def test_the_command_names_what_is_missing(version: Path) -> None:
    (version / "static8.safetensors").unlink()
    result = CliRunner().invoke(models, ["build", "--force", "--repo", str(version.parent.parent)])
    assert result.exit_code == 1
    assert "static8.safetensors" in result.output


def test_an_empty_repository_is_an_error(tmp_path: Path) -> None:
    result = CliRunner().invoke(models, ["build", "--repo", str(tmp_path)])
    assert result.exit_code == 1
    assert "no version" in result.output
