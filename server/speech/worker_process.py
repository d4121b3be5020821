"""The server's end of one recogniser process: start it, speak to it, notice its death.

write(command) ─▶ stdin of the worker;  stdout ─▶ frames ─▶ on_reply;  its end ─▶ on_exit
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Callable

import msgspec

from server.speech.frames import Command, Configure, FrameReader, Ready, Reply, encode
from server.wire.errors import Unavailable

logger = logging.getLogger(__name__)

_READ_BYTES = 65_536
_EXIT_TIMEOUT_S = 3.0


class WorkerProcess:
    """One running worker. Used from the event loop. Made by `start`.

    Args:
        process: The subprocess, with pipes.
        on_reply: Called with each reply after `Ready`, in order.
        on_exit: Called once when the process ends without `stop`, with its exit status.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        on_reply: Callable[[Reply], None],
        on_exit: Callable[[int], None],
    ) -> None:
        if process.stdin is None or process.stdout is None:
            raise ValueError("the worker's input and output must be pipes")
        self._process = process
        self._stdin, self._stdout = process.stdin, process.stdout
        self._on_reply = on_reply
        self._on_exit = on_exit
        self._ready: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        self._is_stopping = False
        self._reader = asyncio.create_task(self._read(), name=f"speech-worker-{process.pid}")

    @classmethod
    async def start(
        cls,
        configure: Configure,
        on_reply: Callable[[Reply], None],
        on_exit: Callable[[int], None],
        ready_timeout_s: float,
    ) -> WorkerProcess:
        """Start a worker and wait until it is warm.

        Raises:
            Unavailable: It ended, or was not ready in time.
        """
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "server.speech.worker",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        worker = cls(process, on_reply, on_exit)
        try:
            worker._stdin.write(encode(configure))
            async with asyncio.timeout(ready_timeout_s):
                ready = await worker._ready
        except BaseException as error:
            await worker.stop()
            if isinstance(error, TimeoutError):
                raise Unavailable(f"speech worker was not ready within {ready_timeout_s:g} s") from error
            raise
        logger.info("speech worker ready", extra={"pid": process.pid, "load_s": round(ready.load_s, 2)})
        return worker

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def write(self, command: Command) -> None:
        """Send a command. The caller bounds what is under way; a dead worker ignores it."""
        if not self._stdin.is_closing():
            self._stdin.write(encode(command))

    async def stop(self) -> None:
        """End the worker: close its input, and kill it if that is not enough. Idempotent."""
        self._is_stopping = True
        self._stdin.close()
        try:
            async with asyncio.timeout(_EXIT_TIMEOUT_S):
                await self._process.wait()
        except TimeoutError:
            logger.warning("speech worker did not end by itself", extra={"pid": self.pid})
            self._process.kill()
            await self._process.wait()
        await self._reader

    async def _read(self) -> None:
        frames = FrameReader()
        decoder = msgspec.msgpack.Decoder(Reply)
        try:
            while data := await self._stdout.read(_READ_BYTES):
                for body in frames.feed(data):
                    self._take(decoder.decode(body))
        except Exception:
            # Whatever it was, nobody would hear this worker any more: it ends, loudly, and its streams with it.
            logger.exception("speech worker sent what is no reply", extra={"pid": self.pid})
            self._process.kill()
        status = await self._process.wait()
        if not self._ready.done():
            self._ready.set_exception(Unavailable(f"speech worker ended with status {status} before it was ready"))
            # Whoever waits has it; if nobody does any more, it must not be reported as lost.
            self._ready.exception()
        elif not self._is_stopping:
            logger.error("speech worker died", extra={"pid": self.pid, "status": status})
            self._on_exit(status)

    def _take(self, reply: Reply) -> None:
        if isinstance(reply, Ready):
            if not self._ready.done():
                self._ready.set_result(reply)
        else:
            self._on_reply(reply)
