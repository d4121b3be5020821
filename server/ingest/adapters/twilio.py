"""Twilio Media Streams: base64 mu-law in JSON, one message a track.

    connected · start {callSid, tracks, customParameters} · media {track, timestamp, payload} … · stop

Twilio signs its request with the account's token; without an account, a bearer token comes as the custom parameter
`token`. Further custom parameters: `conversation_id`, `agent_id`, `customer_id`, `language`, `inbound_role` (whose
voice the inbound track is, `customer` unless said otherwise).

Source: Twilio documentation "Media Streams – WebSocket messages" and "Security – Validating requests".
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from server.auth.identity import Identity
from server.auth.tokens import Authenticator
from server.config.settings import TwilioSettings
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
    customer_id,
)
from server.ingest.audio import AudioFormat
from server.ingest.websocket import CLOSE_NORMAL, CLOSE_POLICY, CLOSE_TRY_AGAIN
from server.wire.codec import DECODE_ERRORS, bad_message
from server.wire.errors import BadAudio, BadMessage, Conflict, CuelineError, Unauthorised
from server.wire.ids import Speaker, TenantId

PATH = "/v1/ingest/twilio"
RATE_HZ: Final = 8_000
BYTES_PER_MS: Final = 8
SILENCE: Final = b"\xff"
JITTER_MS: Final = 100
"""Stamps that are off by less are inexact, not a hole."""
MAX_SKEW_MS: Final = 2_000
"""A track that Twilio does not send, because nothing plays on it, is silence so far behind the other."""
MAX_HOLE_MS: Final = 60_000
_FRAME_BYTES: Final = 1_000 * BYTES_PER_MS

Track = Literal["inbound", "outbound"]


class _MediaFormat(msgspec.Struct, frozen=True):
    encoding: Literal["audio/x-mulaw"]
    sampleRate: Literal[8000]
    channels: Literal[1]


class _StartBody(msgspec.Struct, frozen=True):
    callSid: str
    mediaFormat: _MediaFormat
    tracks: list[Track]
    customParameters: dict[str, str] = {}


class _Media(msgspec.Struct, frozen=True):
    track: Track
    timestamp: str | int
    payload: str


class _Message(msgspec.Struct, frozen=True):
    event: str
    start: _StartBody | None = None
    media: _Media | None = None


_decoder = msgspec.json.Decoder(_Message)


class TwilioAdapter:
    """See `Adapter`.

    Args:
        settings: Accounts, and the address that Twilio calls.
        authenticator: Knows the bearer of a `token` parameter.
    """

    name = "twilio"

    def __init__(self, settings: TwilioSettings, authenticator: Authenticator) -> None:
        self._settings = settings
        self._authenticator = authenticator

    async def greet(self, handshake: Handshake) -> Session:
        """See `Adapter`: a signature of a known account, or a token later on."""
        sent = handshake.headers.get("x-twilio-signature", "")
        if not self._settings.accounts:
            return TwilioSession(None, self._authenticator)
        url = self._settings.public_url or f"wss://{handshake.headers.get('host', '')}{handshake.target}"
        for account in self._settings.accounts:
            # A load balancer's health check and Twilio itself differ in the final slash now and then.
            if any(
                hmac.compare_digest(sent.encode(), signature(account.auth_token, candidate).encode())
                for candidate in (url, url.rstrip("/"), f"{url}/")
            ):
                identity = Identity(TenantId(account.tenant_id), None, frozenset({"telephony"}))
                return TwilioSession(identity, self._authenticator)
        raise Unauthorised("the request is not signed by a known Twilio account", field="X-Twilio-Signature")


class TwilioSession:
    """See `Session`.

    Args:
        identity: Who signed the request; None: whoever the token says.
        authenticator: Knows bearers.
    """

    def __init__(self, identity: Identity | None, authenticator: Authenticator) -> None:
        self._identity = identity
        self._authenticator = authenticator
        self._tracks: dict[Track, int] = {}
        self._ends_ms: dict[Track, int] = {}

    def receive(self, frame: str | bytes) -> Sequence[Effect]:
        """See `Session`."""
        if isinstance(frame, bytes):
            raise BadMessage("Twilio sends text frames")
        try:
            message = _decoder.decode(frame)
        except DECODE_ERRORS as error:
            raise bad_message(error) from None
        match message:
            case _Message(event="start", start=_StartBody() as start):
                return [self._begin(start)]
            case _Message(event="media", media=_Media() as media):
                return self._media(media)
            case _Message(event="stop"):
                return [End(), Close(CLOSE_NORMAL)]
            case _Message(event="connected" | "dtmf" | "mark"):
                return []
        raise BadMessage("the message type is unknown or incomplete", field="event")

    def refuse(self, error: CuelineError) -> Sequence[Effect]:
        """See `Session`: Twilio takes no errors, only the socket's end."""
        if isinstance(error, BadMessage | BadAudio | Conflict):
            return []
        return [Close(CLOSE_TRY_AGAIN if error.retryable else CLOSE_POLICY, error.code)]

    def _begin(self, start: _StartBody) -> Begin:
        if self._tracks:
            raise Conflict("this stream has started already", field="event")
        parameters = start.customParameters
        identity = self._identity
        if identity is None:
            token = parameters.get("token")
            identity = self._authenticator.authenticate(f"Bearer {token}" if token else None)
        call_id = conversation_id(parameters.get("conversation_id") or start.callSid, "callSid")
        if not start.tracks:
            raise BadMessage("names no track", field="start.tracks")
        inbound: Speaker = "agent" if parameters.get("inbound_role") == "agent" else "customer"
        outbound: Speaker = "customer" if inbound == "agent" else "agent"
        roles: dict[Track, Speaker] = {"inbound": inbound, "outbound": outbound}
        tracks = list(dict.fromkeys(start.tracks))
        self._tracks = {track: index for index, track in enumerate(tracks)}
        self._ends_ms = dict.fromkeys(tracks, 0)
        return Begin(
            identity,
            call_id,
            tuple(AudioFormat("mulaw", RATE_HZ, (roles[track],)) for track in tracks),
            agent_id(parameters.get("agent_id")),
            parameters.get("language"),
            customer_id(parameters.get("customer_id")),
        )

    def _media(self, media: _Media) -> Sequence[Effect]:
        if media.track not in self._tracks:
            raise BadAudio("this track was not announced", field="media.track")
        try:
            payload = base64.b64decode(media.payload, validate=True)
            at_ms = int(media.timestamp)
        except (binascii.Error, ValueError):
            raise BadAudio("is not base64 audio with a time", field="media") from None
        hole_ms = at_ms - self._ends_ms[media.track]
        if not payload or hole_ms > MAX_HOLE_MS:
            raise BadAudio("is empty or far ahead of the call", field="media")
        effects: list[Effect] = []
        if hole_ms > JITTER_MS:
            effects += self._fill(media.track, hole_ms)
        effects.append(Audio(self._tracks[media.track], payload))
        self._ends_ms[media.track] += len(payload) // BYTES_PER_MS
        for other, end_ms in self._ends_ms.items():
            behind_ms = self._ends_ms[media.track] - MAX_SKEW_MS - end_ms
            if behind_ms > 0:
                effects += self._fill(other, behind_ms)
        return effects

    def _fill(self, track: Track, hole_ms: int) -> list[Effect]:
        self._ends_ms[track] += hole_ms
        left = hole_ms * BYTES_PER_MS
        sizes = [_FRAME_BYTES] * (left // _FRAME_BYTES) + ([left % _FRAME_BYTES] if left % _FRAME_BYTES else [])
        return [Audio(self._tracks[track], SILENCE * size) for size in sizes]


def signature(auth_token: str, url: str) -> str:
    """What Twilio puts into `X-Twilio-Signature` for a WebSocket: the URL alone, signed with the account's token."""
    return base64.b64encode(hmac.new(auth_token.encode(), url.encode(), hashlib.sha1).digest()).decode()
