"""What a server does between the signal and the end: drain, let nobody in, linger, cut."""

from __future__ import annotations

import asyncio
import contextlib
import signal

import pytest
import uvicorn

from server.app.listen import UvicornServer, bind


class Rig:
    """A server whose drain and lingering are the test's."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.drains, self.may_linger = asyncio.Event(), asyncio.Event()
        self.may_linger.set()
        self.lingers, self.may_end = asyncio.Event(), asyncio.Event()
        config = uvicorn.Config(self._application, interface="asgi3", loop="none", lifespan="off", log_config=None)
        self.server = UvicornServer(config, self._drain, self._linger)
        self.listener = bind("127.0.0.1", 0)
        self.port = self.listener.getsockname()[1]

    async def _application(self, scope, receive, send) -> None:
        assert self.drains.is_set(), "nobody asked before"
        await send({"type": "http.response.start", "status": 503, "headers": []})
        await send({"type": "http.response.body", "body": b"draining"})

    async def _drain(self) -> None:
        self.drains.set()
        await self.may_linger.wait()
        self.steps.append("drained")

    async def _linger(self) -> None:
        self.lingers.set()
        try:
            await self.may_end.wait()
            self.steps.append("lingered")
        except asyncio.CancelledError:
            self.steps.append("hurried")
            raise

    async def start(self) -> asyncio.Task[None]:
        started = asyncio.Event()
        self.server.on_started = started.set
        # Its signal handlers are the process's, which here is pytest's.
        self.server.capture_signals = contextlib.nullcontext
        serving = asyncio.create_task(self.server.serve(sockets=[self.listener]))
        await started.wait()
        return serving


async def test_a_probe_is_answered_while_it_drains() -> None:
    rig = Rig()
    rig.may_linger.clear()
    serving = await rig.start()
    rig.server.handle_exit(signal.SIGTERM, None)
    async with asyncio.timeout(20):
        await rig.drains.wait()
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(b"GET /readyz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        rig.may_linger.set()
        rig.may_end.set()
        await serving
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert b"draining" in answer


async def test_who_comes_while_it_lingers_is_not_let_in() -> None:
    rig = Rig()
    serving = await rig.start()
    _, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    writer.close()
    rig.server.handle_exit(signal.SIGTERM, None)
    async with asyncio.timeout(20):
        await rig.lingers.wait()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", rig.port)
        assert not serving.done()
        rig.may_end.set()
        await serving
    assert rig.steps == ["drained", "lingered"]


async def test_a_second_interrupt_ends_it_and_a_second_sigterm_does_not() -> None:
    rig = Rig()
    serving = await rig.start()
    rig.server.handle_exit(signal.SIGINT, None)
    async with asyncio.timeout(20):
        await rig.lingers.wait()
        rig.server.handle_exit(signal.SIGTERM, None)  # a supervisor tells every process of a group, and so does ours
        await asyncio.sleep(0)
        assert rig.steps == ["drained"]
        rig.server.handle_exit(signal.SIGINT, None)
        await serving
    assert rig.steps == ["drained", "hurried"]
