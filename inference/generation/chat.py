"""The streaming client: one request, one hedge, a breaker, deadlines.

    breaker admits ─▶ request ──silent for hedge_after_s, or failed──▶ second request
                         └────────── whichever gives a token first ──────────┴─▶ its pieces; the other is closed

Source: the OpenAI chat completions stream (server-sent events, `data: {json}` lines, `data: [DONE]` last).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import asdict
from typing import Any, cast

import httpx
import msgspec

from inference.backends.breaker import Breaker, BreakerSettings, Verdict
from inference.generation.contract import (
    Ask,
    BadAnswer,
    EndpointBusy,
    EndpointGone,
    GenerationError,
    NoTokenInTime,
    Observer,
    StreamCut,
    Usage,
)
from inference.generation.settings import ChatSettings

BREAKER = BreakerSettings(min_calls=20, max_failed_ratio=0.15, open_s=10.0, max_open_s=120.0)
"""Source: OPERATIONS d4, row LLM."""
MAX_LINE_BYTES = 64 * 1024


class _Delta(msgspec.Struct, frozen=True):
    content: str | None = None


class _Choice(msgspec.Struct, frozen=True):
    delta: _Delta = _Delta()
    finish_reason: str | None = None


class _Details(msgspec.Struct, frozen=True):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None


class _Chunk(msgspec.Struct, frozen=True):
    choices: list[_Choice] = []
    usage: _Usage | None = None


_chunks = msgspec.json.Decoder(_Chunk)


class ChatClient:
    """Asks one endpoint. Event-loop thread only; `close` it."""

    def __init__(self, settings: ChatSettings, observer: Observer, clock: Callable[[], float] = time.monotonic) -> None:
        """Prepare; nothing is sent.

        Args:
            settings: Where and how.
            observer: Hears of requests.
            clock: Monotonic seconds.
        """
        self._settings = settings
        self._observer = observer
        self._clock = clock
        self._breaker = Breaker(BREAKER)
        self._num_running = 0
        headers = {"Authorization": f"Bearer {settings.api_key}"} if settings.api_key else {}
        self._http = httpx.AsyncClient(
            base_url=settings.base_url.rstrip("/") + "/",
            headers=headers,
            timeout=httpx.Timeout(settings.silence_s, connect=settings.first_token_s),
            limits=httpx.Limits(max_connections=2 * settings.max_concurrent),
            trust_env=False,  # a proxy of the environment must not see prompts unless it is configured as the endpoint
        )

    async def close(self) -> None:
        """Close connections."""
        await self._http.aclose()

    async def stream(self, ask: Ask) -> AsyncGenerator[str, None]:
        """Give the answer in pieces.

        Raises:
            GenerationError: See the tree; after the first piece only `StreamCut`, `NoTokenInTime` and `BadAnswer`.
        """
        ticket = self._breaker.admit(self._clock())
        if ticket is None or self._num_running >= self._settings.max_concurrent:
            self._observer.ended("refused", None)
            raise EndpointBusy("the endpoint is not asked now")
        self._num_running += 1
        outcome, verdict, attempt = "cancelled", Verdict.UNDECIDED, None
        started_s = self._clock()
        try:
            async with AsyncExitStack() as stack:
                attempt, first = await self._first(ask, stack)
                self._observer.first_token(self._clock() - started_s)
                yield first
                async for piece in attempt.pieces(started_s + self._settings.total_s):
                    yield piece
            outcome, verdict = "done", Verdict.DONE
        except GenerationError as error:
            outcome = error.outcome
            verdict = Verdict.GONE if isinstance(error, EndpointGone | NoTokenInTime) else Verdict.FAILED
            raise
        finally:
            self._num_running -= 1
            self._breaker.record(ticket, self._clock(), verdict)
            self._observer.ended(outcome, attempt.usage if attempt is not None else None)

    async def _first(self, ask: Ask, stack: AsyncExitStack) -> tuple[_Attempt, str]:
        """Return the attempt that gave a token first, and the token; the other one is closed."""
        settings = self._settings
        body = _body(ask, settings)
        tasks: dict[asyncio.Task[str], _Attempt] = {}

        def begin() -> None:
            attempt = _Attempt(self._http, body, settings, self._clock)
            tasks[asyncio.create_task(attempt.first(), name="generation-first-token")] = attempt

        async def drop(kept: _Attempt | None = None) -> None:
            others = [(task, attempt) for task, attempt in tasks.items() if attempt is not kept]
            for task, _ in others:
                task.cancel()
            await asyncio.gather(*(task for task, _ in others), return_exceptions=True)
            for _, attempt in others:
                await attempt.close()

        begin()
        deadline_s = self._clock() + settings.first_token_s
        is_hedged, error = False, None
        try:
            while waiting := [task for task in tasks if not task.done()]:
                left_s = deadline_s - self._clock()
                wait_s = left_s if is_hedged else min(left_s, settings.hedge_after_s)
                done, _ = await asyncio.wait(waiting, timeout=max(wait_s, 0.0), return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    try:
                        token = task.result()
                    except GenerationError as failure:
                        error = failure
                        continue
                    attempt = tasks[task]
                    stack.push_async_callback(attempt.close)
                    await drop(attempt)
                    return attempt, token
                if self._clock() >= deadline_s:
                    error = NoTokenInTime(f"no token within {settings.first_token_s:g} s")
                    break
                if not is_hedged and (error is None or error.retryable):
                    is_hedged = True
                    self._observer.hedged()
                    begin()
        except BaseException:
            await drop()
            raise
        await drop()
        raise error or EndpointGone("nothing answers")


class _Attempt:
    """One request under way."""

    def __init__(
        self, http: httpx.AsyncClient, body: bytes, settings: ChatSettings, clock: Callable[[], float]
    ) -> None:
        self.usage: Usage | None = None
        self._http = http
        self._body = body
        self._settings = settings
        self._clock = clock
        self._response: httpx.Response | None = None
        self._chunks: AsyncGenerator[str, None] | None = None

    async def first(self) -> str:
        """Send, and return the first piece of text."""
        request = self._http.build_request(
            "POST", "chat/completions", content=self._body, headers={"Content-Type": "application/json"}
        )
        try:
            self._response = await self._http.send(request, stream=True)
        except httpx.TimeoutException as error:
            raise NoTokenInTime("the endpoint does not answer") from error
        except httpx.HTTPError as error:
            raise EndpointGone("the endpoint cannot be reached") from error
        status = self._response.status_code
        if status == 429:
            raise EndpointBusy("the endpoint takes no more")
        if status >= 500:
            raise EndpointGone(f"the endpoint fails with {status}")
        if status != 200:
            raise BadAnswer(f"the endpoint refuses with {status}")
        self._chunks = self._read(self._response)
        async for piece in self._chunks:
            return piece
        raise BadAnswer("the answer is empty")

    async def pieces(self, deadline_s: float) -> AsyncIterator[str]:
        """Give what follows the first piece."""
        assert self._chunks is not None
        async for piece in self._chunks:
            if self._clock() > deadline_s:
                raise StreamCut("the answer is too long")
            yield piece

    async def close(self) -> None:
        """Tell the endpoint that nobody listens."""
        if self._chunks is not None:
            await self._chunks.aclose()
        if self._response is not None:
            await self._response.aclose()

    async def _read(self, response: httpx.Response) -> AsyncGenerator[str, None]:
        is_done = False
        try:
            async with aclosing(_lines(response)) as lines:
                async for line in lines:
                    if not line.startswith(b"data:"):
                        continue  # comments and event names of the stream
                    data = line[5:].strip()
                    if data == b"[DONE]":
                        is_done = True
                        continue  # to the end of the body, so that the connection can be used again
                    chunk = _decode(data)
                    if chunk.usage is not None:
                        self.usage = _usage(chunk.usage)
                    for choice in chunk.choices[:1]:
                        is_done = is_done or choice.finish_reason is not None
                        if choice.delta.content:
                            yield choice.delta.content
        except httpx.TimeoutException as error:
            raise NoTokenInTime("the stream fell silent") from error
        except httpx.HTTPError as error:
            raise StreamCut("the stream broke") from error
        if not is_done:
            raise StreamCut("the stream ended in the middle")


async def _lines(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """Lines of a body of bounded memory; httpx's own would hold a line of any length."""
    rest = b""
    async with aclosing(cast("AsyncGenerator[bytes, None]", response.aiter_bytes())) as blocks:
        async for block in blocks:
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                yield line.rstrip(b"\r")
            if len(rest) > MAX_LINE_BYTES:
                raise BadAnswer("a line of the stream is too long")
    if rest:
        yield rest


def _usage(counted: _Usage) -> Usage:
    details = counted.prompt_tokens_details
    cached_tokens = (details.cached_tokens or 0) if details is not None else 0
    return Usage(counted.prompt_tokens, counted.completion_tokens, cached_tokens)


def _decode(data: bytes) -> _Chunk:
    try:
        return _chunks.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadAnswer("the stream is no chat stream") from error


def _body(ask: Ask, settings: ChatSettings) -> bytes:
    body: dict[str, Any] = {
        "model": settings.model,
        "messages": [asdict(message) for message in ask.messages],
        "max_tokens": ask.max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if settings.isolation_field:
        body[settings.isolation_field] = ask.isolation_key
    return msgspec.json.encode(body)
