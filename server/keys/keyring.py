"""Seals and opens with tenants' data keys.

    1 byte version │ tenant │ wrapped data key │ nonce │ ciphertext and tag        AES-256-GCM

What is sealed carries all that it takes to open it but the tenant's key, so that rows, journals and backups need no key
table. `context` says where it belongs and is authenticated with it: moved to another row or tenant it does not open.
Used from the event loop, where alone a key service can be asked; the `DataCipher`s it hands out from any thread.
"""

from __future__ import annotations

import asyncio
import logging
import os
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
_NONCES_DRAWN = 256
"""Nonces asked of the kernel at once: asking for each was a twentieth of the event loop's work, and gave up the
interpreter every time."""
_nonces: list[bytes] = []
os.register_at_fork(after_in_child=_nonces.clear)  # a child must not use its parent's


def _nonce() -> bytes:
    """A random nonce that nobody had; from any thread, since a list's own methods are whole."""
    try:
        return _nonces.pop()
    except IndexError:
        drawn = secrets.token_bytes(_NONCE_BYTES * _NONCES_DRAWN)
        _nonces.extend(drawn[start : start + _NONCE_BYTES] for start in range(_NONCE_BYTES, len(drawn), _NONCE_BYTES))
        return drawn[:_NONCE_BYTES]


class DataCipher:
    """One data key at work. May be used from any thread.

    Args:
        header: What stands before everything that it seals.
        key: The data key.
    """

    __slots__ = ("_cipher", "header")

    def __init__(self, header: bytes, key: bytes) -> None:
        self.header = header
        self._cipher = AESGCM(key)

    def seal(self, plain: bytes, context: bytes) -> bytes:
        """Seal for a place; `open` has to name the same."""
        nonce = _nonce()
        return self.header + nonce + self._cipher.encrypt(nonce, plain, self.header + context)

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """What was sealed with this key for that place.

        Raises:
            ValueError: It was not, or was changed.
        """
        start = len(self.header)
        nonce = sealed[start : start + _NONCE_BYTES]
        try:
            return self._cipher.decrypt(nonce, sealed[start + _NONCE_BYTES :], self.header + context)
        except InvalidTag:
            raise ValueError("was sealed for another place, or was changed") from None


@dataclass(slots=True)
class _Current:
    cipher: DataCipher
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
        self._opened: OrderedDict[bytes, tuple[TenantId, DataCipher]] = OrderedDict()
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
        cipher = DataCipher(header, key.plain)
        self._current[tenant_id] = _Current(cipher, self._now_s())
        self._keep(tenant_id, cipher)  # what this process seals it reads without asking
        self._destroyed.discard(tenant_id)

    def is_destroyed(self, tenant_id: TenantId) -> bool:
        """Whether this process knows that the tenant's key was destroyed."""
        return tenant_id in self._destroyed

    def cipher(self, tenant_id: TenantId) -> DataCipher:
        """The tenant's current data key, to seal one thing with.

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
        return current.cipher

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
        return self.cipher(tenant_id).seal(plain, context)

    async def cipher_of(self, sealed: bytes) -> DataCipher:
        """The data key that something was sealed with; the provider is asked once for each.

        Raises:
            Gone: The tenant's key was destroyed.
            Unavailable: The provider does not answer.
            ValueError: This is nothing sealed.
        """
        header = header_of(sealed)
        if (found := self._opened.get(header)) is not None:
            self._opened.move_to_end(header)
            return found[1]
        tenant_id, wrapped = _named(header)
        cipher = DataCipher(header, await self._provider.unwrap(tenant_id, wrapped))
        self._keep(tenant_id, cipher)
        return cipher

    async def open(self, sealed: bytes, context: bytes) -> bytes:
        """What was sealed there.

        Raises:
            Gone: The tenant's key was destroyed.
            Unavailable: The provider does not answer.
            ValueError: It was not sealed for that context, or was changed.
        """
        return (await self.cipher_of(sealed)).open(sealed, context)

    def cipher_now(self, sealed: bytes) -> DataCipher | None:
        """The data key that something was sealed with, if it is in memory. Raises `ValueError`: this is not sealed."""
        found = self._opened.get(header_of(sealed))
        return None if found is None else found[1]

    def open_now(self, sealed: bytes, context: bytes) -> bytes | None:
        """What was sealed there, if its key is in memory; None otherwise, and for what does not open."""
        try:
            cipher = self.cipher_now(sealed)
            return None if cipher is None else cipher.open(sealed, context)
        except ValueError:
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

    def _keep(self, tenant_id: TenantId, cipher: DataCipher) -> None:
        self._opened[cipher.header] = (tenant_id, cipher)
        if len(self._opened) > MAX_OPENED_KEYS:
            self._opened.popitem(last=False)

    def _forget(self, tenant_id: TenantId) -> None:
        if tenant_id not in self._destroyed:
            logger.warning("the key of a tenant was destroyed", extra={"tenant": tenant_id})
        self._destroyed.add(tenant_id)
        self._current.pop(tenant_id, None)
        for name in [name for name, (owner, _) in self._opened.items() if owner == tenant_id]:
            del self._opened[name]


def header_of(sealed: bytes) -> bytes:
    """What stands before everything that was sealed with the same data key. Raises `ValueError`: nothing sealed."""
    tenant_end = 2 + sealed[1] if len(sealed) > 2 and sealed[0] == SEALED else 0
    key_end = tenant_end + 2 + int.from_bytes(sealed[tenant_end : tenant_end + 2])
    if not tenant_end or len(sealed) < key_end + _NONCE_BYTES:
        raise ValueError("not sealed")
    return sealed[:key_end]


def _named(header: bytes) -> tuple[TenantId, bytes]:
    """Tenant and wrapped key of a header."""
    tenant_end = 2 + header[1]
    return TenantId(header[2:tenant_end].decode()), header[tenant_end + 2 :]
