from __future__ import annotations

from pathlib import Path

import pytest

from server.store.folder_lock import FolderLock
from server.wire.errors import ConfigError


def test_a_folder_has_one_owner_at_a_time(tmp_path: Path) -> None:
    first, second = FolderLock(), FolderLock()
    first.acquire(tmp_path / "made")
    with pytest.raises(ConfigError, match="another process") as caught:
        second.acquire(tmp_path / "made")
    assert caught.value.field == str(tmp_path / "made")
    first.release()
    first.release()
    second.acquire(tmp_path / "made")
    second.release()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be used"):
        FolderLock().acquire(tmp_path / "file")
