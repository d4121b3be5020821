"""`cueline serve --workers N`: N server processes on one port, and who looks after them.

    start      one after the other, so that migrations and keys are made once; the first that cannot start ends all
    SIGTERM    all drain at once; SIGHUP: one after the other is drained and started anew, a rolling restart
    death      a worker that dies is started again, with a growing pause; the others adopt its calls meanwhile

The kernel deals connections out among the workers (SO_REUSEPORT).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence

from server.wire.errors import ConfigError

READY_FD = "SERVE_READY_FD"
"""Variable that names the pipe on which a worker says that it takes connections."""
START_TIMEOUT_S = 180.0
LIVED_S = 5.0
"""A worker that lived shorter did not start; three such lives in a row end the server."""
MAX_SHORT_LIVES = 3


def free_port(host: str) -> int:
    """A port that all workers can share."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def say_ready() -> None:
    """Tell who started this process that it takes connections; nobody may be listening."""
    if (name := os.environ.pop(READY_FD, None)) is not None:
        with contextlib.suppress(OSError):
            os.write(int(name), b"1")
            os.close(int(name))


class Workers:
    """Starts, watches, restarts and stops the workers.

    Args:
        command: What a worker runs.
        num: How many.
        environment: Of all workers; each gets its number besides.
        say: Tells the operator.
    """

    def __init__(
        self, command: Sequence[str], num: int, environment: dict[str, str], say: Callable[[str], None]
    ) -> None:
        self._command = command
        self._num = num
        self._environment = environment
        self._say = say
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._restarting: set[int] = set()
        self._stop = asyncio.Event()
        self._rolling: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Run until a signal stops it.

        Raises:
            ConfigError: A worker does not start, or does not stay.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        watchers: list[asyncio.Task[None]] = []
        try:
            for worker in range(1, self._num + 1):
                await self._start(worker)
                watchers.append(asyncio.create_task(self._watch(worker), name=f"worker-{worker}"))
                if self._stop.is_set():
                    return
            self._say(f"  {self._num} workers are ready; SIGHUP restarts them one after the other")
            stopped = asyncio.create_task(self._stop.wait(), name="stop")
            await asyncio.wait((stopped, *watchers), return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            for watcher in watchers:
                if watcher.done():
                    watcher.result()
        finally:
            self._stop.set()
            if self._rolling is not None:
                self._rolling.cancel()
            for process in self._processes.values():
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
            await asyncio.gather(*(process.wait() for process in self._processes.values()))
            for watcher in watchers:
                watcher.cancel()
            await asyncio.gather(*watchers, return_exceptions=True)

    async def _start(self, worker: int) -> None:
        """Start one and wait until it takes connections."""
        reading, writing = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                env={**self._environment, "CUELINE_FLEET__WORKER": str(worker), READY_FD: str(writing)},
                pass_fds=(writing,),
                stdin=asyncio.subprocess.DEVNULL,
            )
        finally:
            os.close(writing)
        self._processes[worker] = process
        with open(reading, "rb", buffering=0) as pipe:  # noqa: ASYNC230 - an open descriptor, nothing is waited for
            reader = asyncio.StreamReader()
            transport, _ = await asyncio.get_running_loop().connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(reader), pipe
            )
            try:
                async with asyncio.timeout(START_TIMEOUT_S):
                    is_ready = await reader.read(1) == b"1"
            except TimeoutError:
                is_ready = False
            finally:
                transport.close()
        if not is_ready and not self._stop.is_set():
            raise ConfigError(f"worker {worker} did not start; it says why above", field="workers")

    async def _watch(self, worker: int) -> None:
        short_lives = 0
        while not self._stop.is_set():
            began_s = time.monotonic()
            code = await self._processes[worker].wait()
            if self._stop.is_set():
                return
            if worker not in self._restarting:
                short_lives = short_lives + 1 if time.monotonic() - began_s < LIVED_S else 0
                if short_lives >= MAX_SHORT_LIVES:
                    raise ConfigError(f"worker {worker} does not stay up", field="workers")
                self._say(f"  worker {worker} ended with {code}; starting it again")
                await asyncio.sleep(2.0**short_lives - 1)
            await self._start(worker)
            self._restarting.discard(worker)

    def _on_stop(self) -> None:
        self._stop.set()

    def _on_hangup(self) -> None:
        if self._rolling is None or self._rolling.done():
            self._rolling = asyncio.create_task(self._restart_all(), name="rolling-restart")

    async def _restart_all(self) -> None:
        """One after the other: the next one goes when the last one is back."""
        for worker in range(1, self._num + 1):
            self._say(f"  restarting worker {worker}")
            self._restarting.add(worker)
            old = self._processes[worker]
            old.terminate()
            while worker in self._restarting and not self._stop.is_set():  # noqa: ASYNC110 - seconds, once in a while
                await asyncio.sleep(0.05)
        self._say("  all workers were restarted")


def shares(environment: dict[str, str], num: int) -> dict[str, str]:
    """What each worker may use of the machine's cores, where the operator said nothing."""
    share = str(max(1, (os.cpu_count() or 1) // num))
    names = ("CUELINE_ENGINE__WORKERS", "CUELINE_SPEECH__WORKERS")
    return {**dict.fromkeys(names, share), **environment}


def worker_command(arguments: Sequence[str]) -> list[str]:
    """How a worker is started: this program again."""
    return [sys.executable, "-c", "from server.cli import main; main()", "serve", *arguments]
