"""The model versions in service, and plans bound to them.

repository ──load──▶ Service a version ──serve──▶ which version answers unpinned requests
Plan + pins ──program──▶ Program, bound once
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from inference.backends.contract import Backend
from inference.batching import BatchingSettings
from inference.errors import InferenceError, ModelError
from inference.model_config import VersionPolicy
from inference.plan import Plan
from inference.priority import LOADING, run_giving_way
from inference.program import Program
from inference.repository import Model, ModelRepository, ModelVersion
from inference.request import Retrieve
from inference.row import Lane
from inference.service import Service

_log = logging.getLogger(__name__)

_MAX_PROGRAMS = 1024
"""Bound plans; far more than policies and pinned versions make."""

FP16_FILE = "model.fp16.onnx"

NO_PINS: Mapping[str, int] = {}


@dataclass(frozen=True, slots=True)
class Wish:
    """What the start should do about the versions of a model.

    Attributes:
        serving: Version that should answer; None: as the version policy says.
        avoid: Versions that should not be loaded.
    """

    serving: int | None = None
    avoid: frozenset[int] = frozenset()


def with_precision(version: ModelVersion, precision: str, *, prefers_half: bool = False) -> ModelVersion:
    """Return a version with the weights file of another precision.

    Args:
        version: From the repository.
        precision: As configured; empty: the repository's choice.
        prefers_half: Without a configured one, half precision where it is built: static int8 is made of operators that
            only the CPU has, and half of it would run there.
    """
    if not precision and prefers_half and (version.path / FP16_FILE).is_file():
        precision = "fp16"
    if not precision or precision == version.precision:
        return version
    return replace(version, precision=precision, weights=version.path / f"model.{precision}.onnx")


def call_share(model: str, version: int, owner: str) -> float:
    """Return a call's place between 0 and 1: always the same for one version, another for the next one."""
    return zlib.crc32(f"{model}/{version}/{owner}".encode()) / 2**32


Progress = Callable[[str, float], None]
"""Called with a model's name and the share of its loading that is done."""


class Fleet:
    """Event-loop thread only, but for what `services` hands to workers."""

    def __init__(
        self,
        backends: Mapping[str, Backend],
        batching: BatchingSettings,
        operators: Mapping[str, Retrieve],
        precision: str,
        *,
        prefers_half: bool = False,
    ) -> None:
        """Start empty.

        Args:
            backends: By name, as in `config.pbtxt`; a model that names none of them runs on the first.
            batching: Which buckets can occur.
            operators: Registered functions.
            precision: Weights file to use instead of the repository's choice; empty: that choice.
            prefers_half: See `with_precision`.
        """
        self.services: dict[Lane, Service] = {}
        self.problems: dict[Lane, ModelError] = {}
        self._splits: dict[str, tuple[int, float]] = {}
        self._serving: dict[str, Service] = {}
        self._programs: dict[tuple[str, tuple[tuple[str, int], ...]], Program] = {}
        self._backends = backends
        self._batching = batching
        self._operators = operators
        self._precision = precision
        self._prefers_half = prefers_half

    async def load_all(
        self, repository: ModelRepository, progress: Progress | None, wishes: Mapping[str, Wish]
    ) -> None:
        """Load and warm every version that the repository serves; of each model one answers.

        That is the one wished for, else the newest of the version policy; where it cannot be loaded, the next.

        Raises:
            ModelError: If a model has no version that can be loaded.
        """
        for broken in repository.broken.values():
            raise broken
        for model in repository.models.values():
            await self._load_model(model, progress, wishes.get(model.name, Wish()))
        for lane, problem in self.problems.items():
            extra = {"model": lane[0], "version": lane[1], "problem": problem.message}
            _log.warning("a model version is refused; another one serves", extra=extra)

    async def _load_model(self, model: Model, progress: Progress | None, wish: Wish) -> None:
        problems = dict(model.problems)
        able = {number: version for number, version in model.versions.items() if number not in wish.avoid}
        serving = None
        while serving is None:
            chosen = (wish.serving,) if wish.serving in able else model.config.versions.choose(able)
            if not chosen or chosen[0] is None:
                if not problems and wish.avoid:
                    raise ModelError("every version was set aside; promote one", path=model.where)
                raise problems[max(problems)] if problems else ModelError("has no version to serve", path=model.where)
            try:
                await self.load(able[chosen[0]], progress)
                serving = chosen[0]
            except ModelError as error:
                problems[chosen[0]] = error
                del able[chosen[0]]
        self.serve(model.name, serving)
        for number in model.config.versions.choose(able):
            if number < serving:  # a newer one has to go the way of a new version
                try:
                    await self.load(able[number], progress)
                except ModelError as error:
                    problems[number] = error
        self.problems.update({(model.name, number): error for number, error in problems.items()})

    def as_served(self, repository: ModelRepository) -> ModelRepository:
        """Return the repository as if it held nothing but what answers: graphs are compiled against that."""
        models = {}
        for name, model in repository.models.items():
            version = self._serving[name].version
            config = replace(version.config, versions=VersionPolicy())
            models[name] = replace(model, config=config, versions={version.version: version}, problems={})
        return replace(repository, models=models)

    def split(self, name: str, version: int, ratio: float) -> None:
        """Send a share of the calls to a version; 0 ends it.

        Raises:
            InferenceError: If it is not loaded.
        """
        self.service(name, version)
        if ratio > 0.0:
            self._splits[name] = (version, ratio)
        else:
            self._splits.pop(name, None)

    async def load(self, version: ModelVersion, progress: Progress | None = None) -> Service:
        """Load, check and warm one version beside those that serve. It answers calls that pin it.

        Raises:
            ModelError: If it cannot be loaded, or is loaded already.
        """
        lane = (version.name, version.version)
        if lane in self.services:
            raise ModelError("is loaded already", path=f"{version.name}/{version.version}")
        version = with_precision(version, self._precision, prefers_half=self._prefers_half)
        backend = self._backends.get(version.config.backend) or next(iter(self._backends.values()))
        report = _reporter(asyncio.get_running_loop(), progress, version.name)
        service = await self._in_thread(Service.load, version, backend, self._batching, report)
        self.services[lane] = service
        return service

    async def _in_thread(self, load: Callable[..., Service], *arguments: object) -> Service:
        """Load in a thread; one that gives way to all others while some version serves."""
        if not self._serving:
            return await asyncio.to_thread(load, *arguments)
        return await run_giving_way(LOADING, load, *arguments)

    def serve(self, name: str, version: int) -> None:
        """Let a loaded version answer unpinned requests from now on; those under way stay where they are.

        Raises:
            InferenceError: If it is not loaded.
        """
        self._serving[name] = self.service(name, version)
        self._programs.clear()

    def withdraw(self, name: str, version: int) -> Service:
        """Let no new request reach a version. The caller unloads it once those under way have ended.

        Raises:
            InferenceError: If it is not loaded, or answers unpinned requests.
        """
        service = self.service(name, version)
        if self._serving.get(name) is service:
            raise InferenceError(f"model {name} version {version} answers requests; let another one serve first")
        if self._splits.get(name, (0, 0.0))[0] == version:
            del self._splits[name]
        del self.services[service.lane]
        self._programs.clear()
        return service

    def service(self, name: str, version: int | None) -> Service:
        """Return a loaded version, or the one that answers where none is named.

        Raises:
            InferenceError: If there is none.
        """
        service = self._serving.get(name) if version is None else self.services.get((name, version))
        if service is None:
            raise InferenceError(f"model {name} has no version {version} loaded" if version else f"no model {name}")
        return service

    def program(self, plan: Plan, pins: Mapping[str, int] = NO_PINS, owner: str = "") -> Program:
        """Return a plan bound to the versions that serve it.

        Args:
            plan: As compiled.
            pins: Model name to version.
            owner: Call that asks; decides where calls are split between versions.

        Raises:
            InferenceError: If it pins a version that is not loaded, or needs a function that is not registered.
        """
        if self._splits and owner:
            picked = {m: v for m, (v, ratio) in self._splits.items() if call_share(m, v, owner) < ratio}
            pins = {**picked, **pins} if picked else pins
        key = (plan.structure, tuple(sorted(pins.items())) if pins else ())
        program = self._programs.get(key)
        if program is None:
            models = {step.model for step in plan.steps if step.model}
            services = {name: self.service(name, pins.get(name)) for name in models}
            program = Program(plan, services, self._operators)
            if len(self._programs) >= _MAX_PROGRAMS:
                self._programs.clear()
            self._programs[key] = program
        return program

    def unload_all(self) -> None:
        """Free everything; nothing is under way."""
        for service in self.services.values():
            service.model.unload()
        self.services.clear()
        self._serving.clear()
        self._programs.clear()


def _reporter(loop: asyncio.AbstractEventLoop, progress: Progress | None, name: str) -> Callable[[float], None]:
    def report(share: float) -> None:
        if progress is not None:
            loop.call_soon_threadsafe(progress, name, share)

    return report
