"""Genesys AudioHook v2.

    open → opened (at once) · binary PCMU, external left, internal right · ping → pong · close → closed

Messages carry the session's id and sequence numbers both ways. The request is signed by the integration's secret; its
organization has to be the one that `open` names. `reconnect` is not sent: Genesys does not establish a session anew, so
a process that leaves carries its sockets on. Source: PROTOCOLS b4, Genesys AudioHook protocol reference.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from server.auth.http_signature import verify
from server.auth.identity import Identity
from server.auth.tokens import Authenticator
from server.config.settings import AudioHookSettings
from server.ingest.adapters.contract import (
    Audio,
    Begin,
    Close,
    Effect,
    End,
    Handshake,
    Pause,
    Reply,
    Session,
    agent_id,
    conversation_id,
    customer_id,
)
from server.ingest.audio import AudioFormat
from server.ingest.websocket import CLOSE_NORMAL, CLOSE_POLICY
from server.wire.codec import DECODE_ERRORS, bad_message
from server.wire.errors import BadAudio, BadMessage, BadRequest, Conflict, CuelineError, Unauthorised
from server.wire.ids import Speaker, TenantId
from server.wire.ingest import Encoding

PATH = "/v1/ingest/audiohook"
RATE_HZ: Final = 8_000
SIGNED: Final = (
    "@request-target",
    "@authority",
    "audiohook-organization-id",
    "audiohook-session-id",
    "audiohook-correlation-id",
    "x-api-key",
)
NO_CONVERSATION: Final = "00000000-0000-0000-0000-000000000000"
"""Genesys tries the connection when an integration is set up: such a session has no call."""
MAX_DISCARDED_MS: Final = 60_000
_ENCODINGS: Final[dict[str, Encoding]] = {"PCMU": "mulaw", "L16": "linear16"}
_SILENCE: Final = {"mulaw": b"\xff", "linear16": b"\0\0"}
_ROLES: Final[dict[str, Speaker]] = {"external": "customer", "internal": "agent"}
_DURATION: Final = re.compile(r"^PT(\d+(?:\.\d+)?)S\Z")


class _Media(msgspec.Struct, frozen=True):
    type: str
    format: str
    channels: tuple[str, ...]
    rate: int


class _Open(msgspec.Struct, frozen=True):
    organizationId: str
    conversationId: str
    media: list[dict[str, Any]]
    language: str | None = None
    customConfig: dict[str, Any] | None = None


class _Message(msgspec.Struct, frozen=True):
    version: str
    id: str
    type: str
    seq: int
    parameters: dict[str, Any] = {}


_decoder = msgspec.json.Decoder(_Message)
_encoder = msgspec.json.Encoder()


class AudioHookAdapter:
    """See `Adapter`.

    Args:
        settings: Integrations that may connect.
        authenticator: Says who connects where nobody has to sign.
        wall_s: Wall clock.
    """

    name = "audiohook"

    def __init__(
        self, settings: AudioHookSettings, authenticator: Authenticator, wall_s: Callable[[], float] = time.time
    ) -> None:
        self._secrets = {account.api_key: account.secret for account in settings.accounts}
        self._tenants = {account.api_key: TenantId(account.tenant_id) for account in settings.accounts}
        self._authenticator = authenticator
        self._wall_s = wall_s

    async def greet(self, handshake: Handshake) -> Session:
        """See `Adapter`: a signature of a known integration; a bearer only where none is configured."""
        headers = handshake.headers
        if not self._secrets:
            authorization = headers.get("authorization")
            await self._authenticator.prepare(authorization)
            identity = self._authenticator.authenticate(authorization)
        else:
            key_id = verify(headers, handshake.target, SIGNED, self._secrets.get, self._wall_s())
            if key_id != headers.get("x-api-key"):
                raise Unauthorised("another key signed than the one that is named", field="X-API-KEY")
            identity = Identity(self._tenants[key_id], None, frozenset({"telephony"}))
        return AudioHookSession(identity, headers.get("audiohook-organization-id"), headers.get("audiohook-session-id"))


class AudioHookSession:
    """See `Session`.

    Args:
        identity: Who connected.
        organization_id: The organization that its signature covers.
        session_id: The session that its signature covers.
    """

    def __init__(self, identity: Identity, organization_id: str | None, session_id: str | None) -> None:
        self._identity = identity
        self._organization_id = organization_id
        self._id = session_id
        self._seq = 0
        self._client_seq = 0
        self._format: AudioFormat | None = None
        self._is_probe = False

    def receive(self, frame: str | bytes) -> Sequence[Effect]:
        """See `Session`."""
        if isinstance(frame, bytes):
            if self._format is None and not self._is_probe:
                raise BadAudio("audio came before open")
            return [] if self._is_probe else [Audio(0, frame)]
        try:
            message = _decoder.decode(frame)
        except DECODE_ERRORS as error:
            raise bad_message(error) from None
        if message.version != "2":
            raise BadMessage("this is AudioHook 2", field="version")
        if self._id is not None and message.id != self._id:
            raise BadMessage("this is another session's message", field="id")
        if message.seq != self._client_seq + 1:
            raise BadMessage("messages are numbered one by one", field="seq")
        self._id, self._client_seq = message.id, message.seq
        return self._dispatch(message)

    def refuse(self, error: CuelineError) -> Sequence[Effect]:
        """See `Session`: `disconnect` is final in this protocol."""
        if isinstance(error, BadAudio):
            return []
        reason = "unauthorized" if error.status in (401, 403) else "error"
        return [
            self._reply("disconnect", {"reason": reason, "info": f"{error.code}: {error.message}"}),
            Close(CLOSE_POLICY if isinstance(error, BadRequest) else CLOSE_NORMAL, error.code),
        ]

    def _dispatch(self, message: _Message) -> Sequence[Effect]:
        match message.type:
            case "open":
                return self._open(message.parameters)
            case "ping":
                return [self._reply("pong", {})]
            case "close":
                # Answered first, worked after: Genesys waits five seconds, the last words may take longer.
                return [self._reply("closed", {}), End(), Close(CLOSE_NORMAL)]
            case "update":
                return [self._reply("updated", {})]
            case "discarded" | "resumed":
                return self._discarded(message.parameters)
            case "paused":
                return [Pause()]
            case "error":
                return []
        raise BadMessage("the message type is unknown", field="type")

    def _open(self, parameters: dict[str, Any]) -> Sequence[Effect]:
        if self._format is not None or self._is_probe:
            raise Conflict("this session is open", field="type")
        try:
            asked = msgspec.convert(parameters, _Open)
        except msgspec.ValidationError as error:
            raise bad_message(error) from None
        if self._organization_id is not None and asked.organizationId != self._organization_id:
            raise Unauthorised("another organization signed the request", field="organizationId")
        media, audio_format = _choose(asked.media)
        opened = self._reply("opened", {"media": [media]})
        if asked.conversationId == NO_CONVERSATION:
            self._is_probe = True
            return [opened]
        self._format = audio_format
        custom = asked.customConfig or {}
        return [
            opened,
            Begin(
                self._identity,
                conversation_id(asked.conversationId, "conversationId"),
                (audio_format,),
                agent_id(custom.get("agent_id")),
                asked.language,
                customer_id(custom.get("customer_id")),
            ),
        ]

    def _discarded(self, parameters: dict[str, Any]) -> Sequence[Effect]:
        """Audio that the other side threw away has passed all the same: the clock goes on with silence."""
        found = _DURATION.match(str(parameters.get("discarded", "")))
        if found is None or self._format is None:
            return []
        duration_ms = min(MAX_DISCARDED_MS, round(float(found[1]) * 1000))
        step_ms = 1_000
        silence = _SILENCE[self._format.encoding] * len(self._format.roles) * (RATE_HZ // 1000)
        return [Audio(0, silence * min(step_ms, duration_ms - at)) for at in range(0, duration_ms, step_ms)]

    def _reply(self, kind: str, parameters: dict[str, Any]) -> Reply:
        self._seq += 1
        message = {
            "version": "2",
            "id": self._id or NO_CONVERSATION,
            "type": kind,
            "seq": self._seq,
            "clientseq": self._client_seq,
            "parameters": parameters,
        }
        return Reply(_encoder.encode(message).decode())


def _choose(offered: list[dict[str, Any]]) -> tuple[dict[str, Any], AudioFormat]:
    """The offer with the most channels that we take, as it was made."""
    best: tuple[dict[str, Any], AudioFormat] | None = None
    for offer in offered:
        try:
            media = msgspec.convert(offer, _Media)
        except msgspec.ValidationError:
            continue  # what comes later in this protocol may look different
        roles = tuple(_ROLES[channel] for channel in media.channels if channel in _ROLES)
        usable = media.type == "audio" and media.rate == RATE_HZ and media.format in _ENCODINGS
        if not usable or len(roles) != len(media.channels) or not 0 < len(set(roles)) == len(roles):
            continue
        if best is None or len(roles) > len(best[1].roles):
            best = (offer, AudioFormat(_ENCODINGS[media.format], RATE_HZ, roles))
    if best is None:
        raise BadMessage("offers no audio that we take: PCMU or L16, 8000 Hz, external and internal", field="media")
    return best
