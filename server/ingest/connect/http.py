"""Where contact events come in: an ASGI application beside the reading.

POST /v1/connect/events   a contact flow's Lambda event, an EventBridge contact event, or just the fields
GET  /healthz /readyz /metrics
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

from server.auth.rights import Resource, require
from server.auth.tokens import Authenticator
from server.ingest.connect.contacts import MAX_EVENT_BYTES, AgentConnected, ContactEnded, MediaStarted, read_event
from server.ingest.connect.service import ConnectService
from server.metrics import Metrics
from server.wire.codec import error_message
from server.wire.errors import CuelineError, NotFound, TooLarge, Unauthorised

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

log = logging.getLogger(__name__)

EVENTS_PATH = "/v1/connect/events"


class EventDoor:
    """ASGI application.

    Args:
        service: Reads contacts.
        authenticator: Who may send events: whoever may bring calls in.
        metrics: What `/metrics` prints.
        metrics_key: Bearer of `/metrics` from other machines.
        agents_by_arn: Whether contact events, too, say whose call it is.
    """

    def __init__(
        self,
        service: ConnectService,
        authenticator: Authenticator,
        metrics: Metrics,
        metrics_key: str = "",
        *,
        agents_by_arn: bool = False,
    ) -> None:
        self._service = service
        self._authenticator = authenticator
        self._metrics = metrics
        self._metrics_key = metrics_key
        self._agents_by_arn = agents_by_arn

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        try:
            match (scope["method"], scope["path"]):
                case ("POST", path) if path == EVENTS_PATH:
                    await _answer(send, 202, await self._event(_header(scope, b"authorization"), receive))
                case ("GET", "/healthz"):
                    await _answer(send, 200, {"live": True})
                case ("GET", "/readyz"):
                    await _answer(send, 200, {"ready": True, "contacts": self._service.num_contacts})
                case ("GET", "/metrics"):
                    self._check_scraper(scope)
                    await _send(send, 200, "text/plain; version=0.0.4", self._metrics.render())
                case _:
                    raise NotFound("there is nothing at this address")
        except CuelineError as error:
            await _answer(send, error.status, error_message(error))
        except Exception as error:
            log.exception("request failed", extra={"path": scope["path"]})
            await _answer(send, 500, error_message(error))

    async def _event(self, authorization: str | None, receive: Receive) -> dict[str, Any]:
        await self._authenticator.prepare(authorization)
        identity = self._authenticator.authenticate(authorization)
        require(identity, "ingest", Resource("call", identity.tenant_id))
        body = bytearray()
        while True:
            event = await receive()
            body += event.get("body", b"")
            if len(body) > MAX_EVENT_BYTES:
                raise TooLarge(f"an event has at most {MAX_EVENT_BYTES} bytes")
            if not event.get("more_body"):
                break
        match read_event(bytes(body)):
            case MediaStarted(contact):
                await self._service.begin(identity.tenant_id, contact)
                return {"contact_id": contact.contact_id, "state": "reading"}
            case AgentConnected(contact_id, agent_id, is_by_arn) if self._agents_by_arn or not is_by_arn:
                require(identity, "ingest", Resource("call", identity.tenant_id, agent_id))
                await self._service.assign(identity.tenant_id, contact_id, agent_id)
                return {"contact_id": contact_id, "state": "assigned"}
            case ContactEnded(contact_id):
                await self._service.end(identity.tenant_id, contact_id)
                return {"contact_id": contact_id, "state": "ending"}
            case _:
                return {"state": "ignored"}

    def _check_scraper(self, scope: Scope) -> None:
        sent = (_header(scope, b"authorization") or "").encode()
        is_known = self._metrics_key and hmac.compare_digest(sent, f"Bearer {self._metrics_key}".encode())
        if not is_known and (scope.get("client") or ("",))[0] not in ("127.0.0.1", "::1"):
            raise Unauthorised("metrics are for this machine, or for the bearer of auth.metrics_key")


def _header(scope: Scope, wanted: bytes) -> str | None:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == wanted), None)


async def _answer(send: Send, status: int, body: Any) -> None:
    await _send(send, status, "application/json", msgspec.json.encode(body))


async def _send(send: Send, status: int, content_type: str, body: bytes) -> None:
    headers = [(b"content-type", content_type.encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
