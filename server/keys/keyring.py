"""Seals and opens with tenants' data keys.

    1 byte version │ tenant │ wrapped data key │ nonce │ ciphertext and tag        AES-256-GCM

What is sealed carries all that it takes to open it but the tenant's key, so that rows, journals and backups need no key
table. `context` says where it belongs and is authenticated with it: moved to another row or tenant it does not open.
Used from the event loop.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from server.keys.provider import KeyProvider
from server.wire.errors import CuelineError, Gone, Unavailable
from server.wire.ids import TenantId

logger = logging.getLogger(__name__)

SEALED = 1
"""First byte of everything sealed; no JSON and no MessagePack record begins with it."""
MAX_KEY_AGE_S = 24 * 3600.0
MAX_KEY_USES = 2**31
"""Random nonces of 96 bits collide with a chance below 2⁻³² up to 2³² uses of a key. Source: NIST SP 800-38D, 8.3."""
MAX_OPENED_KEYS = 4096
CHECK_INTERVAL_S = 5.0
"""How soon a destroyed key is out of memory, too, and a tenant that is new can write."""

_NONCE_BYTES = 12


@dataclass(slots=True)
class _Current:
    cipher: AESGCM
    header: bytes
    made_s: float
    uses: int = 0


class Keyring:
    """The data keys of this process.

    Args:
        provider: Holds the tenants' keys.
        now_s: Monotonic clock.
    """

    def __init__(self, provider: KeyProvider, *, now_s: Callable[[], float] = time.monotonic) -> None:
        self._provider = provider
        self._now_s = now_s
        self._current: dict[TenantId, _Current] = {}
        self._opened: OrderedDict[bytes, tuple[TenantId, AESGCM]] = OrderedDict()
        self._destroyed: set[TenantId] = set()

    async def prepare(self, tenant_id: TenantId) -> None:
        """Have a key ready to seal with. A destroyed one is none, and `seal` will say so.

        Raises:
            Unavailable: The provider does not answer, and there is no key from before.
        """
        current = self._current.get(tenant_id)
        is_fresh = current is not None and current.uses < MAX_KEY_USES
        if is_fresh and current is not None and self._now_s() - current.made_s < MAX_KEY_AGE_S:
            return
        try:
            key = await self._provider.create(tenant_id)
        except Gone:
            self._forget(tenant_id)
            return
        except Unavailable:
            if is_fresh:
                return
            raise
        tenant = tenant_id.encode()
        header = b"%c%c%s%s%s" % (SEALED, len(tenant), tenant, len(key.wrapped).to_bytes(2), key.wrapped)
        self._current[tenant_id] = _Current(AESGCM(key.plain), header, self._now_s())
        self._destroyed.discard(tenant_id)

    def seal(self, tenant_id: TenantId, plain: bytes, context: bytes) -> bytes:
        """Seal with the tenant's current key.

        Args:
            tenant_id: Whose it is; prepared.
            plain: What.
            context: Where it belongs; `open` has to name the same.

        Raises:
            Gone: The tenant's key was destroyed.
            Unavailable: No key is ready.
        """
        current = self._current.get(tenant_id)
        if current is None or current.uses >= MAX_KEY_USES:
            if tenant_id in self._destroyed:
                raise Gone("the key of this tenant was destroyed")
            raise Unavailable("the key of this tenant is not at hand")
        current.uses += 1
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return current.header + nonce + current.cipher.encrypt(nonce, plain, current.header + context)

    async def open(self, sealed: bytes, context: bytes) -> bytes:
        """What was sealed there.

        Raises:
            Gone: The tenant's key was destroyed.
            Unavailable: The provider does not answer.
            ValueError: It was not sealed for that context, or was changed.
        """
        tenant_id, wrapped, header, rest = _parts(sealed)
        cipher = await self._cipher(tenant_id, wrapped)
        try:
            return cipher.decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], header + context)
        except InvalidTag:
            raise ValueError("was sealed for another place, or was changed") from None

    def open_now(self, sealed: bytes, context: bytes) -> bytes | None:
        """What was sealed there, if its key is in memory; None otherwise, and for what does not open."""
        try:
            tenant_id, wrapped, header, rest = _parts(sealed)
        except ValueError:
            return None
        found = self._opened.get(hashlib.sha256(wrapped).digest())
        if found is None or found[0] != tenant_id:
            return None
        try:
            return found[1].decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], header + context)
        except InvalidTag:
            return None

    async def watch(self, tenants: Callable[[], Iterable[str]]) -> None:
        """Follow the tenants: new ones get keys, old keys are replaced, destroyed ones forgotten. Until cancelled."""
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            await self.check(tenants())

    async def check(self, tenants: Iterable[str]) -> None:
        """One look at the provider. A provider that is away changes nothing."""
        known = {tenant_id for tenant_id, _ in self._opened.values()} | self._current.keys()
        for tenant_id in {TenantId(name) for name in tenants} | known:
            try:
                if await self._provider.is_destroyed(tenant_id):
                    self._forget(tenant_id)
                else:
                    await self.prepare(tenant_id)
            except CuelineError as error:
                logger.warning("a key could not be checked", extra={"tenant": tenant_id, "reason": error.message})

    async def _cipher(self, tenant_id: TenantId, wrapped: bytes) -> AESGCM:
        name = hashlib.sha256(wrapped).digest()
        found = self._opened.get(name)
        if found is None or found[0] != tenant_id:
            found = self._opened[name] = (tenant_id, AESGCM(await self._provider.unwrap(tenant_id, wrapped)))
            if len(self._opened) > MAX_OPENED_KEYS:
                self._opened.popitem(last=False)
        self._opened.move_to_end(name)
        return found[1]

    def _forget(self, tenant_id: TenantId) -> None:
        if tenant_id not in self._destroyed:
            logger.warning("the key of a tenant was destroyed", extra={"tenant": tenant_id})
        self._destroyed.add(tenant_id)
        self._current.pop(tenant_id, None)
        for name in [name for name, (owner, _) in self._opened.items() if owner == tenant_id]:
            del self._opened[name]


def _parts(sealed: bytes) -> tuple[TenantId, bytes, bytes, bytes]:
    """Tenant, wrapped key, header, and what follows it. Raises `ValueError`."""
    tenant_end = 2 + sealed[1] if len(sealed) > 2 and sealed[0] == SEALED else 0
    key_end = tenant_end + 2 + int.from_bytes(sealed[tenant_end : tenant_end + 2])
    if not tenant_end or len(sealed) < key_end + _NONCE_BYTES:
        raise ValueError("not sealed")
    tenant_id = TenantId(sealed[2:tenant_end].decode())
    return tenant_id, sealed[tenant_end + 2 : key_end], sealed[:key_end], sealed[key_end:]
