"""The engine: requests in on the event loop, batches on worker threads, outputs back on the loop.

    submit ──advance──▶ crew: policy, workers, operator thread ──one wake-up a batch──▶ on_outputs …, on_done
       └──▶ memory: the same words again never reach a model

Decisions are `batching`'s, steps are `journey`'s, threads are `crew`'s; here is the side that faces the server: models
loaded and warmed before ready, plans compiled and bound, requests counted, every one answered exactly once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from inference.ask import ask
from inference.backends.contract import Backend, HasStatus
from inference.backends.onnxruntime import CPU, CUDA, OnnxRuntimeBackend, OnnxRuntimeSettings
from inference.batching import BatchingPolicy
from inference.compile import PlanCache
from inference.crew import Crew, Remembered
from inference.embedding import EMBEDDING, embed, first_with_embedding
from inference.errors import InferenceError, ModelError, OverloadedError
from inference.fleet import NO_PINS, Fleet, Progress, Wish
from inference.graph import Graph
from inference.health import Health
from inference.journey import Journey, pass_heads
from inference.ledger import Ledger
from inference.memo import Memo
from inference.observer import Cost, EngineObserver, EngineStats, Follower, SilentObserver
from inference.plan import Op, Plan
from inference.program import ProgramStep
from inference.repository import ModelRepository, ModelVersion
from inference.request import EmbeddingArray, Outcome, Output, Prototypes, Request, Retrieve, RowClass
from inference.row import Lane, Refusal
from inference.service import Service
from inference.settings import EngineSettings

__all__ = ["Engine", "EngineSettings"]


class Engine:
    """Answers requests. All methods are for the event loop's thread, and so are the callbacks.

    Attributes:
        repository: What is served. `health`: how versions are doing. `followers`: see live requests, by model.
    """

    def __init__(
        self,
        repository: ModelRepository,
        settings: EngineSettings | None = None,
        operators: Mapping[str, Retrieve] | None = None,
        *,
        observer: EngineObserver | None = None,
        backends: Mapping[str, Backend] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; `start` loads.

        Args:
            repository: Models to serve.
            settings: How.
            operators: Functions for `retrieve` nodes (registered as `retrieve`) and `python` nodes.
            observer: Hears of delays, batches and drops.
            backends: By name; without them onnxruntime on the settings' device.
            clock: Monotonic seconds; deadlines are instants of it.

        Raises:
            ModelError: If the device is not there.
            ValueError: If the settings contradict themselves.
        """
        self.repository = repository
        self._settings = settings or EngineSettings()
        self._batching = self._settings.batching
        self._operators = dict(operators or {})
        if backends is None:
            settings_of = OnnxRuntimeSettings(CUDA if self._settings.device == "cuda" else CPU)
            backends = {"onnxruntime": OnnxRuntimeBackend(settings_of)}
        self._backends = backends
        self._clock = clock
        self._plans = PlanCache()
        self._fleet = Fleet(
            backends,
            self._batching,
            self._operators,
            self._settings.precision,
            prefers_half=self._settings.device == "cuda",
        )
        self._memo: Memo[Remembered] = Memo(self._settings.memo_rows)
        self.health = Health()
        self._ledger = Ledger(self.health, observer or SilentObserver(), clock)
        self.followers: dict[str, Follower] = {}
        self._is_ready = False
        self._crash: BaseException | None = None
        self._policy: BatchingPolicy | None = None
        self._crew: Crew | None = None
        self._blas: threadpool_limits | None = None

    # -- life --------------------------------------------------------------------------------------------------------

    async def start(self, progress: Progress | None = None, wishes: Mapping[str, Wish] | None = None) -> None:
        """Load, check and warm every model that the repository serves. Ready when it returns.

        Args:
            progress: Called on the loop with a model's name and the share done.
            wishes: Which versions are wanted and which are not, by model; else the version policy alone decides.

        Raises:
            ModelError: If no version of a model can be served; the path and key of the wrong value are in it.
        """
        self._ledger.open()
        # BLAS threads of our own small products would spin on the cores that models run on: ten times the CPU.
        self._blas = threadpool_limits(1, "blas")
        await self._fleet.load_all(self.repository, progress, wishes or {})
        self.repository = self._fleet.as_served(self.repository)
        services = self._fleet.services
        workers = self._settings.workers or max(
            (service.model.preferred_slots for service in services.values()), default=1
        )
        self._policy = BatchingPolicy(self._batching, workers)
        for service in services.values():
            self._policy.open_lane(service.lane, service.ladder, service.cost)
        self._crew = Crew(
            self._policy,
            self._memo,
            self._ledger.deliver_from_thread,
            clock=self._clock,
            max_operator_rows=self._settings.max_queue_rows,
            on_crash=self._on_crash,
        )
        self._crew.start(workers)
        self._is_ready = True

    async def stop(self, timeout_s: float = 10.0) -> None:
        """Refuse new work, finish what is under way, end the threads, unload the models.

        Args:
            timeout_s: After this, what is still queued is cancelled; what runs is waited for.
        """
        self._is_ready = False
        if self._blas is not None:
            self._blas.restore_original_limits()
        if self._crew is None:
            return
        try:
            await asyncio.wait_for(self._ledger.drained.wait(), timeout_s)
        except TimeoutError:
            self._ledger.end(self._crew.clear(), Outcome.CANCELLED)
        await asyncio.to_thread(self._crew.stop)
        self._crew = None
        self._fleet.unload_all()

    @property
    def is_ready(self) -> bool:
        """Whether it takes requests."""
        return self._is_ready and self._crash is None

    # -- plans -------------------------------------------------------------------------------------------------------

    def compile(self, graph: Graph, outputs: Collection[str] | None) -> Plan:
        """Compile a graph for the wanted outputs, or return the plan of equal structure.

        Args:
            graph: As read.
            outputs: Names wanted; None for all.

        Raises:
            GraphError: If it cannot be compiled.
            InferenceError: If it needs a function that is not registered.
        """
        plan = self._plans.plan(
            graph, outputs, self.repository, backends=tuple(self._backends), functions=tuple(self._operators)
        )
        if self._is_ready:
            self._fleet.program(plan)  # its errors belong here, not into the first request
        return plan

    # -- versions ----------------------------------------------------------------------------------------------------

    async def load_version(self, version: ModelVersion) -> None:
        """Load and warm a further version while others serve. It answers calls that pin it, until `serve_version`.

        Raises:
            ModelError: If it cannot be loaded; what serves is not touched.
        """
        service = await self._fleet.load(version)
        if self._crew is not None:
            self._crew.open_lane(service)

    def serve_version(self, model: str, version: int) -> None:
        """Let a loaded version answer unpinned requests from now on; running work finishes on the old one.

        Raises:
            InferenceError: If it is not loaded.
        """
        self._fleet.serve(model, version)
        self.repository = self._fleet.as_served(self.repository)

    def split_calls(self, model: str, version: int, ratio: float) -> None:
        """Let a loaded version answer a share of the calls, the same calls every time; 0 ends it.

        Raises:
            InferenceError: If it is not loaded.
        """
        self._fleet.split(model, version, ratio)

    async def retire_version(self, model: str, version: int) -> None:
        """Unload a version once the requests that were under way when it was withdrawn have ended.

        Raises:
            InferenceError: If it is not loaded, or answers unpinned requests.
        """
        service = self._fleet.withdraw(model, version)
        await self._ledger.until_answered()
        if self._crew is not None:
            self._crew.close_lane(service.lane)
        self._memo.forget(service.lane)
        self.health.forget(service.lane)
        service.model.unload()

    def service(self, model: str, version: int | None = None) -> Service:
        """Return a loaded version, or the one that answers.

        Raises:
            InferenceError: If there is none.
        """
        return self._fleet.service(model, version)

    def versions(self, model: str) -> tuple[int, ...]:
        """Loaded versions of a model, newest first."""
        return tuple(sorted((version for name, version in self._fleet.services if name == model), reverse=True))

    @property
    def problems(self) -> Mapping[Lane, ModelError]:
        """Versions refused at the start, with the reason."""
        return self._fleet.problems

    # -- requests ----------------------------------------------------------------------------------------------------

    def submit(self, request: Request) -> None:
        """Take a request; returns at once. `on_outputs` and `on_done` are called later, never from within.

        Raises:
            OverloadedError: If the queue is full, or the deadline cannot be met behind what is queued, or the engine
                is not ready. No callback follows.
            InferenceError: If it pins a version that is not loaded, or is longer than any bucket.
        """
        if not self._is_ready or self._crew is None or self._crash is not None:
            raise OverloadedError("the engine is not ready")
        if request.row_class is not RowClass.SHADOW:
            self._ledger.stats.submitted += 1
            for follower in self.followers.values():
                request = follower.follow(request)
        program = self._fleet.program(request.plan, request.pins, request.owner)
        journey = Journey(request, program, self._clock())
        try:
            step = self._advance_from_memory(journey)
        except Exception as error:  # what the model said of these words was no number, say: the row's fault, not ours
            self._ledger.begin(journey)
            self._ledger.fail_soon(journey, error)
            return
        if step is None:
            if not journey.results:
                self._ledger.skipped("not_wanted")
            self._ledger.begin(journey)
            self._ledger.end_soon([journey], Outcome.DONE)
        elif step.step.op is Op.MODEL:
            self._queue(self._crew, journey)
        elif self._crew.take_operator(journey):
            self._ledger.begin(journey)
        else:
            self._refuse(Refusal.FULL, request.row_class)

    def cancel(self, owner: str) -> None:
        """Drop what is queued for a call; its requests end as cancelled. What runs already is answered."""
        if self._crew is not None:
            self._ledger.end_soon(self._crew.cancel(owner), Outcome.CANCELLED)

    async def run(
        self,
        plan: Plan,
        inputs: Mapping[str, Any],
        *,
        row_class: RowClass = RowClass.FINAL,
        deadline_s: float = float("inf"),
        prototypes: Prototypes | None = None,
        owner: str = "",
        pins: Mapping[str, int] = NO_PINS,
    ) -> dict[str, Output]:
        """Submit one request and wait for its end.

        Args:
            plan: From `compile`.
            inputs: Declared inputs by name.
            row_class: Who goes first.
            deadline_s: Monotonic instant after which the answer is worthless.
            prototypes: The tenant's labels by example.
            owner: Call it belongs to.
            pins: Model name to version.

        Returns:
            Every wanted output by name.

        Raises:
            OverloadedError: As `submit`.
            InferenceError: If it failed, or ended without its outputs.
        """
        return await ask(
            self,
            Request(
                plan=plan,
                inputs=inputs,
                owner=owner,
                key="",
                row_class=row_class,
                deadline_s=deadline_s,
                prototypes=prototypes,
                pins=pins,
            ),
        )

    async def embed(self, texts: Sequence[str], version: int | None = None, output: str = EMBEDDING) -> EmbeddingArray:
        """Embed texts, behind all live requests.

        Args:
            texts: Any number.
            version: Loaded version that embeds; None: the one that answers.
            output: Which of its vectors.

        Returns:
            `[texts, dims] float32`, L2-normalised.

        Raises:
            ModelError: If no model has an embedding.
            OverloadedError: If the queue is full.
        """
        return await embed(self, self.repository, self.embedding_model, texts, version, output)

    def recall(
        self, model: str, texts: Sequence[str], version: int | None = None, output: str = EMBEDDING
    ) -> list[NDArray[Any] | None]:
        """Return what a model gave for texts, where that is remembered: at once, and an eighth as dear as a request.

        Args:
            model: That takes text.
            texts: Any number.
            version: Loaded version; None: the one that answers.
            output: Of the model.

        Returns:
            Its row for each text; None for those that have to be asked for.

        Raises:
            OverloadedError: If the engine is not ready.
            InferenceError: If the version is not loaded.
        """
        if not self.is_ready:
            raise OverloadedError("the engine is not ready")
        service = self._fleet.service(model, version)
        assert service.tokenizer is not None
        found: list[NDArray[Any] | None] = []
        for text in texts:
            remembered = self._memo.recall(service.lane, service.tokenizer.encode(text))
            array = remembered[0].arrays.get(output) if remembered is not None else None
            if remembered is None or array is None:
                found.append(None)
                continue
            found.append(array[remembered[1]])
            self._ledger.stats.submitted += 1
            self._ledger.skipped("same_text")
        return found

    @property
    def embedding_model(self) -> str:
        """Model behind `embed`; raises `ModelError` if none has an embedding."""
        return self._settings.embedding_model or first_with_embedding(self.repository)

    def forget_words(self) -> int:
        """Empty the memory of words that were said; how many there were. They will be computed again."""
        return self._memo.clear()

    def stats(self) -> EngineStats:
        """Return a snapshot of the counters."""
        return replace(
            self._ledger.stats,
            under_way=len(self._ledger),
            queued_rows=self._policy.queued if self._policy is not None else 0,
            dropped=dict(self._ledger.stats.dropped),
            skipped=dict(self._ledger.stats.skipped),
            costs={f"{n}/{v}": Cost(s.cost.a_s, s.cost.b_s) for (n, v), s in self._fleet.services.items()},
            backends={
                f"{n}/{v}": s.model.status()
                for (n, v), s in self._fleet.services.items()
                if isinstance(s.model, HasStatus)
            },
        )

    # -- inside: taking ----------------------------------------------------------------------------------------------

    def _queue(self, crew: Crew, journey: Journey) -> None:
        admission = crew.admit(journey)
        if admission.refusal is not None and admission.refusal is not Refusal.LATE:
            self._refuse(admission.refusal, journey.request.row_class)
        self._ledger.begin(journey)
        if admission.refusal is Refusal.LATE:
            self._ledger.end_soon([journey], Outcome.LATE)
        if admission.superseded is not None:
            self._ledger.end_soon([admission.superseded.item], Outcome.SUPERSEDED)

    def _refuse(self, refusal: Refusal, row_class: RowClass) -> None:
        self._ledger.dropped(refusal.name.lower(), row_class)
        if refusal is Refusal.TOO_LONG:
            raise InferenceError("the row is longer than any bucket of its model")
        raise OverloadedError(refusal.value)

    def _advance_from_memory(self, journey: Journey) -> ProgramStep | None:
        """Go as far as needs no thread: to a model that has not seen these words, or to a registered function."""
        while True:
            now_s = self._clock()
            step = journey.advance(now_s)
            if step is None or step.step.op is not Op.MODEL:
                return step
            remembered = self._recall(journey, step)
            if remembered is None:
                return step
            journey.started_s = journey.started_s or now_s
            result, row = remembered
            journey.take_result(result, row)
            pass_heads([journey], [row], result, now_s)

    def _recall(self, journey: Journey, step: ProgramStep) -> Remembered | None:
        ids, service, request = journey.token_ids(), step.service, journey.request
        if ids is None or service is None or not self._settings.memo_rows:
            return None
        remembered, reason = self._memo.recall(service.lane, ids), "same_text"
        if request.row_class is RowClass.INTERIM and request.key and service.tokenizer is not None:
            utterance = (request.owner, request.key, service.lane)
            words = service.tokenizer.without_soft_punctuation(ids)
            if remembered is None and (same := self._memo.said(utterance, words)) is not None:
                remembered, reason = self._memo.recall(service.lane, same), "same_words"
            if remembered is None:
                self._memo.say(utterance, words, ids)
        if remembered is None or remembered[0].bank is not service.wanted.bank:
            return None  # unknown, or computed before some head was asked for
        self._ledger.skipped(reason)
        return remembered

    def _on_crash(self, error: BaseException) -> None:
        """Stop taking requests, and answer those under way: a dead thread would leave them waiting for ever."""
        self._crash = error
        self._ledger.fail_all_from_thread()
