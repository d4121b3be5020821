"""Deepgram behind the speech contract, on its own SDK: one socket a side, so that no side waits for the other.

    DeepgramRecogniser ── open ─▶ DeepgramStream ── audio, KeepAlive, Finalize, CloseStream ─▶ vendor
                                        events ◀── mapping ◀── messages ◀─┘

Whoever reads the events reads the socket: each hand-over from task to task is a turn of a loop that has a hundred
streams' frames to send in it.

It never reconnects: a connection that ends early ends its stream with an error, and `server.speech.recovery` opens the
next one. Source: PROTOCOLS b1.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator

import msgspec
from deepgram import AsyncDeepgramClient
from deepgram.environment import DeepgramClientEnvironment
from deepgram.listen.v1.socket_client import AsyncV1SocketClient
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from server.config.settings import DeepgramSettings
from server.speech.contract import Capabilities, Closed, SpeechCall, SpeechEvent, SpeechStream
from server.speech.deepgram.mapping import Mapping
from server.speech.deepgram.messages import Metadata, ServerMessage, decode
from server.speech.deepgram.transport import Transport, latest_transport, make_transport
from server.wire.errors import (
    BadAudio,
    BadRequest,
    CuelineError,
    Forbidden,
    TooManyRequests,
    Unauthorised,
    Unavailable,
)

log = logging.getLogger(__name__)

KEEP_ALIVE_S = 4.0
"""The vendor closes after 10 s without audio, and asks for a sign of life every 3 to 5."""
MAX_BAD_MESSAGES = 20
"""So many in a row, and it is not Deepgram's protocol."""
_MAX_KEYTERMS = 100
"""Source: Deepgram, keyterm prompting; more are refused with the whole connection."""
_LANGUAGES = ("en", "es", "fr", "de", "it", "pt", "nl", "hi", "ja", "ru", "multi")


class DeepgramStream:
    """One side of one call on one connection. Made by `DeepgramRecogniser.open`.

    Args:
        connection: The SDK's.
        transport: The socket under it.
        mapping: Of this connection.
        exits: Closes the SDK's context.
    """

    def __init__(
        self,
        connection: AsyncV1SocketClient,
        transport: Transport,
        mapping: Mapping,
        exits: contextlib.AsyncExitStack,
    ) -> None:
        self._connection = connection
        self._transport = transport
        self._mapping = mapping
        self._exits = exits
        self._loop = asyncio.get_running_loop()
        self._last_sent_s = self._loop.time()
        self._is_closing = False
        self._alive = asyncio.create_task(self._keep_alive(), name="deepgram-keep-alive")

    async def send(self, pcm: bytes) -> None:
        """Send samples.

        Raises:
            BadAudio: Half a sample.
            Unavailable: The vendor takes nothing, or is gone.
        """
        if len(pcm) % 2:
            raise BadAudio("linear16 audio has an even number of bytes", field="pcm")
        if not self._is_closing and pcm:  # an empty frame would mean the end of the audio
            self._last_sent_s = self._loop.time()
            with _lost():
                await self._connection.send_media(pcm)

    async def finalize(self) -> None:
        """Ask for the text of everything sent so far."""
        with _lost():
            await self._connection.send_finalize()

    async def close(self) -> None:
        """Ask for the last words; the vendor closes after them."""
        if not self._is_closing:
            self._is_closing = True
            with contextlib.suppress(Unavailable), _lost():
                await self._connection.send_close_stream()

    async def abandon(self) -> None:
        """Drop the connection."""
        self._transport.abort()
        await self._release()

    async def events(self) -> AsyncIterator[SpeechEvent]:
        """Events in audio order; ends after `Closed`. One reader, which keeps the vendor waiting while it is slow."""
        error: BaseException | None = None
        is_complete = False
        try:
            async for message in self._messages():
                # A close without it may hide that the last finals never came.
                is_complete = isinstance(message, Metadata)
                for event in self._mapping.take(message):
                    yield event
            if not (self._is_closing and is_complete):
                error = Unavailable("the vendor ended the stream")
        except (ConnectionClosed, CuelineError) as failure:
            error = Unavailable(f"the connection was lost: {type(failure).__name__}")
            error.__cause__ = failure
        finally:
            await self._release()
        yield Closed(error)

    async def _messages(self) -> AsyncIterator[ServerMessage]:
        """Messages until the connection is closed in order."""
        bad_messages, is_told = 0, False
        async for frame in self._transport:
            try:
                message = decode(frame)
            except (msgspec.DecodeError, UnicodeDecodeError):
                if not is_told:
                    is_told = True
                    log.warning("the vendor sent what is no message")  # its text may hold customers' words
                bad_messages += 1
                if bad_messages >= MAX_BAD_MESSAGES:
                    raise Unavailable("what answers there does not speak this protocol") from None
                continue
            bad_messages = 0
            if message is not None:
                yield message

    async def _release(self) -> None:
        """Give the connection back. Idempotent."""
        self._alive.cancel()
        await asyncio.gather(self._alive, self._exits.aclose(), return_exceptions=True)

    async def _keep_alive(self) -> None:
        with contextlib.suppress(Unavailable):  # the reader finds it closed as well, and tells
            while not self._is_closing:
                idle_s = self._loop.time() - self._last_sent_s
                if idle_s >= KEEP_ALIVE_S:
                    self._last_sent_s = self._loop.time()
                    with _lost():
                        await self._connection.send_keep_alive()
                else:
                    await asyncio.sleep(KEEP_ALIVE_S - idle_s)


class DeepgramRecogniser:
    """Opens one connection a side.

    Args:
        settings: Where and how.
        key: The account's; empty for a server of one's own that wants none.
    """

    def __init__(self, settings: DeepgramSettings, key: str) -> None:
        self._settings = settings
        http = settings.url.replace("ws", "http", 1)
        self._client = AsyncDeepgramClient(
            api_key=key or "none",
            environment=DeepgramClientEnvironment(
                base=http, production=settings.url.rstrip("/"), agent=settings.url, agent_rest=http
            ),
            transport_factory=make_transport,
        )

    @property
    def capabilities(self) -> Capabilities:
        """Interims, word times, vocabulary hints."""
        return Capabilities(
            "deepgram",
            interims=True,
            word_times=True,
            languages=_LANGUAGES,
            keyterms=True,
            replay_speed=self._settings.replay_speed,
        )

    async def start(self) -> None:
        """Nothing to load: the vendor may be away now and back when a call comes."""

    async def open(self, call: SpeechCall) -> SpeechStream:
        """Connect.

        Raises:
            Unauthorised, Forbidden, BadRequest: Refused for good (4xx).
            TooManyRequests, Unavailable: It may work later (429, 5xx, network).
        """
        settings = self._settings
        is_nova_3 = settings.model.startswith("nova-3")
        terms = list(call.keyterms[:_MAX_KEYTERMS]) or None
        exits = contextlib.AsyncExitStack()
        try:
            connection = await exits.enter_async_context(
                self._client.listen.v1.connect(
                    model=settings.model,
                    language=call.language,
                    encoding="linear16",
                    sample_rate=call.sample_rate_hz,
                    channels=1,
                    interim_results=True,
                    punctuate=True,
                    smart_format=settings.smart_format,
                    endpointing=settings.endpointing_ms,
                    utterance_end_ms=1_000,
                    vad_events=True,
                    mip_opt_out=settings.mip_opt_out,
                    keyterm=terms if is_nova_3 else None,
                    keywords=None if is_nova_3 else terms,
                    tag="cueline",
                )
            )
            transport = latest_transport()
            await transport.open()
        except BaseException as error:
            await exits.aclose()
            match error:
                case InvalidStatus():
                    raise _refusal(error.response.status_code) from error
                case InvalidHandshake() | OSError():
                    raise Unavailable("the vendor cannot be reached") from error
            raise
        log.info("vendor stream open", extra={"request_id": transport.request_id})
        return DeepgramStream(connection, transport, Mapping(call.start_ms, call.language), exits)

    async def stop(self) -> None:
        """Streams are ended by who opened them."""


def _refusal(status: int) -> CuelineError:
    """What an HTTP status in the place of a socket means."""
    match status:
        case 401:
            return Unauthorised("the vendor does not know this key")
        case 402 | 403:
            return Forbidden("the vendor's account may not do this, or is out of credit")
        case 408 | 429:
            return TooManyRequests("the vendor takes no more connections now")
        case _ if 400 <= status < 500:
            return BadRequest(f"the vendor refused the request with status {status}")
    return Unavailable(f"the vendor answered with status {status}")


@contextlib.contextmanager
def _lost() -> Iterator[None]:
    """Say in our terms that a send did not work."""
    try:
        yield
    except (ConnectionClosed, OSError) as error:
        raise Unavailable("the connection to the vendor is lost") from error
