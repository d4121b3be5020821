"""Tenants' keys as files of this host: the default, which needs no other server.

    keys/car_service.key        32 bytes, readable by the server's user only
    keys/car_service.destroyed  the key that was here is gone, and is not made anew
    keys.seen/car_service       with the data, not with the keys: which key it was sealed with

A folder that is not mounted looks like a new one; without that note new keys would be made in it, and what is sealed
with them is lost when the right folder comes back. Several hosts that share a database have to share this folder, or
use a key service.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from server.keys.provider import DATA_KEY_BYTES, DataKey
from server.wire.errors import ConfigError, Gone, Unavailable
from server.wire.ids import TenantId

T = TypeVar("T")

_NONCE_BYTES = 12
_FIELD = "keys.folder"


class LocalKeys:
    """`KeyProvider` on files.

    Args:
        folder: Where they are; made if missing.
        seen: Folder that notes which keys the data was sealed with; None: nothing is noted.
    """

    def __init__(self, folder: Path, seen: Path | None = None) -> None:
        self._folder = folder
        self._seen = seen

    def open(self) -> None:
        """Make sure that the folder can be used, and by nobody else.

        Raises:
            ConfigError: It cannot; names it.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not os.access(self._folder, os.R_OK | os.W_OK | os.X_OK):
                raise PermissionError(13, "no right to write here")
            for key in self._folder.glob("*.key"):
                if key.stat().st_mode & 0o077:
                    raise ConfigError(f"{key.name} can be read by others; make it 0600", field=str(self._folder))
        except OSError as error:
            raise ConfigError(f"keys cannot be kept here: {error.strerror}", field=str(self._folder)) from error

    async def create(self, tenant_id: TenantId) -> DataKey:
        """See `KeyProvider`."""
        key = await self._in_thread(partial(self._key, tenant_id, or_make=True))
        plain = secrets.token_bytes(DATA_KEY_BYTES)
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return DataKey(plain, nonce + AESGCM(key).encrypt(nonce, plain, tenant_id.encode()))

    async def unwrap(self, tenant_id: TenantId, wrapped: bytes) -> bytes:
        """See `KeyProvider`."""
        key = await self._in_thread(partial(self._key, tenant_id))
        try:
            return AESGCM(key).decrypt(wrapped[:_NONCE_BYTES], wrapped[_NONCE_BYTES:], tenant_id.encode())
        except (InvalidTag, ValueError):
            raise Gone("this was sealed with another key than the tenant has now") from None

    async def is_destroyed(self, tenant_id: TenantId) -> bool:
        """See `KeyProvider`. Raises `Unavailable` when the key is missing."""

        def is_destroyed() -> bool:
            if self._tombstone(tenant_id).exists():
                return True
            if self._noted(tenant_id) and not self._path(tenant_id).exists():
                raise _missing(tenant_id)
            return False

        return await self._in_thread(is_destroyed)

    async def destroy(self, tenant_id: TenantId) -> str:
        """See `KeyProvider`. Overwritten before it is removed; a copy in a backup has to be destroyed there."""

        def destroy() -> None:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._tombstone(tenant_id).touch()  # first: nobody may make a new one meanwhile
            path = self._path(tenant_id)
            if path.exists():
                with path.open("r+b") as file:
                    file.write(secrets.token_bytes(DATA_KEY_BYTES))
                    file.flush()
                    os.fsync(file.fileno())
                path.unlink()
            _sync_folder(self._folder)

        await self._in_thread(destroy)
        return f"the key file of {tenant_id} was overwritten and removed"

    async def close(self) -> None:
        """Nothing is open."""

    def _key(self, tenant_id: TenantId, *, or_make: bool = False) -> bytes:
        if self._tombstone(tenant_id).exists():
            raise Gone("the key of this tenant was destroyed")
        path = self._path(tenant_id)
        if or_make and not path.exists() and not self._noted(tenant_id):
            self._make(path)
        try:
            key = path.read_bytes()
        except FileNotFoundError:
            if self._noted(tenant_id):
                raise _missing(tenant_id) from None
            raise Gone("the key of this tenant is not here") from None
        if len(key) != DATA_KEY_BYTES:
            raise Unavailable(
                f"the key of {tenant_id} cannot be used: it is not of {DATA_KEY_BYTES} bytes", field=_FIELD
            )
        if or_make:
            self._note(tenant_id, key)
        return key

    def _noted(self, tenant_id: TenantId) -> str:
        """Mark of the key that the data was sealed with; empty if none is known."""
        if self._seen is None:
            return ""
        try:
            return (self._seen / tenant_id).read_text()
        except FileNotFoundError:
            return ""

    def _note(self, tenant_id: TenantId, key: bytes) -> None:
        if self._seen is None:
            return
        mark, noted = hashlib.sha256(key).hexdigest()[:16], self._noted(tenant_id)
        if noted and noted != mark:
            raise Unavailable(
                f"the key of {tenant_id} is another one than the data here was sealed with: bring back the former one",
                field=_FIELD,
            )
        if not noted:
            self._seen.mkdir(parents=True, exist_ok=True)
            (self._seen / tenant_id).write_text(mark)

    def _make(self, path: Path) -> None:
        """Whole or not at all; of two processes that make it at once, the first one's counts."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = path.with_suffix(f".{secrets.token_hex(8)}")
        file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(file, secrets.token_bytes(DATA_KEY_BYTES))
            os.fsync(file)
        finally:
            os.close(file)
        try:
            os.link(fresh, path)
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
        _sync_folder(path.parent)

    def _path(self, tenant_id: TenantId) -> Path:
        return self._folder / f"{tenant_id}.key"

    def _tombstone(self, tenant_id: TenantId) -> Path:
        return self._folder / f"{tenant_id}.destroyed"

    async def _in_thread(self, job: Callable[[], T]) -> T:
        try:
            return await asyncio.to_thread(job)
        except OSError as error:
            raise Unavailable("the keys cannot be read at present") from error


def _missing(tenant_id: TenantId) -> Unavailable:
    advice = "bring it back, or give up what it sealed with `cueline keys destroy`"
    return Unavailable(f"the key of {tenant_id} is missing from keys.folder: {advice}", field=_FIELD)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
