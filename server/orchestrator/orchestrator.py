"""One engine request per utterance revision, with its class, deadline and stamps.

    Utterance ──▶ Request(plan, class, deadline) ──▶ engine ──▶ Output, as each step ends ──▶ Annotation

Interims travel like finals: the batching policy lets a newer revision replace a queued older one. What a final hands on
(`CARRY`) goes with the next request of its call, and to nobody else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import msgspec

from inference.engine import Engine
from inference.graph import Graph
from inference.request import Carry, EmbeddingArray, Outcome, Output, PrototypeSet, Request, RowClass
from server.config.settings import EngineSettings
from server.orchestrator.graphs import ACTIONS, CARRY, MOMENTS, are_ready_together, carry_input, run_outputs
from server.orchestrator.guide import Guide, OwnLabels
from server.orchestrator.turns import Turns, TurnState
from server.wire.clock import Stamps, wall_ms
from server.wire.errors import ConfigError
from server.wire.ids import ConversationId, TenantId
from server.wire.publication import Annotation
from server.wire.utterance import Utterance

OnAnnotations = Callable[[Utterance, Sequence[Annotation], Stamps], None]
OnDone = Callable[[Utterance, Outcome, BaseException | None], None]


class Orchestrator:
    """Event-loop thread only.

    Args:
        engine: Started engine.
        graphs: Declared graphs by name.
        settings: Deadlines.
    """

    def __init__(self, engine: Engine, graphs: Mapping[str, Graph], settings: EngineSettings) -> None:
        self._engine = engine
        self._graphs = graphs
        self._settings = settings
        self._turns = Turns()

    async def embed(self, texts: Sequence[str], version: int) -> EmbeddingArray:
        """Vectors of example phrases by one version of the encoder, `[texts, dims] float32`, L2-normalised."""
        return await self._engine.embed(texts, version)

    @property
    def encoder(self) -> str:
        """Model that embeds."""
        return self._engine.embedding_model

    def encoder_weights(self, version: int) -> str:
        """Which weights one loaded version of the encoder was read from."""
        return self._engine.service(self.encoder, version).weights_identity

    @property
    def encoder_versions(self) -> tuple[int, ...]:
        """Its loaded versions; the one that answers first."""
        serving = self._engine.service(self.encoder).version.version
        others = (version for version in self._engine.versions(self.encoder) if version != serving)
        return (serving, *others)

    def compile(
        self,
        name: str,
        graph: str,
        outputs: Sequence[str],
        prototypes: Mapping[int, PrototypeSet] | None,
        pins: Mapping[str, int],
        labels: Mapping[str, frozenset[str]],
        own_actions: Mapping[int, OwnLabels] | None = None,
    ) -> Guide:
        """Compile what a policy wants.

        Args:
            name: Policy name and version, for errors.
            graph: Graph to run.
            outputs: Outputs wanted of it.
            prototypes: Labels by example, by version of the encoder.
            pins: Pinned model versions.
            labels: Labels that make sense for the tenant, by output.
            own_actions: Which of the labels by example belong to `ACTIONS`, by version of the encoder.

        Raises:
            ConfigError: The policy names a graph that does not exist, or has own actions and the graph finds `actions`
                and `moments` at different times, so that no annotation could hold both.
        """
        declared = self._graphs.get(graph)
        if declared is None:
            raise ConfigError(f"there is no graph `{graph}`", field=f"{name}: graph")
        plan = self._engine.compile(declared, run_outputs(declared, outputs))
        if own_actions and not are_ready_together(plan, (MOMENTS, ACTIONS)):
            problem = f"graph `{graph}` does not find `{MOMENTS}` and `{ACTIONS}` in one pass"
            raise ConfigError(problem, field=f"{name}: outputs.{ACTIONS}.examples")
        return Guide(name, plan, prototypes, own_actions or {}, pins, labels, carry_input(declared))

    def annotate(
        self, guide: Guide, utterance: Utterance, stamps: Stamps, on_annotations: OnAnnotations, on_done: OnDone
    ) -> None:
        """Run an utterance revision through its call's plan.

        Args:
            guide: What the call is pinned to.
            utterance: The revision; a queued older one is superseded.
            stamps: `t0` to `t4`; the annotations' get `t5` to `t7` added.
            on_annotations: Called with outputs the moment they are ready, all that are at once; value None where one
                does not apply, so that a policy that waits for it need not.
            on_done: Called once, last.

        Raises:
            InferenceError: The engine takes no more (overload).
        """
        now_s, owner = time.monotonic(), owner_of(utterance.tenant_id, utterance.conversation_id)
        inputs = {"text": utterance.text, "speaker": utterance.speaker, "is_final": utterance.is_final}
        if guide.carry_input:
            inputs[guide.carry_input] = self._turns.before(owner, utterance)
            if utterance.is_final:
                self._turns.said(owner, utterance)
        wait_ms = self._settings.final_deadline_ms if utterance.is_final else self._settings.interim_deadline_ms
        started = msgspec.structs.replace(stamps, t5=wall_ms())
        self._engine.submit(
            Request(
                plan=guide.plan,
                inputs=inputs,
                owner=owner,
                key=utterance.utterance_id,
                revision=utterance.revision,
                row_class=RowClass.FINAL if utterance.is_final else RowClass.INTERIM,
                deadline_s=now_s + wait_ms / 1000,
                prototypes=guide.prototypes,
                pins=guide.pins,
                on_outputs=partial(self._forward, guide, utterance, started, on_annotations),
                on_done=partial(on_done, utterance),
            )
        )

    def turns(self, owner: str) -> tuple[TurnState, ...]:
        """What a call's last turns hand on, for another process to go on after."""
        return self._turns.state(owner)

    def go_on_after(self, owner: str, turns: Iterable[TurnState]) -> None:
        """Take over what a call's last turns hand on."""
        self._turns.restore(owner, turns)

    def cancel(self, owner: str) -> None:
        """Drop what is queued for a call that is over, and forget its last turn."""
        self._engine.cancel(owner)
        self._turns.forget(owner)

    def _forward(
        self,
        guide: Guide,
        utterance: Utterance,
        started: Stamps,
        on_annotations: OnAnnotations,
        outputs: Sequence[Output],
    ) -> None:
        if guide.carry_input:
            for output in outputs:
                if output.name == CARRY and utterance.is_final and output.value is not None:
                    carry = Carry(output.model, output.version, output.value)
                    owner = owner_of(utterance.tenant_id, utterance.conversation_id)
                    self._turns.handed_on(owner, utterance, carry)
            outputs = [output for output in outputs if output.name != CARRY]
        outputs = guide.share_out(outputs, utterance.speaker)
        if outputs:
            annotations = [_annotation(guide, utterance, output) for output in outputs]
            on_annotations(utterance, annotations, _stamped(started, outputs[-1]))


def owner_of(tenant_id: TenantId, conversation_id: ConversationId) -> str:
    """The engine's name for a call; tenants never share one."""
    return f"{tenant_id}/{conversation_id}"


def _annotation(guide: Guide, utterance: Utterance, output: Output) -> Annotation:
    return Annotation(
        utterance_id=utterance.utterance_id,
        revision=utterance.revision,
        output=output.name,
        value=guide.narrow(output.name, output.value),
        score=output.score,
        model=output.model,
        version=output.version,
        queue_ms=output.queue_ms,
        compute_ms=output.compute_ms,
    )


def _stamped(started: Stamps, output: Output) -> Stamps:
    # The engine measures on the monotonic clock; one offset, taken now, turns it into wall time.
    offset_ms = wall_ms() - time.monotonic() * 1000
    t6, t7 = (round(at_s * 1000 + offset_ms, 3) for at_s in (output.started_s, output.ready_s))
    return msgspec.structs.replace(started, t6=t6, t7=t7)
