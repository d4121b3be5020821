"""The HTTP side: health, metrics, tickets, conversations, the demo, the schema.

Every handler asks for an identity first and for a right second; `server.auth.rights` holds the table.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
from litestar import Litestar, MediaType, Request, Response, get, post
from litestar.exceptions import HTTPException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.params import FromPath, FromQuery

from server.app.page import page_handlers
from server.auth.desk import MAX_BODY_BYTES as MAX_TICKET_BYTES
from server.auth.desk import TicketDesk
from server.auth.identity import Identity
from server.auth.origin import OriginPolicy
from server.auth.rights import Resource, require
from server.auth.tokens import Authenticator
from server.config.budget import Budget
from server.metrics import Metrics
from server.store.contract import Store
from server.wire.codec import error_message
from server.wire.errors import BadRequest, CuelineError, Forbidden, NotFound, TooLarge
from server.wire.feed import TicketResponse

log = logging.getLogger(__name__)

MAX_RECORDING_BYTES = 64 * 1024 * 1024
"""Body limit of a dropped recording: over an hour of two-channel telephone audio."""
DEFAULT_PAGE = 50
MAX_PAGE = 200

JsonObject = dict[str, Any]


class Health(Protocol):
    """What the health routes ask."""

    @property
    def is_ready(self) -> bool:
        """Warm and accepting."""

    def status(self) -> JsonObject:
        """Public state of this process."""


class DemoDesk(Protocol):
    """Plays recordings into this very server."""

    async def play(self, recording: bytes | None, tenant_id: str | None) -> str:
        """Play the demo call, or a recording; returns the conversation's id. Raises `Conflict` while one plays."""


@dataclass(frozen=True, slots=True)
class ApiDependencies:
    """What the handlers need, handed in by the composition root.

    Attributes:
        authenticator: Identities.
        tickets: `POST /v1/tickets`.
        origins: Which pages may ask.
        store: Conversations.
        metrics: `/metrics`.
        budget: `/v1/budget`.
        health: Health routes and `/v1/status`.
        demo: The demo desk, None where it is switched off.
    """

    authenticator: Authenticator
    tickets: TicketDesk
    origins: OriginPolicy
    store: Store
    metrics: Metrics
    budget: Budget
    health: Health
    demo: DemoDesk | None


def build_api(deps: ApiDependencies, version: str) -> Litestar:
    """Build the HTTP application."""

    def identify(request: Request[Any, Any, Any], tenant_id: str | None = None) -> Identity:
        if not deps.origins.allows(request.headers.get("origin"), request.headers.get("host")):
            raise Forbidden("pages of this origin may not ask", field="Origin")
        return deps.authenticator.authenticate(request.headers.get("authorization"), tenant_id)

    @get("/healthz", media_type=MediaType.JSON, summary="The process answers.")
    async def healthz() -> JsonObject:
        return {"live": True}

    @get("/readyz", media_type=MediaType.JSON, summary="Models are warm and calls are accepted.")
    async def readyz() -> Response[JsonObject]:
        return Response({"ready": deps.health.is_ready}, status_code=200 if deps.health.is_ready else 503)

    @get("/metrics", media_type="text/plain; version=0.0.4", summary="Prometheus metrics.")
    async def metrics() -> bytes:
        return deps.metrics.render()

    @get("/v1/status", summary="What this server is and can.")
    async def status(request: Request[Any, Any, Any]) -> JsonObject:
        identity = identify(request)
        return {
            "version": version,
            "tenant_id": identity.tenant_id,
            "demo": deps.demo is not None and identity.is_anonymous,
            **deps.health.status(),
        }

    @get("/v1/budget", summary="The latency budget per stage, in milliseconds.")
    async def budget() -> JsonObject:
        return {
            "total_ms": deps.budget.total_ms,
            "target_ms": deps.budget.target_ms,
            "stages": deps.budget.stages,
        }

    @post("/v1/tickets", summary="A single-use ticket that opens the feed's socket.", status_code=201)
    async def tickets(request: Request[Any, Any, Any]) -> TicketResponse:
        return deps.tickets.issue(
            await _body(request, MAX_TICKET_BYTES),
            authorization=request.headers.get("authorization"),
            origin=request.headers.get("origin"),
            host=request.headers.get("host"),
        )

    @get("/v1/conversations", summary="Conversations, newest first.")
    async def conversations(
        request: Request[Any, Any, Any], limit: FromQuery[int] = DEFAULT_PAGE, before_ms: FromQuery[float | None] = None
    ) -> JsonObject:
        identity = identify(request)
        require(identity, "list", Resource("tenant", identity.tenant_id))
        if not 1 <= limit <= MAX_PAGE:
            raise BadRequest(f"has to be between 1 and {MAX_PAGE}", field="limit")
        found = await deps.store.conversations(identity.tenant_id, limit=limit, before_ms=before_ms)
        return {"conversations": found}

    @get("/v1/conversations/{conversation_id:str}", summary="One conversation, whole.")
    async def conversation(request: Request[Any, Any, Any], conversation_id: FromPath[str]) -> JsonObject:
        identity = identify(request)
        found = await deps.store.conversation(identity.tenant_id, conversation_id)
        # A conversation that may not be read is told apart from none at all by nobody.
        if found is None:
            raise NotFound("there is no such conversation")
        try:
            require(identity, "read", Resource("call", identity.tenant_id, found.get("agent_id")))
        except Forbidden:
            raise NotFound("there is no such conversation") from None
        return found

    @post("/v1/demo/calls", summary="Play the demo call, or a two-channel recording sent as the body.", status_code=201)
    async def demo_calls(request: Request[Any, Any, Any]) -> JsonObject:
        identity = identify(request)
        if deps.demo is None or not identity.is_anonymous:
            raise NotFound("the demo is switched off")
        recording = await _body(request, MAX_RECORDING_BYTES)
        return {"conversation_id": await deps.demo.play(recording or None, identity.tenant_id)}

    return Litestar(
        route_handlers=[
            healthz,
            readyz,
            metrics,
            status,
            budget,
            tickets,
            conversations,
            conversation,
            demo_calls,
            *page_handlers(),
        ],
        exception_handlers={CuelineError: _known, HTTPException: _http, Exception: _unknown},
        openapi_config=OpenAPIConfig(
            title="Cueline", version=version, path="/schema", render_plugins=[JsonRenderPlugin(path="/")]
        ),
        request_max_body_size=MAX_RECORDING_BYTES,
        logging_config=None,
    )


async def _body(request: Request[Any, Any, Any], max_bytes: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise TooLarge(f"the body has more than {max_bytes} bytes")
    return bytes(body)


def _known(_: Request[Any, Any, Any], error: CuelineError) -> Response[Any]:
    return Response(_describe(error), status_code=error.status, media_type=MediaType.JSON)


def _http(_: Request[Any, Any, Any], error: HTTPException) -> Response[Any]:
    code = {400: "bad_request", 404: "not_found", 405: "method_not_allowed", 413: "too_large"}
    body = {"code": code.get(error.status_code, "http"), "message": error.detail, "retryable": error.status_code >= 500}
    return Response(body, status_code=error.status_code, media_type=MediaType.JSON)


def _unknown(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    log.error("request failed", extra={"path": request.url.path}, exc_info=error)
    return Response(_describe(error), status_code=500, media_type=MediaType.JSON)


def _describe(error: BaseException) -> JsonObject:
    described: JsonObject = msgspec.to_builtins(error_message(error))
    described.pop("type", None)
    return described
