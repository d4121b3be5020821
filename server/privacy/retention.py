"""The retention clock: what was kept for as long as its tenant's policy says goes, without being asked."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from server.privacy.erasure import Erasure
from server.store.contract import Store
from server.wire.clock import wall_ms
from server.wire.errors import CuelineError
from server.wire.ids import TenantId

logger = logging.getLogger(__name__)

SWEEP_INTERVAL_S = 3600.0
PAGE = 100
_DAY_MS = 24 * 3600 * 1000.0


class Retention:
    """Sweeps hourly. Several processes may; what one has erased the other finds gone.

    Args:
        erasure: Reaches every place.
        store: Knows how old conversations are.
        days_of: Days that a tenant keeps transcripts.
        now_ms: Wall clock.
    """

    def __init__(
        self,
        erasure: Erasure,
        store: Store,
        days_of: Callable[[TenantId], int],
        *,
        now_ms: Callable[[], float] = wall_ms,
    ) -> None:
        self._erasure = erasure
        self._store = store
        self._days_of = days_of
        self._now_ms = now_ms

    async def run(self) -> None:
        """Sweep for ever; a store that is away is asked the next time. Until cancelled."""
        while True:
            try:
                await self.sweep()
            except CuelineError as error:
                logger.warning("retention waits", extra={"reason": error.message})
            except Exception:
                # One tenant's trouble must not keep all others' words for ever.
                logger.exception("a retention sweep failed")
            await asyncio.sleep(SWEEP_INTERVAL_S)

    async def sweep(self) -> int:
        """Erase what is due, page by page; how many conversations that were.

        Raises:
            Unavailable: Store or journal are away.
        """
        num_erased = 0
        for tenant_id in await self._store.tenants():
            before_ms = self._now_ms() - self._days_of(tenant_id) * _DAY_MS
            previous: list[str] = []
            # A page that comes back unchanged holds calls that are live still; they are left for the next sweep.
            while (due := await self._store.begun_before(tenant_id, before_ms, PAGE)) and due != previous:
                await self._erasure.expire(tenant_id, due)
                num_erased += len(due)
                previous = due
        if num_erased:
            logger.info("retention erased conversations", extra={"conversations": num_erased})
        return num_erased
