"""Tenants' policies, compiled and ready to be pinned: the shell around `server.policy`.

    files ─PolicyStore─▶ Policy ─embed, calibrate─▶ prototypes ─compile─▶ guide ─▶ pinned by each new call

Changed files are taken in while the server runs; a wrong one is refused and named, and the old one keeps serving.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from weakref import WeakKeyDictionary

from inference.errors import InferenceError, ModelError
from inference.request import PrototypeSet
from server.live.phrases import PhraseVectors
from server.live.stations import Pinned
from server.metrics import Metrics
from server.orchestrator import Guide, Orchestrator
from server.policy.document import RetentionDocument
from server.policy.examples import leave_one_out
from server.policy.own_actions import OwnActions
from server.policy.prototypes import build_prototypes, prototype_spec, read_negatives
from server.policy.rulebook import RuleBook
from server.policy.rules import Policy
from server.policy.store import PolicyStore
from server.policy.validation import Graphs
from server.wire.errors import ConfigError, CuelineError
from server.wire.ids import TenantId

log = logging.getLogger(__name__)

POLL_INTERVAL_S = 2.0
"""How soon a changed policy is seen; new calls pin it at most so much later."""


class VersionDesk(Protocol):
    """Who keeps the versions of models."""

    async def hold(self, model: str, version: int) -> None:
        """Have a version loaded for those that pin it. Raises `ModelError`."""


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A policy with what belongs to one version of the encoder, by version.

    Attributes:
        policy: As read.
        prototypes: Vectors of its examples; the guide's own mapping, so that calls under way see what is added.
        own_actions: Which of these are actions, and from where on they are believed; the guide's own mapping, too.
        books: Its rules with the thresholds that its examples teach.
    """

    policy: Policy
    prototypes: dict[int, PrototypeSet] = field(default_factory=dict)
    own_actions: dict[int, OwnActions] = field(default_factory=dict)
    books: dict[int, RuleBook] = field(default_factory=dict)

    def book(self, encoder: str, serving: int) -> RuleBook:
        """Rules for a call that begins now."""
        return self.books[self.policy.pins.get(encoder, serving)]


class Policies:
    """All tenants' policies of this process.

    Args:
        folder: One YAML file a tenant, and `general_negatives.txt`: sentences that mean none of anybody's moments.
        graphs: What the product graphs offer, for checking the names in policies.
        orchestrator: Embeds and compiles.
        metrics: Counts refused files.
        models: Loads the versions that policies pin.
        cache: Folder for the vectors of example phrases; None embeds them at every start.
    """

    def __init__(
        self,
        folder: Path,
        graphs: Graphs,
        orchestrator: Orchestrator,
        metrics: Metrics,
        models: VersionDesk,
        cache: Path | None = None,
    ) -> None:
        self._store = PolicyStore(folder, graphs)
        self._orchestrator = orchestrator
        self._negatives = read_negatives(folder / "general_negatives.txt")
        self._metrics = metrics
        self._models = models
        self._vectors = PhraseVectors(orchestrator, cache)
        self._ready: dict[str, Guide] = {}
        self._in_use: WeakKeyDictionary[Guide, _Prepared] = WeakKeyDictionary()
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Load and compile all.

        Raises:
            ConfigError: A policy is wrong; its path.
        """
        for policy in await asyncio.to_thread(self._store.load):
            await self.guide(policy)
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
        policies = (self._in_use[guide].policy for guide in self._ready.values())
        return tuple((policy.tenant, policy.knowledge) for policy in policies if policy.knowledge is not None)

    def transcript_days(self, tenant_id: TenantId) -> int:
        """How long a tenant keeps transcripts; one without a policy as long as a policy that says nothing."""
        guide = self._ready.get(tenant_id)
        policy = self._in_use[guide].policy if guide is not None else None
        return (policy.retention if policy is not None else RetentionDocument()).transcript_days

    def pin(self, tenant_id: TenantId) -> Pinned:
        """Policy and guide for a call that begins now.

        Raises:
            NotFound: The tenant has no policy.
        """
        tenant = self._store.get(tenant_id).tenant
        guide = self._ready[tenant]
        book = self._in_use[guide].book(self._orchestrator.encoder, self._orchestrator.encoder_versions[0])
        return Pinned(book, book.policy.name, book.policy.languages, guide, book.policy.keyterms)

    async def prepare(self, model: str, version: int) -> None:
        """Embed the examples of every policy in use with a version that may answer from now on.

        Raises:
            InferenceError: The version cannot embed them.
        """
        if model == self._orchestrator.encoder:
            for prepared in list(self._in_use.values()):
                await self._embed(prepared, version)

    def pins(self) -> frozenset[tuple[str, int]]:
        """Model versions that policies in use pin."""
        return frozenset(lane for prepared in self._in_use.values() for lane in prepared.policy.pins.items())

    async def guide(self, policy: Policy) -> Guide:
        """Embed, calibrate and compile a policy; its tenant's calls pin it from now on.

        Raises:
            ConfigError: It pins a version that cannot be loaded, or asks of the graph what that cannot do.
            InferenceError: Its examples cannot be embedded.
        """
        for model, version in policy.pins.items():
            try:
                await self._models.hold(model, version)
            except ModelError as error:
                raise ConfigError(error.message, field=f"{policy.name}: pins.{model}") from error
        prepared = _Prepared(policy)
        # Again until none is missing: a version may be loaded while another one embeds.
        while missing := [number for number in self._orchestrator.encoder_versions if number not in prepared.books]:
            await self._embed(prepared, missing[0])
        for warning in policy.warnings:
            log.warning("policy warning", extra={"policy": policy.name, "warning": warning})
        guide = self._orchestrator.compile(
            policy.name,
            policy.graph,
            policy.wanted_outputs,
            prepared.prototypes,
            policy.pins,
            policy.labels,
            prepared.own_actions,
        )
        self._ready[policy.tenant] = guide
        self._in_use[guide] = prepared  # as long as a call has it
        return guide

    async def _embed(self, prepared: _Prepared, version: int) -> None:
        policy, spec = prepared.policy, prototype_spec(prepared.policy)
        if not spec.phrases:
            prepared.books[version] = RuleBook(policy, None)
            return
        vectors = await self._vectors.of(policy.tenant, (*spec.phrases, *self._negatives), version)
        num_phrases = len(spec.phrases)
        built = build_prototypes(spec, vectors[:num_phrases], self._negatives, vectors[num_phrases:])
        tried = leave_one_out(spec, vectors[:num_phrases], built.thresholds, self._negatives, vectors[num_phrases:])
        if policy.own_actions:  # before their vectors: no claim of theirs is ever taken for a moment
            prepared.own_actions[version] = OwnActions(policy.own_actions, built.thresholds)
        prepared.prototypes[version] = built.set
        prepared.books[version] = RuleBook(policy, built.thresholds)
        log.info(
            "example phrases tried; `cueline graph examples` names them",
            extra={
                "policy": policy.name,
                "encoder_version": version,
                "phrases": num_phrases,
                "found_by_others": round(tried.share, 3),
                "collisions": len(built.collisions),
            },
        )

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_INTERVAL_S)
            try:
                reload = await asyncio.to_thread(self._store.poll)
                for policy in reload.loaded:
                    await self.guide(policy)
                    log.info("policy loaded", extra={"policy": policy.name})
            except (CuelineError, InferenceError, OSError) as error:
                log.error("policies could not be reloaded; the old ones keep serving", extra={"reason": str(error)})
                continue
            for refused in reload.refused:
                self._metrics.policy_refusals.inc()
                log.error("policy refused; the old one keeps serving", extra={"reason": str(refused)})
