"""Keeps the versions of all models: looks at the folder, loads, tries out, promotes, rolls back, unloads.

    scan ─settled─▶ next_version ─▶ load (trial, golden inputs, warm-up, cost) ─▶ rollout ─▶ judge ─▶ stays | goes back
    ledger ─others─▶ next_move ─▶ load ─▶ the same change here

Decisions are `record`'s and `judge`'s. Every change of who serves is one synchronous step on the event loop, so no two
changes meet; whatever waits (loading, draining, the disk) is a task of its own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from inference.engine import Engine
from inference.errors import InferenceError, ModelError
from inference.fleet import Wish, call_share
from inference.health import WINDOW_S
from inference.life import record as records
from inference.life.file import wishes
from inference.life.folder import Folder
from inference.life.follower import Follower
from inference.life.judge import check_timings, fault, has_slowed
from inference.life.ledger import Ledger
from inference.life.loader import Consumer, Loader
from inference.life.net import SafetyNet
from inference.life.observer import LifeObserver
from inference.life.record import Fate, Move, Record, SetAside, Stage
from inference.life.settings import LifeSettings
from inference.life.shadow import Comparison, Shadow, hand_on_alike
from inference.life.status import ModelStatus
from inference.life.tasks import OwnedTasks
from inference.life.trial import Trial
from inference.life.view import describe
from inference.request import Request

_log = logging.getLogger(__name__)

BY_COMMAND = "by command"


class Keeper:
    """Event-loop thread only."""

    def __init__(
        self,
        engine: Engine,
        repository: Path,
        file: Path,
        settings: LifeSettings | None = None,
        *,
        trial: Trial | None = None,
        observer: LifeObserver | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        """Read what earlier processes left.

        Args:
            engine: Not started yet; start it with `wishes`.
            repository: Folder of the models.
            file: Where records are kept; the processes of one server share it, and follow each other's decisions.
            settings: How versions live.
            trial: Tries a version before it is loaded here; None: it is loaded at once.
            observer: Hears of changes.
            clock: Monotonic seconds, the engine's.
            wall_s: Seconds since the Unix epoch, for records.

        Raises:
            ModelError: If the file is damaged.
        """
        self._engine = engine
        self._settings = settings or LifeSettings()
        self._loader = Loader(engine, repository, self._settings, trial)
        self._observer = observer
        self._clock = clock
        self._wall_s = wall_s
        self._ledger = Ledger(file)
        self._records = self._ledger.records
        self._follower = Follower(self._ledger, self._try, self._move, self._set_aside, clock)
        self._folder = Folder(repository, self._settings.settle_s, clock)
        self._probation: dict[str, float] = {}
        self._weigh_at: dict[str, float] = {}
        self._shadows: dict[str, Shadow] = {}
        self._asked: dict[str, tuple[object, ...]] = {}
        self._introductions: dict[str, asyncio.Task[None]] = {}
        self._tasks = OwnedTasks("keeping the models failed")

    # -- life --------------------------------------------------------------------------------------------------------

    @property
    def wishes(self) -> Mapping[str, Wish]:
        """For `Engine.start`."""
        return wishes(self._records)

    async def start(self) -> None:
        """Take over from the started engine, and begin to watch.

        Raises:
            ModelError: If the folder cannot be listed.
        """
        await self._folder.open()
        begun = {name: record for name, record in self._records.items() if record.candidate is not None}
        for name, record in begun.items():  # on trial when the last process ended, or in another one: begins anew here
            self._ledger.take(name, record.without_trial)
        for name in self._folder.models:
            for number in self._engine.versions(name):
                self._loader.fingerprints[name, number] = self._folder.fingerprint(name, number) or ""
            serving = self._engine.service(name).version.version
            if serving != (record := self._records.get(name, Record())).serving:
                self._keep(name, records.promoted(record, serving))
        for (name, number), problem in self._engine.problems.items():
            self._set_aside(name, number, self._mark(name, number, "refused", problem.message))
        for name in self._folder.models:
            self._resume_probation(name)
        for name, record in begun.items():
            self._tasks.run(self._follower.follow(name, self._records[name], record))
        self._tasks.run(self._watch())

    async def stop(self) -> None:
        """Stop watching; what is being loaded is given up."""
        await self._tasks.stop()
        await self._loader.stop()
        await self._ledger.close()

    # -- commands ----------------------------------------------------------------------------------------------------

    async def promote(self, model: str, version: int, *, stage: Stage = "", ratio: float = 0.0) -> None:
        """Let a version answer all calls, or put it on trial; loads it where it is not loaded.

        Args:
            model: Of the repository.
            version: In the folder; one that was refused or rolled back is tried once more.
            stage: Empty: all calls.
            ratio: Share of the rows (shadow) or calls (canary).

        Raises:
            ModelError: If it cannot be served, or another command came while it was loaded; everything stays as it was.
        """
        self._record(model)
        self._asked[model] = asked = (version, stage, ratio)
        await self._follower.catch_up(model)
        if stage and version == self._record(model).serving:
            raise ModelError("serves already", path=f"{model}/{version}")
        await self._loader.load(model, version)
        if self._asked[model] != asked:  # the last word counts, however long the one before takes to load
            raise ModelError("another command came while it was loaded", path=f"{model}/{version}")
        if stage:
            self._begin(model, version, stage, ratio)
        else:
            self._serve(model, version, is_command=True)
        await self._follower.catch_up(model)  # whoever asks another process next finds it there

    async def rollback(self, model: str) -> int:
        """Give up the candidate where there is one, else the serving version for the one before.

        Returns:
            The version that answers all calls now.

        Raises:
            ModelError: If there is nothing to go back to, or it cannot be loaded any more.
        """
        self._record(model)
        self._asked[model] = ("rollback",)
        await self._follower.catch_up(model)
        record = self._record(model)
        if record.candidate is not None:
            self._withdraw(model, record.candidate, BY_COMMAND)
        elif record.serving is None or record.previous is None:
            raise ModelError("there is no version to go back to", path=model)
        else:
            await self._loader.load(model, record.previous)
            self._withdraw(model, record.serving, BY_COMMAND)
        await self._follower.catch_up(model)
        serving = self._record(model).serving
        assert serving is not None
        return serving

    def status(self) -> list[ModelStatus]:
        """Say what every version does; reads nothing."""
        now_s = self._clock()
        pinned, loading = self._loader.pins, self._loader.loading
        return [
            describe(
                name,
                record,
                self._engine,
                self._settings,
                seen=self._folder.seen.get(name, {}),
                loaded={number: known for (model, number), known in self._loader.fingerprints.items() if model == name},
                settled=self._folder.settled.get(name, {}),
                loading={number for model, number in loading if model == name},
                pinned={number for model, number in pinned if model == name},
                shadow=self._shadows.get(name),
                probation_s=max(self._probation.get(name, now_s) - now_s, 0.0),
                now_s=now_s,
            )
            for name, record in sorted(self._records.items())
        ]

    def add_consumer(self, consumer: Consumer) -> None:
        """Ask somebody before a version gets traffic, and before one is unloaded."""
        self._loader.consumers.append(consumer)

    async def hold(self, model: str, version: int) -> None:
        """Have a version loaded for those that pin it; a consumer's `pins` keeps it so.

        Raises:
            ModelError: If it cannot be loaded.
        """
        self._record(model)
        await self._loader.load(model, version)

    # -- watching ----------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._settings.poll_s)
            try:
                await self._look()
            except (OSError, InferenceError) as error:
                _log.error("the model folder cannot be read; what serves stays", extra={"reason": str(error)})
            except Exception:  # not foreseen: told whole, and no reason to judge nobody from now on
                _log.exception("the model folder cannot be read; what serves stays")
            for model in list(self._records):
                self._judge(model)
                self._tidy(model)

    async def _look(self) -> None:
        """See what others decided and what is new in the folder, and begin to take it in."""
        for name, theirs in (await self._ledger.others()).items():
            self._tasks.run(self._follower.follow(name, self._records[name], theirs))
        await self._folder.look()
        for name, record in list(self._records.items()):
            seen = self._folder.settled.get(name, {})
            model = self._folder.models.get(name)
            if model is None:
                continue  # its config is broken or gone; what serves is in memory
            number = records.next_version(record, model.config.versions, seen)
            introduction = self._introductions.get(name)
            is_busy = introduction is not None and not introduction.done()
            if number is not None and not is_busy and not any(lane[0] == name for lane in self._loader.loading):
                self._introductions[name] = self._tasks.run(self._introduce(name, number))

    async def _introduce(self, model: str, version: int) -> None:
        """Take in a version that the version policy wants served."""
        settings = self._settings
        if (refusal := await self._try(model, version)) is not None:
            self._set_aside(model, version, refusal)
            return
        self._tell(model, version, "loaded")
        await self._follower.catch_up(model)
        if version not in self._engine.versions(model) or (model, version) in self._loader.leaving:
            return
        described = self._folder.models.get(model)
        seen = self._folder.settled.get(model, {})
        if described is None or records.next_version(self._record(model), described.config.versions, seen) != version:
            return  # somebody decided otherwise meanwhile
        if settings.rollout == "direct":
            self._serve(model, version)
        else:
            ratio = settings.shadow_ratio if settings.rollout == "shadow" else settings.canary_ratio
            self._begin(model, version, settings.rollout, ratio)

    async def _try(self, model: str, version: int) -> SetAside | None:
        """Load a version, or say why it cannot be."""
        try:
            await self._loader.load(model, version)
        except ModelError as error:
            reason = error.message
        except Exception as error:
            # Not foreseen, and would come again at every look: told whole in the log, and kept out.
            _log.exception("a model version could not be loaded", extra={"model": model, "version": version})
            reason = f"cannot be loaded ({type(error).__name__})"
        else:
            return None
        return SetAside("refused", reason, self._loader.fingerprints.get((model, version), ""), self._wall_s())

    # -- changes of who serves: synchronous, one after another ---------------------------------------------------------

    def _serve(self, model: str, version: int, *, is_command: bool = False) -> None:
        """Let a loaded version answer all calls from the next request on."""
        record = self._record(model)
        self._end_trial(model)
        self._engine.serve_version(model, version)
        until_s = record.probation_until_s
        if record.serving != version:
            self._probation[model] = self._clock() + self._settings.probation_s
            until_s = self._wall_s() + self._settings.probation_s
        record = records.promoted(record, version, until_s)
        described = self._folder.models.get(model)
        while is_command and described is not None:
            # What the version policy would serve instead is left alone until its files change.
            over = records.next_version(record, described.config.versions, self._folder.seen.get(model, {}))
            if over is None:
                break
            aside = self._mark(model, over, "passed_over", f"version {version} was promoted by command")
            record = records.passed_over(record, over, aside)
        self._keep(model, record)
        if model in self._probation:
            self._lay_net(model, version, 1.0)
        self._tell(model, version, "promoted")

    def _begin(self, model: str, version: int, stage: Stage, ratio: float) -> None:
        """Put a loaded version on trial."""
        record = self._record(model)
        if version == record.serving:
            return
        self._end_trial(model)
        self._probation.pop(model, None)
        if stage == "shadow":
            self._shadows[model] = shadow = Shadow(
                model,
                version,
                ratio,
                self._engine.submit,
                clock=self._clock,
                reads_carry=hand_on_alike(*(self._engine.service(model, v).version for v in (None, version))),
                on_compared=lambda output, result: self._compared(model, version, output, result),
            )
            self._engine.followers[model] = shadow
        else:
            self._engine.split_calls(model, version, ratio)
            self._lay_net(model, version, ratio)
        if record.candidate not in (None, version):
            aside = self._mark(model, record.candidate, "passed_over", f"version {version} came after it")
            record = records.withdrawn(record, record.candidate, aside)
        self._keep(model, records.introduced(record, version, stage, ratio))
        self._tell(model, version, "shadowed" if stage == "shadow" else "canaried")

    def _end_trial(self, model: str) -> None:
        record = self._record(model)
        self._engine.followers.pop(model, None)
        self._shadows.pop(model, None)
        if record.stage == "canary" and record.candidate is not None:
            self._engine.split_calls(model, record.candidate, 0.0)

    def _lay_net(self, model: str, version: int, ratio: float) -> None:
        """Have another version answer what the one on trial fails on."""

        def fallback() -> int | None:
            record = self._record(model)
            return record.previous if version == record.serving else record.serving

        def is_on_trial(request: Request) -> bool:
            return ratio >= 1.0 or (bool(request.owner) and call_share(model, version, request.owner) < ratio)

        self._engine.followers[model] = SafetyNet(
            model,
            fallback,
            self._engine.submit,
            is_on_trial=is_on_trial,
            on_blamed=lambda: self._blame(model, version),
        )

    def _resume_probation(self, model: str) -> None:
        """Go on judging a version that took all calls shortly before the last process ended."""
        record = self._record(model)
        left_s = min(record.probation_until_s - self._wall_s(), self._settings.probation_s)  # the wall clock may jump
        if record.serving is None or record.previous is None or left_s <= 0.0:
            return
        self._probation[model] = self._clock() + left_s
        self._lay_net(model, record.serving, 1.0)
        self._tasks.run(self._bring_back(model, record.previous))

    async def _bring_back(self, model: str, version: int) -> None:
        """Load the version that answers where the one on probation fails; until then, failures stand."""
        refusal = await self._try(model, version)
        if refusal is None:
            self._tell(model, version, "loaded")
        else:
            extra = {"model": model, "version": version, "reason": refusal.reason}
            _log.warning("the version before cannot be loaded; nothing is returned to", extra=extra)

    def _withdraw(self, model: str, version: int, reason: str) -> None:
        """Take a version out of traffic, now; where it served, the loaded previous one takes over."""
        record = self._record(model)
        self._end_trial(model)
        if version == record.serving:
            assert record.previous is not None
            self._engine.serve_version(model, record.previous)
        self._probation.pop(model, None)
        self._keep(model, records.withdrawn(record, version, self._mark(model, version, "rolled_back", reason)))
        self._tell(model, version, "rolled_back", reason)
        self._tidy(model)

    def _move(self, model: str, move: Move, theirs: Record) -> None:
        """Do as another process did; what serves or is on trial then is loaded."""
        record = self._record(model)
        if move.kind == "serve":
            self._serve(model, move.version)
        elif move.kind == "begin":
            self._begin(model, move.version, theirs.stage, theirs.ratio)
        else:
            given_up = record.candidate if move.kind == "give_up" else record.serving
            assert given_up is not None
            self._withdraw(model, given_up, move.reason)

    def _set_aside(self, model: str, version: int, refusal: SetAside) -> None:
        """Refuse a version until its files are others than those that were tried."""
        self._keep(model, records.withdrawn(self._record(model), version, refusal))
        self._tell(model, version, "refused", refusal.reason)

    def _mark(self, model: str, version: int, fate: Fate, reason: str) -> SetAside:
        seen = self._folder.fingerprint(model, version)
        if seen is None:  # loaded before the first look at it
            seen = self._loader.fingerprints.get((model, version), "")
        return SetAside(fate, reason, seen, self._wall_s())

    # -- judging -----------------------------------------------------------------------------------------------------

    def _blame(self, model: str, version: int) -> None:
        self._engine.health.failed((model, version), self._clock())
        self._judge(model)

    def _compared(self, model: str, version: int, output: str, result: Comparison) -> None:
        if self._observer is not None:
            self._observer.compared(model, output, result)
        if result == "failed":
            self._blame(model, version)

    def _judge(self, model: str) -> None:
        """Give up the version on trial if it does badly; end a probation that is over, unless rows fail still."""
        record = self._record(model)
        now_s = self._clock()
        suspect, other = record.candidate, record.serving
        if suspect is None:
            if model not in self._probation:
                return
            suspect, other = record.serving, record.previous
        assert suspect is not None
        view = self._engine.health.view((model, suspect), now_s)
        if record.candidate is None and now_s >= self._probation[model]:
            if not view.failed:
                del self._probation[model]
                self._engine.followers.pop(model, None)
                return
            self._probation[model] = now_s + WINDOW_S  # who answers instead of it is still needed
        if other is None or other not in self._engine.versions(model):
            return
        if reason := fault(view, self._settings):
            self._withdraw(model, suspect, reason)
        elif now_s >= self._weigh_at.get(model, 0.0) and has_slowed(
            view, self._engine.service(model, other).cost, self._settings
        ):
            self._weigh_at[model] = now_s + WINDOW_S  # by then what was weighed has left the view
            self._tasks.run(self._weigh(model, suspect, other))

    async def _weigh(self, model: str, suspect: int, other: int) -> None:
        """Give up a version that is slow beside the other one, too."""
        services = [self._engine.service(model, version) for version in (suspect, other)]
        timings = await self._loader.compare(*services)
        record = self._record(model)
        is_on_trial = suspect in (record.candidate, record.serving) and other in (record.serving, record.previous)
        if not is_on_trial or other not in self._engine.versions(model):
            return  # somebody decided otherwise meanwhile
        try:
            check_timings(services[0].version, timings, self._settings)
        except ModelError as error:
            self._withdraw(model, suspect, error.problem)
        else:
            _log.info("a version is as fast as before, the machine is slow", extra={"model": model, "version": suspect})

    # -- unloading ---------------------------------------------------------------------------------------------------

    def _tidy(self, model: str) -> None:
        """Unload what nothing asks for any more, once its rows are answered."""
        record = self._record(model)
        described = self._folder.models.get(model)
        if described is None:
            return
        loaded = self._engine.versions(model)
        pins = frozenset(number for name, number in self._loader.pins if name == model)
        keep = records.needed(record, described.config.versions, loaded, pins, is_on_probation=model in self._probation)
        for number in loaded:
            if number not in keep and self._loader.unload((model, number)):
                self._tell(model, number, "unloaded")

    # -- small things ------------------------------------------------------------------------------------------------

    def _record(self, model: str) -> Record:
        if model not in self._records:
            known = ", ".join(sorted(self._records)) or "none"
            raise ModelError(f"no such model, there is {known}", path=model)
        return self._records[model]

    def _keep(self, model: str, record: Record) -> None:
        self._ledger.keep(model, record)
        self._ledger.flush()

    def _tell(self, model: str, version: int, change: str, reason: str = "") -> None:
        level = logging.WARNING if change in ("refused", "rolled_back") else logging.INFO
        extra = {"model": model, "version": version, "change": change} | ({"reason": reason} if reason else {})
        _log.log(level, "a model version changed", extra=extra)
        if self._observer is not None:
            self._observer.changed(model, change)
