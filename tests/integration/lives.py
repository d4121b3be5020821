"""A server process that is started, killed and started again, many times over."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
from multiprocessing.process import BaseProcess

from tests.integration.fleet_process import Life, live


class Lives:
    """One life after the other over the same folder and port.

    They are forked from a process that has everything imported: they start in a moment.
    """

    def __init__(self, life: Life) -> None:
        self.life = life
        self._forked = multiprocessing.get_context("forkserver")
        self._forked.set_forkserver_preload(["tests.integration.fleet_process"])
        self.process: BaseProcess | None = None

    async def begin(self) -> asyncio.Future[str]:
        """Start one; the result is there when it takes connections, or never."""
        hear, tell = self._forked.Pipe(duplex=False)
        self.process = self._forked.Process(target=live, args=(self.life, tell))
        await asyncio.to_thread(self.process.start)
        tell.close()
        return asyncio.get_running_loop().run_in_executor(None, self._heard, hear)

    @staticmethod
    def _heard(hear) -> str:
        with contextlib.suppress(EOFError), hear:
            return hear.recv()
        return ""

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    async def end(self, *, is_killed: bool) -> None:
        assert self.process is not None
        if is_killed:
            self.process.kill()
        else:
            self.process.terminate()
        await asyncio.to_thread(self.process.join, 20)
        assert self.process.exitcode is not None
