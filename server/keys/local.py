"""Tenants' keys as files of this host: the default, which needs no other server.

    keys/car_service.key        32 bytes, readable by the server's user only
    keys/car_service.destroyed  the key that was here is gone, and is not made anew

Several hosts that share a database have to share this folder, or use a key service.
"""

from __future__ import annotations

import asyncio
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


class LocalKeys:
    """`KeyProvider` on files.

    Args:
        folder: Where they are; made if missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

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
            raise Gone("this was sealed by a key that is not here any more") from None

    async def is_destroyed(self, tenant_id: TenantId) -> bool:
        """See `KeyProvider`."""
        return await self._in_thread(self._tombstone(tenant_id).exists)

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
        if or_make and not path.exists():
            self._make(path)
        try:
            key = path.read_bytes()
        except FileNotFoundError:
            raise Gone("the key of this tenant is not here") from None
        if len(key) != DATA_KEY_BYTES:
            raise Unavailable("the key of this tenant cannot be used")
        return key

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


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
