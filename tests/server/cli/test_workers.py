"""Workers of one machine, with small programs in place of servers."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from server.cli.serve import serve
from server.cli.workers import READY_FD, Workers, shares
from server.wire.errors import ConfigError

WORKER = f"""
import os, pathlib, signal, sys
folder = pathlib.Path(sys.argv[1])
(folder / f"{{os.environ['CUELINE_FLEET__WORKER']}}.{{os.getpid()}}").touch()
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
fd = int(os.environ[{READY_FD!r}])
os.write(fd, b"1")
os.close(fd)
while True:
    signal.pause()
"""


class Said:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self._more = asyncio.Event()

    def __call__(self, line: str) -> None:
        self.lines.append(line)
        self._more.set()

    async def until(self, words: str) -> None:
        async with asyncio.timeout(20):
            while not any(words in line for line in self.lines):
                self._more.clear()
                await self._more.wait()


def started(folder: Path) -> list[tuple[str, int]]:
    """Worker number and process id of every life so far."""
    return sorted((path.name.split(".")[0], int(path.name.split(".")[1])) for path in folder.iterdir())


async def test_workers_are_restarted_one_after_the_other_and_stopped(tmp_path: Path) -> None:
    said = Said()
    workers = Workers([sys.executable, "-c", WORKER, str(tmp_path)], 2, dict(os.environ), said)
    running = asyncio.create_task(workers.run())
    await said.until("2 workers are ready")
    first = started(tmp_path)
    assert [number for number, _ in first] == ["1", "2"]
    os.kill(os.getpid(), signal.SIGHUP)
    await said.until("all workers were restarted")
    assert [number for number, _ in started(tmp_path)] == ["1", "1", "2", "2"]
    os.kill(os.getpid(), signal.SIGTERM)
    await running
    for _, pid in started(tmp_path):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_a_worker_that_does_not_start_ends_the_server() -> None:
    with pytest.raises(ConfigError) as refused:
        await Workers([sys.executable, "-c", "import sys; sys.exit(2)"], 2, dict(os.environ), Said()).run()
    assert refused.value.field == "workers"


def test_workers_share_the_cores_unless_told_otherwise() -> None:
    share = str(max(1, (os.cpu_count() or 1) // 3))
    assert shares({}, 3) == {"CUELINE_ENGINE__WORKERS": share, "CUELINE_SPEECH__WORKERS": share}
    assert shares({"CUELINE_ENGINE__WORKERS": "7"}, 3)["CUELINE_ENGINE__WORKERS"] == "7"


def test_several_processes_need_a_log_they_share() -> None:
    result = CliRunner().invoke(serve, ["--workers", "2"])
    assert isinstance(result.exception, ConfigError)
    assert result.exception.field == "workers"
    assert "embedded" in str(result.exception)
