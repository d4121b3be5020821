from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from inference.errors import ModelError
from inference.life.watch import SUMS_FILE, Settling, check_sums, scan


def make(root: Path, *files: str) -> None:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def test_a_version_is_known_by_its_files_and_those_of_its_model(tmp_path: Path) -> None:
    make(tmp_path, "m/config.pbtxt", "m/1/model.onnx", "m/2/model.onnx", "m/notes/x", "m/01/x", ".hidden/1/x", "n/3/x")
    seen = scan(tmp_path)
    assert {name: set(versions) for name, versions in seen.items()} == {"m": {1, 2}, "n": {3}}
    assert scan(tmp_path) == seen
    make(tmp_path, "m/2/deep/more")
    assert scan(tmp_path)["m"][1] == seen["m"][1]
    assert scan(tmp_path)["m"][2] != seen["m"][2]
    make(tmp_path, "m/labels.txt")
    assert scan(tmp_path)["m"][1] != seen["m"][1]


def test_a_link_to_itself_hides_no_other_version(tmp_path: Path) -> None:
    make(tmp_path, "m/1/model.onnx", "n/3/x")
    (tmp_path / "m/2").mkdir()
    (tmp_path / "m/2/model.onnx").symlink_to(tmp_path / "m/2/model.onnx")
    (tmp_path / "n/config.pbtxt").symlink_to(tmp_path / "n/config.pbtxt")
    seen = scan(tmp_path)
    assert {name: set(versions) for name, versions in seen.items()} == {"m": {1, 2}, "n": {3}}
    make(tmp_path, "m/3/model.onnx")
    assert set(scan(tmp_path)["m"]) == {1, 2, 3}


def test_a_version_settles_once_nothing_changed_for_long_enough() -> None:
    settling = Settling(2.0)
    assert settling.settled({"m": {1: "a"}}, 0.0) == {}
    assert settling.settled({"m": {1: "a", 2: "b"}}, 1.9) == {}
    assert settling.settled({"m": {1: "a", 2: "c"}}, 2.0) == {"m": {1: "a"}}
    assert settling.settled({"m": {1: "a", 2: "c"}}, 3.9) == {"m": {1: "a"}}
    assert settling.settled({"m": {1: "a", 2: "c"}}, 4.0) == {"m": {1: "a", 2: "c"}}
    assert settling.settled({"m": {2: "c"}}, 5.0) == {"m": {2: "c"}}
    assert settling.settled({"m": {1: "a"}}, 6.0) == {}  # it was gone in between


def test_sums_prove_that_every_file_is_there_and_whole(tmp_path: Path) -> None:
    make(tmp_path, "model.onnx", "heads.json")
    check_sums(tmp_path)
    lines = [
        f"{hashlib.sha256(name.encode()).hexdigest()} {mark}{name}"
        for name, mark in [("model.onnx", " "), ("heads.json", "*")]
    ]
    (tmp_path / SUMS_FILE).write_text("\n".join(lines))
    check_sums(tmp_path)
    (tmp_path / "model.onnx").write_text("model.on")
    with pytest.raises(ModelError, match=r"model\.onnx is another file, or not all of it"):
        check_sums(tmp_path)
    (tmp_path / "model.onnx").unlink()
    with pytest.raises(ModelError, match=r"model\.onnx cannot be read"):
        check_sums(tmp_path)
    (tmp_path / SUMS_FILE).write_text("abc ../../etc/passwd")
    with pytest.raises(ModelError, match="expected a digest and a file of this folder"):
        check_sums(tmp_path)
