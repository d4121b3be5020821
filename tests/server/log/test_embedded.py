from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import settings

from server.log.embedded import EmbeddedLog, LogLimits
from tests.server.log.contract_suite import CutClients, EventLogSuite, LogHarness

SMALL = LogLimits(linger_s=0, max_tail_bytes=1500)


class EmbeddedHarness:
    """Crashes by going on with a copy of the folder, taken while the log runs."""

    def __init__(self, folder: Path, limits: LogLimits = SMALL) -> None:
        self.folder = folder
        self.limits = limits
        self.life = 0
        self.log: EmbeddedLog

    async def start(self) -> EmbeddedLog:
        self.log = EmbeddedLog(self.folder / str(self.life), limits=self.limits)
        await self.log.start()
        return self.log

    async def restart(self) -> EmbeddedLog:
        await self.log.stop()
        return await self.start()

    async def crash(self) -> EmbeddedLog:
        shutil.copytree(self.folder / str(self.life), self.folder / str(self.life + 1))
        await self.log.stop()
        self.life += 1
        return await self.start()

    async def stop(self) -> None:
        await self.log.stop()


@pytest.fixture(params=[SMALL, LogLimits()], ids=["small", "default"])
async def harness(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[LogHarness]:
    harness = EmbeddedHarness(tmp_path, request.param)
    yield harness
    await harness.stop()


class TestContract(EventLogSuite):
    pass


class EmbeddedClients(CutClients):
    def make_harness(self) -> LogHarness:
        self.folder = tempfile.TemporaryDirectory()
        return EmbeddedHarness(Path(self.folder.name))

    def teardown(self) -> None:
        super().teardown()
        self.folder.cleanup()


TestCutClients = EmbeddedClients.TestCase
TestCutClients.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
