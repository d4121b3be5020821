"""The model versions in service, and plans bound to them.

repository ──load──▶ Service a version ──serve──▶ which version answers unpinned requests
Plan + pins ──program──▶ Program, bound once
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from inference.backends.contract import Backend
from inference.batching import BatchingSettings, Lane
from inference.errors import InferenceError, ModelError
from inference.plan import Plan
from inference.program import Program
from inference.repository import ModelRepository, ModelVersion
from inference.request import Retrieve
from inference.service import Service

_log = logging.getLogger(__name__)

_MAX_PROGRAMS = 1024
"""Bound plans; far more than policies and pinned versions make."""

NO_PINS: Mapping[str, int] = {}

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
    ) -> None:
        """Start empty.

        Args:
            backends: By name, as in `config.pbtxt`; a model that names none of them runs on the first.
            batching: Which buckets can occur.
            operators: Registered functions.
            precision: Weights file to use instead of the repository's choice; empty: that choice.
        """
        self.services: dict[Lane, Service] = {}
        self._serving: dict[str, Service] = {}
        self._programs: dict[tuple[str, tuple[tuple[str, int], ...]], Program] = {}
        self._backends = backends
        self._batching = batching
        self._operators = operators
        self._precision = precision

    async def load_all(self, repository: ModelRepository, progress: Progress | None) -> None:
        """Load and warm every version that the repository serves; the newest of each model answers.

        Raises:
            ModelError: If a model has no version that can be served, or one cannot be loaded.
        """
        for broken in repository.broken.values():
            raise broken
        for name, model in repository.models.items():
            newest, *older = model.served or (model.latest,)
            for version in (newest, *older):
                await self.load(version, progress)
            self.serve(name, newest.version)
            for problem in model.problems.values():
                _log.warning("a model version is refused; another one serves", extra={"problem": problem.message})

    async def load(self, version: ModelVersion, progress: Progress | None = None) -> Service:
        """Load, check and warm one version beside those that serve. It answers calls that pin it.

        Raises:
            ModelError: If it cannot be loaded, or is loaded already.
        """
        lane = (version.name, version.version)
        if lane in self.services:
            raise ModelError("is loaded already", path=f"{version.name}/{version.version}")
        if self._precision and self._precision != version.precision:
            weights = version.path / f"model.{self._precision}.onnx"
            version = replace(version, precision=self._precision, weights=weights)
        backend = self._backends.get(version.config.backend) or next(iter(self._backends.values()))
        report = _reporter(asyncio.get_running_loop(), progress, version.name)
        service = await asyncio.to_thread(Service.load, version, backend, self._batching, report)
        self.services[lane] = service
        return service

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

    def program(self, plan: Plan, pins: Mapping[str, int] = NO_PINS) -> Program:
        """Return a plan bound to the versions that serve it.

        Raises:
            InferenceError: If it pins a version that is not loaded, or needs a function that is not registered.
        """
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
