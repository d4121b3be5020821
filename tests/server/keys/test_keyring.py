from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from server.keys.keyring import MAX_KEY_AGE_S, SEALED, Keyring
from server.keys.local import LocalKeys
from server.keys.provider import DataKey
from server.wire.errors import ConfigError, Gone, Unavailable
from server.wire.ids import TenantId

T, U = TenantId("car_service"), TenantId("retail_bank")
WORDS = b"my card number is 4000"


async def ready(folder: Path, seen: Path | None = None) -> Keyring:
    keys = Keyring(LocalKeys(folder, seen))
    await keys.prepare(T)
    await keys.prepare(U)
    return keys


async def test_what_is_sealed_opens_there_and_says_nothing_before(tmp_path: Path) -> None:
    keys = await ready(tmp_path)
    sealed = keys.seal(T, WORDS, b"row 1")
    assert sealed[0] == SEALED
    assert b"card" not in sealed
    assert await keys.open(sealed, b"row 1") == WORDS
    assert keys.seal(T, WORDS, b"row 1") != sealed


async def test_no_nonce_comes_twice_from_many_threads(tmp_path: Path) -> None:
    keys = await ready(tmp_path)
    cipher = keys.cipher(T)
    start = len(cipher.header)
    with ThreadPoolExecutor(8) as threads:
        sealed = list(threads.map(lambda _: cipher.seal(WORDS, b""), range(5000)))
    assert len({value[start : start + 12] for value in sealed}) == 5000


async def test_another_process_opens_it_with_the_same_keys_and_no_other(tmp_path: Path) -> None:
    sealed = (await ready(tmp_path / "a")).seal(T, WORDS, b"")
    assert await Keyring(LocalKeys(tmp_path / "a")).open(sealed, b"") == WORDS
    with pytest.raises(Gone):
        await (await ready(tmp_path / "b")).open(sealed, b"")


async def test_it_opens_at_no_other_place_for_no_other_tenant_and_not_changed(tmp_path: Path) -> None:
    keys = await ready(tmp_path)
    sealed = keys.seal(T, WORDS, b"row 1")
    with pytest.raises(ValueError, match="another place"):
        await keys.open(sealed, b"row 2")
    for position in range(len(sealed)):
        broken = bytearray(sealed)
        broken[position] ^= 1
        with pytest.raises((ValueError, Gone)):
            await keys.open(bytes(broken), b"row 1")
    renamed = sealed.replace(b"car_service", b"retail_bank")
    with pytest.raises((ValueError, Gone)):
        await keys.open(renamed, b"row 1")
    for cut in (b"", b"\x01", sealed[:5], sealed[:40]):
        with pytest.raises((ValueError, Gone)):
            await keys.open(cut, b"row 1")


async def test_destroying_a_key_erases_everywhere_and_only_there(tmp_path: Path) -> None:
    keys, other_process = await ready(tmp_path), await ready(tmp_path)
    sealed, theirs = keys.seal(T, WORDS, b""), keys.seal(U, WORDS, b"")
    assert await other_process.open(sealed, b"") == WORDS
    await LocalKeys(tmp_path).destroy(T)
    for process in (keys, other_process, Keyring(LocalKeys(tmp_path))):
        await process.check([T, U])
        with pytest.raises(Gone):
            await process.open(sealed, b"")
        with pytest.raises(Gone):
            process.seal(T, WORDS, b"")
        assert await process.open(theirs, b"") == WORDS
    assert not (tmp_path / "car_service.key").exists()
    await LocalKeys(tmp_path).destroy(T)  # once more changes nothing


async def test_a_tenant_without_a_key_cannot_write_until_it_has_one(tmp_path: Path) -> None:
    keys = Keyring(LocalKeys(tmp_path))
    with pytest.raises(Unavailable):
        keys.seal(T, WORDS, b"")
    await keys.check([T])
    assert keys.seal(T, WORDS, b"")


class Away:
    """A provider that goes away."""

    def __init__(self) -> None:
        self.is_away = False
        self.made = 0

    async def create(self, tenant_id: TenantId) -> DataKey:
        if self.is_away:
            raise Unavailable("away")
        self.made += 1
        return DataKey(bytes(32), b"%d" % self.made)

    async def unwrap(self, tenant_id: TenantId, wrapped: bytes) -> bytes:
        if self.is_away:
            raise Unavailable("away")
        return bytes(32)

    async def is_destroyed(self, tenant_id: TenantId) -> bool:
        if self.is_away:
            raise Unavailable("away")
        return False

    async def destroy(self, tenant_id: TenantId) -> str:
        return ""

    async def close(self) -> None: ...


async def test_keys_are_replaced_in_their_time_and_kept_while_the_provider_is_away() -> None:
    provider, now_s = Away(), 0.0
    keys = Keyring(provider, now_s=lambda: now_s)
    await keys.prepare(T)
    await keys.prepare(T)
    assert provider.made == 1
    now_s = MAX_KEY_AGE_S + 1
    provider.is_away = True
    await keys.check([T])
    assert keys.seal(T, WORDS, b"")
    provider.is_away = False
    await keys.check([T])
    assert provider.made == 2
    provider.is_away = True
    with pytest.raises(Unavailable):
        await keys.prepare(U)


async def test_what_a_process_sealed_it_opens_while_the_provider_is_away() -> None:
    provider = Away()
    keys = Keyring(provider)
    await keys.prepare(T)
    sealed = keys.seal(T, WORDS, b"row")
    provider.is_away = True
    assert keys.open_now(sealed, b"row") == WORDS
    assert await keys.open(sealed, b"row") == WORDS
    with pytest.raises(Unavailable):
        await Keyring(provider).open(sealed, b"row")


async def test_key_files_are_the_servers_alone(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    local = LocalKeys(folder)
    local.open()
    await local.create(T)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()] == [0o600]
    (folder / "car_service.key").chmod(0o644)
    with pytest.raises(ConfigError, match="0600") as caught:
        local.open()
    assert caught.value.field == str(folder)


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError) as caught:
        LocalKeys(tmp_path / "file" / "keys").open()
    assert caught.value.field == str(tmp_path / "file" / "keys")


async def test_a_key_file_that_was_cut_is_told_and_not_used(tmp_path: Path) -> None:
    (tmp_path / "car_service.key").write_bytes(os.urandom(7))
    with pytest.raises(Unavailable):
        await LocalKeys(tmp_path).create(T)


async def test_a_folder_that_vanished_is_told_and_gets_no_new_keys(tmp_path: Path) -> None:
    folder, seen, away = tmp_path / "keys", tmp_path / "data" / "keys.seen", tmp_path / "away"
    sealed = (await ready(folder, seen)).seal(T, WORDS, b"")
    folder.rename(away)
    restarted = Keyring(LocalKeys(folder, seen))
    for ask in (restarted.prepare(T), restarted.open(sealed, b""), LocalKeys(folder, seen).is_destroyed(T)):
        with pytest.raises(Unavailable, match="the key of car_service is missing") as raised:
            await ask
        assert raised.value.field == "keys.folder"
    await Keyring(LocalKeys(folder)).prepare(T)  # somebody else's
    with pytest.raises(Unavailable, match="another one"):
        await restarted.prepare(T)
    (folder / "car_service.key").unlink()
    (away / "car_service.key").rename(folder / "car_service.key")
    await restarted.prepare(T)
    assert await restarted.open(sealed, b"") == WORDS


async def test_a_key_that_was_destroyed_is_not_missing(tmp_path: Path) -> None:
    folder, seen = tmp_path / "keys", tmp_path / "keys.seen"
    await ready(folder, seen)
    await LocalKeys(folder, seen).destroy(T)
    assert await LocalKeys(folder, seen).is_destroyed(T)
    restarted = await ready(folder, seen)
    assert restarted.is_destroyed(T)
    assert not restarted.is_destroyed(U)
