"""Tenants' policies, compiled and ready to be pinned: the shell around `server.policy`.

    files ─PolicyStore─▶ Policy ─embed, calibrate─▶ prototypes ─compile─▶ guide ─▶ pinned by each new call

Changed files are taken in while the server runs; a wrong one is refused and named, and the old one keeps serving.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from server.live.stations import Pinned
from server.metrics import Metrics
from server.orchestrator import Guide, Orchestrator
from server.policy.examples import leave_one_out
from server.policy.prototypes import build_prototypes, prototype_spec, read_negatives
from server.policy.rulebook import RuleBook
from server.policy.rules import Policy
from server.policy.runtime import CallPolicy
from server.policy.store import PolicyStore
from server.policy.validation import Graphs
from server.wire.errors import CuelineError
from server.wire.ids import TenantId

log = logging.getLogger(__name__)

POLL_INTERVAL_S = 2.0
"""How soon a changed policy is seen; new calls pin it at most so much later."""


class Policies:
    """All tenants' policies of this process.

    Args:
        folder: One YAML file a tenant, and `general_negatives.txt`: sentences that mean none of anybody's moments.
        graphs: What the product graphs offer, for checking the names in policies.
        orchestrator: Embeds and compiles.
        metrics: Counts refused files.
    """

    def __init__(self, folder: Path, graphs: Graphs, orchestrator: Orchestrator, metrics: Metrics) -> None:
        self._store = PolicyStore(folder, graphs)
        self._orchestrator = orchestrator
        self._negatives = read_negatives(folder / "general_negatives.txt")
        self._metrics = metrics
        self._ready: dict[str, tuple[RuleBook, Guide]] = {}
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Load and compile all.

        Raises:
            ConfigError: A policy is wrong; its path.
        """
        for policy in await asyncio.to_thread(self._store.load):
            await self._prepare(policy)
        self._watch = asyncio.create_task(self._poll(), name="policies")

    async def stop(self) -> None:
        """Stop looking for changes."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)

    @property
    def tenants(self) -> tuple[str, ...]:
        """Tenants that have a policy."""
        return tuple(self._ready)

    @property
    def bases(self) -> tuple[tuple[str, str], ...]:
        """Tenants with the knowledge bases that their policies name."""
        policies = (book.policy for book, _ in self._ready.values())
        return tuple((policy.tenant, policy.knowledge) for policy in policies if policy.knowledge is not None)

    def pin(self, tenant_id: TenantId) -> Pinned:
        """Policy and guide for a call that begins now.

        Raises:
            NotFound: The tenant has no policy.
        """
        tenant = self._store.get(tenant_id).tenant
        book, guide = self._ready[tenant]
        return Pinned(CallPolicy(book), book.policy.name, book.policy.languages, guide)

    async def _prepare(self, policy: Policy) -> None:
        spec = prototype_spec(policy)
        prototypes = thresholds = None
        if spec.phrases:
            vectors = await self._orchestrator.embed((*spec.phrases, *self._negatives))
            num_phrases = len(spec.phrases)
            built = build_prototypes(spec, vectors[:num_phrases], self._negatives, vectors[num_phrases:])
            prototypes, thresholds = built.set, built.thresholds
            tried = leave_one_out(spec, vectors[:num_phrases], built.thresholds, self._negatives, vectors[num_phrases:])
            log.info(
                "example phrases tried; `cueline graph examples` names them",
                extra={
                    "policy": policy.name,
                    "phrases": num_phrases,
                    "found_by_others": round(tried.share, 3),
                    "collisions": len(built.collisions),
                },
            )
        for warning in policy.warnings:
            log.warning("policy warning", extra={"policy": policy.name, "warning": warning})
        guide = self._orchestrator.compile(
            policy.name, policy.graph, policy.wanted_outputs, prototypes, policy.pins, policy.labels
        )
        self._ready[policy.tenant] = (RuleBook(policy, thresholds), guide)

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_INTERVAL_S)
            try:
                reload = await asyncio.to_thread(self._store.poll)
                for policy in reload.loaded:
                    await self._prepare(policy)
                    log.info("policy loaded", extra={"policy": policy.name})
            except (CuelineError, OSError) as error:
                log.error("policies could not be reloaded; the old ones keep serving", extra={"reason": str(error)})
                continue
            for refused in reload.refused:
                self._metrics.policy_refusals.inc()
                log.error("policy refused; the old one keeps serving", extra={"reason": str(refused)})
