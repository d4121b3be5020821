"""The identity provider's public keys, fetched, cached and rotated.

    start ──▶ fetch ──▶ keys ──find(kid)──▶ key
                ▲  every max_age_s, in the background
                └── at once for an unknown `kid`, but never more often than min_interval_s

A provider that is away changes nothing for keys that are known, for `max_stale_s`. Source: RFC 7517.
"""

from __future__ import annotations

import asyncio
import logging
import time
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import msgspec
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry, RSAKey

from server.wire.errors import ConfigError

logger = logging.getLogger(__name__)

MAX_AGE_S = 300.0
MIN_INTERVAL_S = 10.0
MAX_STALE_S = 24 * 3600.0
FETCH_TIMEOUT_S = 5.0
MAX_BODY_BYTES = 256 * 1024
MAX_KEYS = 64
MIN_RSA_BITS = 2048

PublicKey = RSAKey | ECKey
Fetch = Callable[[], Awaitable[bytes]]


class KeySet:
    """Public keys by their `kid`.

    Args:
        source: `https://…`, or the path of a file for a host without a way out.
        fetch: Instead of fetching from `source`; for tests.
        now_s: Monotonic clock.
        max_age_s: Keys are fetched again after this; a key that the provider withdrew is trusted so long at most.
        min_interval_s: Least time between two fetches for unknown keys: made-up `kid`s cannot make us ask more often.
        max_stale_s: Keys are forgotten when the provider could not be asked for so long.
    """

    def __init__(
        self,
        source: str,
        *,
        fetch: Fetch | None = None,
        now_s: Callable[[], float] = time.monotonic,
        max_age_s: float = MAX_AGE_S,
        min_interval_s: float = MIN_INTERVAL_S,
        max_stale_s: float = MAX_STALE_S,
    ) -> None:
        self._source = source
        self._fetch = fetch or (_by_http(source) if "://" in source else _from_file(source))
        self._now_s = now_s
        self._max_age_s = max_age_s
        self._min_interval_s = min_interval_s
        self._max_stale_s = max_stale_s
        self._keys: dict[str | None, PublicKey] = {}
        self._fetched_s = float("-inf")
        self._asked_s = float("-inf")
        self._asking = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Fetch the first keys and keep them fresh.

        Raises:
            ConfigError: What is there is no key set. One that cannot be reached may come later, and is told of.
        """
        try:
            await self._refresh()
        except ValueError as error:
            raise ConfigError(str(error), field="auth.jwks") from None
        except OSError as error:
            if "://" not in self._source:
                raise ConfigError(f"cannot be read: {self._source}", field="auth.jwks") from None
            logger.error("the identity provider does not answer; nobody can sign in", extra={"error": repr(error)})
        self._task = asyncio.create_task(self._keep_fresh(), name="key-set")
        self._task.add_done_callback(_loud)

    async def stop(self) -> None:
        """End the background task."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def find(self, kid: str | None) -> PublicKey | None:
        """The key of that id; without an id the only key, if there is only one."""
        if self._now_s() - self._fetched_s > self._max_stale_s:
            return None
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(kid)

    async def look_for(self, kid: str | None) -> None:
        """Fetch again if this key is not known: the provider may have begun to sign with a new one. Never raises."""
        if self.find(kid) is not None:
            return
        async with self._asking:
            # Whoever waited here finds it fetched.
            if self.find(kid) is None and self._now_s() - self._asked_s >= self._min_interval_s:
                await self._try_refresh()

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(self._max_age_s if self._keys else self._min_interval_s)
            async with self._asking:
                await self._try_refresh()

    async def _try_refresh(self) -> None:
        try:
            await self._refresh()
        except (OSError, ValueError) as error:
            logger.warning("the key set could not be fetched; the old one serves", extra={"error": repr(error)})

    async def _refresh(self) -> None:
        self._asked_s = self._now_s()
        keys = parse(await self._fetch())
        if keys.keys() != self._keys.keys():
            logger.info("key set fetched", extra={"keys": len(keys)})
        self._keys = keys
        self._fetched_s = self._now_s()


def parse(body: bytes) -> dict[str | None, PublicKey]:
    """The signing keys of a JSON key set by their ids; what is not for us is left out.

    Raises:
        ValueError: Not a key set, or none of its keys is one to verify RS256 or ES256 with.
    """
    try:
        document = msgspec.json.decode(body, type=dict[str, list[dict[str, object]]])
    except (msgspec.DecodeError, UnicodeError):
        raise ValueError("is not a JSON key set") from None
    found: dict[str | None, PublicKey] = {}
    for entry in document.get("keys", [])[:MAX_KEYS]:
        # A symmetric key in a public document is no secret, and whoever reads it could sign with it.
        if entry.get("kty") not in ("RSA", "EC") or entry.get("use", "sig") != "sig":
            continue
        try:
            key = JWKRegistry.import_key(cast("dict[str, Any]", entry))
        except (JoseError, ValueError, TypeError):
            continue
        is_strong = isinstance(key, RSAKey) and key.public_key.key_size >= MIN_RSA_BITS
        is_p256 = isinstance(key, ECKey) and key.curve_name == "P-256"
        if (is_strong or is_p256) and isinstance(key, RSAKey | ECKey):
            kid = entry.get("kid")
            found[kid if isinstance(kid, str) else None] = key
    if not found:
        raise ValueError("holds no key for RS256 or ES256")
    return found


def _by_http(url: str) -> Fetch:
    class NoRedirect(urllib.request.HTTPRedirectHandler):
        """A redirect could lead from TLS to none."""

        def redirect_request(self, *_: Any) -> None:
            return None

    opener = urllib.request.build_opener(NoRedirect)

    def get() -> bytes:
        with opener.open(
            urllib.request.Request(url, headers={"Accept": "application/json"}), timeout=FETCH_TIMEOUT_S
        ) as answer:
            body: bytes = answer.read(MAX_BODY_BYTES + 1)
        if len(body) > MAX_BODY_BYTES:
            raise ValueError(f"has more than {MAX_BODY_BYTES} bytes")
        return body

    async def fetch() -> bytes:
        # A request every few minutes needs no client of its own kind; a thread will do.
        async with asyncio.timeout(2 * FETCH_TIMEOUT_S):
            return await asyncio.to_thread(get)

    return fetch


def _from_file(path: str) -> Fetch:
    async def fetch() -> bytes:
        return await asyncio.to_thread(Path(path).read_bytes)

    return fetch


def _loud(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.critical("the key set is not refreshed any more", exc_info=error)
