from __future__ import annotations

import os
from pathlib import Path

import pytest

from server.policy.store import PolicyStore
from server.wire.errors import ConfigError, NotFound

TEXT = "{tenant: %s, version: %d, graph: guidance}"


def write(path: Path, text: str, at_s: int) -> None:
    path.write_text(text, encoding="utf-8")
    os.utime(path, (at_s, at_s))


def test_a_right_file_replaces_and_a_wrong_one_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "shop.yaml", TEXT % ("shop", 1), 1)
    store = PolicyStore(tmp_path)
    (first,) = store.load()
    assert store.get("shop") is first
    assert store.poll().loaded == ()

    write(tmp_path / "shop.yaml", "{tenant: shop, version: none, graph: guidance}", 2)
    found = store.poll()
    assert [error.field for error in found.refused] == ["shop.yaml: version"]
    assert store.get("shop") is first
    assert store.poll().refused == ()  # told once, not at every poll

    write(tmp_path / "shop.yaml", TEXT % ("shop", 2), 3)
    (second,) = store.poll().loaded
    assert store.get("shop") is second
    assert first.version == 1  # a call that pinned it keeps it

    write(tmp_path / "bank.yaml", TEXT % ("bank", 1), 4)
    assert [policy.tenant for policy in store.poll().loaded] == ["bank"]
    (tmp_path / "shop.yaml").unlink()
    assert store.poll().removed == ("shop",)
    with pytest.raises(NotFound):
        store.get("shop")
    assert [policy.tenant for policy in store.policies] == ["bank"]


def test_a_tenant_has_one_policy(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", TEXT % ("shop", 1), 1)
    write(tmp_path / "b.yaml", TEXT % ("shop", 2), 1)
    with pytest.raises(ConfigError) as error:
        PolicyStore(tmp_path).load()
    assert error.value.field == "b.yaml: tenant"


def test_the_same_version_with_another_text_is_another_policy(tmp_path: Path) -> None:
    write(tmp_path / "shop.yaml", TEXT % ("shop", 1), 1)
    store = PolicyStore(tmp_path)
    (first,) = store.load()
    write(tmp_path / "shop.yaml", TEXT % ("shop", 1) + "  # edited", 2)
    (second,) = store.poll().loaded
    assert first.name != second.name


def test_an_empty_folder_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no policy"):
        PolicyStore(tmp_path).load()
