"""An OpenAI-compatible endpoint that says what it is told, with the faults of real ones.

POST …/chat/completions ─▶ the next `Script` ─▶ server-sent events
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Script:
    """How one request is answered.

    Attributes:
        pieces: Text in the pieces in which it comes.
        first_token_s: Time to the first piece.
        between_s: Time between pieces, on a schedule: one that is late does not delay those after it.
        status: Other than 200: an error and nothing else.
        cut_after: The connection breaks after so many pieces; None: it does not.
        garbage: Sent instead of the stream.
        usage: Counted in the last chunk.
    """

    pieces: tuple[str, ...] = ()
    first_token_s: float = 0.0
    between_s: float = 0.0
    status: int = 200
    cut_after: int | None = None
    garbage: bytes = b""
    usage: tuple[int, int] = (100, 20)


@dataclass
class ChatCompletionsSimulator:
    """A running endpoint on loopback; use as an async context manager.

    Attributes:
        scripts: For requests in turn, the last one for all that follow; or what makes one of a request's body.
        requests: Bodies that came.
        aborted: Set once a client left before the end.
    """

    scripts: Iterable[Script] | Callable[[dict[str, Any]], Script]
    requests: list[dict[str, Any]] = field(default_factory=list)
    aborted: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""

    async def __aenter__(self) -> ChatCompletionsSimulator:
        """Listen."""
        self._waiting = deque(() if callable(self.scripts) else self.scripts)
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = await asyncio.start_server(self._take, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()[:2]
        self.url = f"http://{host}:{port}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        """Cut everything."""
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            body = json.loads(await reader.readexactly(length))
            self.requests.append(body)
            script = self._script(body)
            answering = asyncio.create_task(self._answer(script, writer))
            leaving = asyncio.create_task(reader.read(1))
            try:
                await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
                if not answering.done():
                    self.aborted.set()
            finally:
                for part in (answering, leaving):
                    part.cancel()
                await asyncio.gather(answering, leaving, return_exceptions=True)
        except (asyncio.IncompleteReadError, ConnectionError, StopIteration):
            pass  # a client that left, or never spoke HTTP
        finally:
            self._tasks.discard(task)
            writer.close()

    def _script(self, body: dict[str, Any]) -> Script:
        if callable(self.scripts):
            return self.scripts(body)
        return self._waiting.popleft() if len(self._waiting) > 1 else self._waiting[0]

    async def _answer(self, script: Script, writer: asyncio.StreamWriter) -> None:
        if script.status != 200:
            body = b'{"error": {"message": "simulated"}}'
            writer.write(b"HTTP/1.1 %d Simulated\r\nContent-Length: %d\r\n" % (script.status, len(body)))
            writer.write(b"Content-Type: application/json\r\nConnection: close\r\n\r\n" + body)
            await writer.drain()
            return
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n")
        writer.write(b"Connection: close\r\n\r\n")
        if script.garbage:
            self._send(writer, script.garbage)
            writer.write(b"0\r\n\r\n")
            await writer.drain()
            return
        loop = asyncio.get_running_loop()
        first_s = loop.time() + script.first_token_s
        for number, piece in enumerate(script.pieces):
            if number == script.cut_after:
                writer.transport.abort()
                return
            await asyncio.sleep(first_s + number * script.between_s - loop.time())
            self._event(writer, {"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]})
            await writer.drain()
        self._event(writer, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        prompt_tokens, completion_tokens = script.usage
        usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
        self._event(writer, {"choices": [], "usage": usage})
        self._send(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    def _event(self, writer: asyncio.StreamWriter, event: dict[str, Any]) -> None:
        self._send(writer, b"data: " + json.dumps(event).encode() + b"\n\n")

    @staticmethod
    def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(b"%x\r\n%s\r\n" % (len(data), data))
