"""Live Call Analytics' WebSocket, as it is implemented: its clients come by changing the URL.

    text {callEvent: START, callId, agentId, samplingRate, …} · binary, two interleaved channels · text {… END}

The server never answers, and a client cuts its audio anywhere. Its token comes in a header or, from a browser, in the
query. Source: PROTOCOLS b3.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Awaitable, Sequence

import msgspec

from server.auth.identity import Identity
from server.auth.tickets import Redeemer
from server.auth.tokens import Authenticator
from server.ingest.adapters.contract import (
    Audio,
    Begin,
    Close,
    Effect,
    End,
    Handshake,
    Session,
    agent_id,
    conversation_id,
)
from server.ingest.audio import AudioFormat
from server.ingest.websocket import CLOSE_NORMAL
from server.wire.codec import DECODE_ERRORS, bad_message
from server.wire.errors import BadAudio, BadMessage, CuelineError
from server.wire.ingest import MAX_SAMPLE_RATE_HZ, MIN_SAMPLE_RATE_HZ

PATH = "/api/v1/ws"
DEFAULT_RATE_HZ = 8_000


class _CallMetaData(msgspec.Struct, frozen=True):
    callId: str | None = None
    agentId: str | None = None
    samplingRate: int = DEFAULT_RATE_HZ
    callEvent: str = "START"


_decoder = msgspec.json.Decoder(_CallMetaData)


class LcaAdapter:
    """See `Adapter`.

    Args:
        authenticator: Knows bearers.
        tickets: Redeems single-use tickets, for browsers that would rather not have a token in a URL.
    """

    name = "lca"

    def __init__(self, authenticator: Authenticator, tickets: Redeemer) -> None:
        self._authenticator = authenticator
        self._tickets = tickets

    async def greet(self, handshake: Handshake) -> Session:
        """See `Adapter`: a bearer in header or query, or `?ticket=`."""
        ticket = handshake.query.get("ticket")
        if ticket is not None:
            redeemed = self._tickets.redeem(ticket, time.monotonic())
            return LcaSession(await redeemed if isinstance(redeemed, Awaitable) else redeemed)
        authorization = handshake.headers.get("authorization") or handshake.query.get("authorization")
        await self._authenticator.prepare(authorization)
        return LcaSession(self._authenticator.authenticate(authorization))


class LcaSession:
    """See `Session`."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._format: AudioFormat | None = None
        self._rest = b""

    def receive(self, frame: str | bytes) -> Sequence[Effect]:
        """See `Session`."""
        if isinstance(frame, bytes):
            return self._audio(frame)
        try:
            meta = _decoder.decode(frame)
        except DECODE_ERRORS as error:
            raise bad_message(error) from None
        match meta.callEvent:
            case "START":
                return [self._begin(meta)]
            case "END":
                return [End(), Close(CLOSE_NORMAL)]
        return []  # later versions tell more, such as who is speaking, and the audio says it all the same

    def refuse(self, error: CuelineError) -> Sequence[Effect]:
        """See `Session`: this protocol has no words for it."""
        return []

    def _begin(self, meta: _CallMetaData) -> Begin:
        if not MIN_SAMPLE_RATE_HZ <= meta.samplingRate <= MAX_SAMPLE_RATE_HZ:
            raise BadMessage(f"has to be {MIN_SAMPLE_RATE_HZ} to {MAX_SAMPLE_RATE_HZ}", field="samplingRate")
        call_id = conversation_id(meta.callId or str(uuid.uuid4()), "callId")
        self._format = AudioFormat("linear16", meta.samplingRate, ("customer", "agent"))
        return Begin(self._identity, call_id, (self._format,), agent_id(meta.agentId))

    def _audio(self, frame: bytes) -> Sequence[Effect]:
        if self._format is None:
            raise BadAudio("audio came before START")
        data = self._rest + frame
        whole = len(data) - len(data) % (self._format.bytes_per_sample * len(self._format.roles))
        self._rest = data[whole:]
        return [Audio(0, data[:whole])] if whole else []
