"""Loads versions beside those that serve: tried out, compared, prepared for. Each version at most once at a time.

folder ─describe─▶ whole? ─▶ fits the one that serves? ─trial─▶ ─load─▶ proven? affordable? ─prepare─▶ ready
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from inference.engine import Engine
from inference.errors import InferenceError, ModelError, OverloadedError
from inference.life.judge import check_description, check_timings, seems_slow
from inference.life.settings import LifeSettings
from inference.life.timing import Timing, side_by_side
from inference.life.trial import Trial
from inference.life.watch import check_sums, scan
from inference.priority import LOADING, run_giving_way
from inference.repository import ModelRepository, ModelVersion
from inference.row import Lane
from inference.service import Service

_log = logging.getLogger(__name__)


class Consumer(Protocol):
    """Somebody with things that belong to one version, such as vectors of example phrases."""

    async def prepare(self, model: str, version: int) -> None:
        """Make ready for a loaded version that may answer from now on. Raises `InferenceError` if it cannot."""

    def pins(self) -> frozenset[Lane]:
        """Versions that it pins."""


@dataclass(frozen=True, slots=True)
class Pin:
    """A consumer that needs one version for as long as the process runs.

    Attributes:
        lane: Model and version.
    """

    lane: Lane

    async def prepare(self, model: str, version: int) -> None:
        """Needs nothing of others."""

    def pins(self) -> frozenset[Lane]:
        """Its own."""
        return frozenset({self.lane})


class Loader:
    """Event-loop thread only.

    Attributes:
        consumers: Prepared before a version counts as loaded.
        loading: Versions on their way in.
        leaving: Versions on their way out.
        fingerprints: Of the files that versions were last read from, whether or not they could be loaded.
    """

    def __init__(self, engine: Engine, folder: Path, settings: LifeSettings, trial: Trial | None) -> None:
        """Start with nothing under way.

        Args:
            engine: Started before the first `load`.
            folder: The repository.
            settings: The bounds.
            trial: Tries a version before it is loaded here; None: it is loaded at once.
        """
        self.consumers: list[Consumer] = []
        self.loading: dict[Lane, asyncio.Task[Service]] = {}
        self.leaving: dict[Lane, asyncio.Task[None]] = {}
        self.fingerprints: dict[Lane, str] = {}
        self._timed: Counter[Lane] = Counter()
        self._engine = engine
        self._folder = folder
        self._settings = settings
        self._trial = trial

    @property
    def pins(self) -> frozenset[Lane]:
        """Versions that consumers pin."""
        return frozenset(lane for consumer in self.consumers for lane in consumer.pins())

    async def load(self, model: str, version: int) -> Service:
        """Return a version, loaded if it is not.

        Raises:
            ModelError: If it cannot be served; what serves is not touched.
        """
        lane = (model, version)
        while lane in self.loading or lane in self.leaving or version not in self._engine.versions(model):
            if lane not in self.loading:
                self._begin(self.loading, lane, self._load(model, version), is_waited_for=True)
            await asyncio.shield(self.loading[lane])
        # From here to the caller nothing else runs, so nobody unloads it before it is put to use.
        return self._engine.service(model, version)

    async def hold(self, model: str, version: int) -> None:
        """Have a version loaded for those that pin it. Raises as `load`."""
        await self.load(model, version)

    async def compare(self, candidate: Service, serving: Service) -> tuple[Timing, ...]:
        """Time two loaded versions against each other, giving way to live requests; neither is unloaded meanwhile."""
        lanes = (candidate.lane, serving.lane)
        self._timed.update(lanes)
        try:
            return await run_giving_way(LOADING, side_by_side, candidate, serving)
        finally:
            self._timed.subtract(lanes)

    def unload(self, lane: Lane) -> bool:
        """Begin to unload a version that nothing asks for any more: its rows are answered first.

        Returns:
            Whether it begins; not where it is on its way out, or in and not to be judged yet, or timed just now.
        """
        if lane in self.leaving or lane in self.loading or self._timed[lane]:
            return False
        self._begin(self.leaving, lane, self._engine.retire_version(*lane), is_waited_for=False)
        return True

    async def stop(self) -> None:
        """Give up what is under way."""
        tasks: list[asyncio.Task[Any]] = [*self.loading.values(), *self.leaving.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(
        self, tasks: dict[Lane, asyncio.Task[Any]], lane: Lane, work: Coroutine[Any, Any, Any], *, is_waited_for: bool
    ) -> None:
        loop = asyncio.get_running_loop()
        tasks[lane] = task = loop.create_task(work)

        def ended(_: asyncio.Task[Any]) -> None:
            tasks.pop(lane, None)
            error = None if task.cancelled() else task.exception()
            if error is not None and not is_waited_for:
                loop.call_exception_handler({"message": "a model version was not unloaded", "exception": error})

        task.add_done_callback(ended)

    async def _load(self, model: str, version: int) -> Service:
        where, settings, engine = f"{model}/{version}", self._settings, self._engine
        if (leaving := self.leaving.get((model, version))) is not None:
            await leaving  # its last rows still use its place in the queue
        described = await asyncio.to_thread(self._describe, model, version)
        check_description(described, engine.service(model).version)
        try:
            async with asyncio.timeout(settings.max_load_s):
                if self._trial is not None:
                    await self._trial(described, settings.max_load_s)
                await engine.load_version(described)
        except TimeoutError:
            raise ModelError(f"was not ready after {settings.max_load_s:g} s", path=where) from None
        service = engine.service(model, version)
        try:
            judged_by = None
            while judged_by is not (serving := engine.service(model)):  # it may change while both are timed
                judged_by = serving
                check_description(described, serving.version)
                if serving.is_proven and not service.is_proven:
                    raise ModelError("has no golden inputs, and the version that serves has", path=where)
                if seems_slow(service.cost, serving.cost, settings):
                    check_timings(described, await self.compare(service, serving), settings)
            for consumer in self.consumers:
                await self._prepare(consumer, model, version)
        except BaseException as error:
            await engine.retire_version(model, version)
            if isinstance(error, InferenceError) and not isinstance(error, ModelError):
                raise ModelError(error.message, path=where) from error
            raise
        # A thousand examples that it embedded would make a failing row of live ones look seldom.
        engine.health.forget(service.lane)
        return service

    async def _prepare(self, consumer: Consumer, model: str, version: int) -> None:
        """Have a consumer prepare, in a less busy moment where there is too much to do: no fault of the version."""
        is_told = False
        while True:
            try:
                return await consumer.prepare(model, version)
            except OverloadedError:
                if not is_told:
                    _log.warning(
                        "a model version waits until less is to do", extra={"model": model, "version": version}
                    )
                is_told = True
                await asyncio.sleep(self._settings.poll_s)

    def _describe(self, model: str, version: int) -> ModelVersion:
        """Read a version from the folder as it is now. In a thread."""
        # Before it is read, so that what changes meanwhile shows.
        self.fingerprints[model, version] = scan(self._folder).get(model, {}).get(version, "")
        found = ModelRepository.open(self._folder).model(model)
        if version in found.problems:
            raise found.problems[version]
        if version not in found.versions:
            known = ", ".join(map(str, sorted(found.versions))) or "none"
            raise ModelError(f"there is no such version, there is {known}", path=f"{model}/{version}")
        check_sums(found.versions[version].path)
        return found.versions[version]
