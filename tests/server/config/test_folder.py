from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from server.config.folder import make_folder
from server.wire.errors import ConfigError


def test_it_is_made(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_file_in_its_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file/data") as caught:
        make_folder(tmp_path / "file" / "data")
    assert caught.value.field == "data_dir"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o555)
    path = str(tmp_path / "data")
    code = f"from server.config.folder import make_folder, Path; make_folder(Path({path!r}))"
    drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    done = subprocess.run([*drop, sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "cannot be written" in done.stderr
