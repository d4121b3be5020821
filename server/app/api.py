"""The HTTP side: health, metrics, tickets, conversations, the demo, the schema.

Every route says who may come in (`access`): `public`, or whoever has an `identity` and then, in its handler, a right of
`server.auth.rights`. One that says nothing is closed.
"""

from __future__ import annotations

import hmac
import logging
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
from litestar import Litestar, MediaType, Request, Response, Router, get, post
from litestar.connection import ASGIConnection
from litestar.exceptions import HTTPException, ValidationException
from litestar.handlers import BaseRouteHandler
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin

from server.app.agents import agent_handlers
from server.app.body import read_body
from server.app.conversations import conversation_handlers
from server.app.knowledge import KnowledgeDesk, knowledge_handlers
from server.app.models import ModelDesk, model_handlers
from server.app.page import page_handlers
from server.audit.log import AuditLog
from server.auth.desk import MAX_BODY_BYTES as MAX_TICKET_BYTES
from server.auth.desk import TicketDesk
from server.auth.identity import Identity
from server.auth.origin import LOOPBACK_HOSTS, OriginPolicy
from server.auth.rate import RateLimiter
from server.auth.tokens import Authenticator
from server.config.budget import Budget
from server.feed.access import Directory
from server.log.presence import LocalPresence, Presence
from server.metrics import Metrics
from server.privacy.erasure import Erasure
from server.store.contract import Store
from server.wire.codec import error_message
from server.wire.errors import BadRequest, CuelineError, Forbidden, NotFound, Unauthorised
from server.wire.feed import TicketResponse

log = logging.getLogger(__name__)

MAX_RECORDING_BYTES = 64 * 1024 * 1024
"""Body limit of a dropped recording: over an hour of two-channel telephone audio."""
REQUESTS_PER_S = 20.0
REQUESTS_BURST = 100.0
"""Of one identity: a desktop asks a few times a call; a loop that reads everything there is does not."""

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
        directory: Whose they are.
        audit: Who read them.
        erasure: Erases them.
        metrics: `/metrics`.
        budget: `/v1/budget`.
        health: Health routes and `/v1/status`.
        models: `/v1/models`.
        knowledge: `/v1/kb`.
        presence: `/v1/agents`.
        demo: The demo desk, None where it is switched off.
        metrics_key: Bearer of `/metrics` from other machines; empty: from this machine only, unless nobody signs in.
        limiter: Requests of one identity.
    """

    authenticator: Authenticator
    tickets: TicketDesk
    origins: OriginPolicy
    store: Store
    directory: Directory
    audit: AuditLog
    erasure: Erasure
    metrics: Metrics
    budget: Budget
    health: Health
    models: ModelDesk
    knowledge: KnowledgeDesk
    demo: DemoDesk | None
    metrics_key: str = ""
    limiter: RateLimiter = field(default_factory=lambda: RateLimiter(REQUESTS_PER_S, REQUESTS_BURST))
    presence: Presence = field(default_factory=LocalPresence)


def build_api(deps: ApiDependencies, version: str) -> Litestar:
    """Build the HTTP application."""

    async def identify(request: ASGIConnection[Any, Any, Any, Any]) -> Identity:
        if not deps.origins.allows(request.headers.get("origin"), request.headers.get("host")):
            raise Forbidden("pages of this origin may not ask", field="Origin")
        authorization = request.headers.get("authorization")
        await deps.authenticator.prepare(authorization)
        identity = deps.authenticator.authenticate(authorization)
        if not identity.is_anonymous:
            deps.limiter.check((identity.tenant_id, identity.agent_id, identity.roles), time.monotonic())
        return identity

    async def admit(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        """Deny by default: a route that does not say who may come in lets nobody in."""
        match handler.opt.get("access"):
            case "public":
                return
            case "identity":
                connection.scope["state"]["identity"] = await identify(connection)
            case _:
                raise Forbidden("this route is closed")

    @get("/healthz", access="public", media_type=MediaType.JSON, summary="The process answers.")
    async def healthz() -> JsonObject:
        return {"live": True}

    @get(
        "/health/check",
        access="public",
        media_type=MediaType.JSON,
        summary="Health, as Live Call Analytics' clients ask for it.",
    )
    async def health_check() -> Response[JsonObject]:
        status = 200 if deps.health.is_ready else 503
        return Response({"Http-Status": status, "Healthy": deps.health.is_ready}, status_code=status)

    @get("/readyz", access="public", media_type=MediaType.JSON, summary="Models are warm and calls are accepted.")
    async def readyz() -> Response[JsonObject]:
        return Response({"ready": deps.health.is_ready}, status_code=200 if deps.health.is_ready else 503)

    @get("/metrics", access="public", media_type="text/plain; version=0.0.4", summary="Prometheus metrics.")
    async def metrics(request: Request[Any, Any, Any]) -> bytes:
        # A scraper belongs to no tenant and needs no identity; the numbers name no tenant either.
        sent = (request.headers.get("authorization") or "").encode("utf-8", "replace")
        is_known = deps.metrics_key and hmac.compare_digest(sent, f"Bearer {deps.metrics_key}".encode())
        if not is_known and (request.client is None or request.client.host not in LOOPBACK_HOSTS):
            raise Unauthorised("metrics are for this machine, or for the bearer of auth.metrics_key")
        return deps.metrics.render()

    @get("/v1/status", access="identity", summary="What this server is and can.")
    async def status(request: Request[Any, Any, Any]) -> JsonObject:
        identity = _identity(request)
        return {
            "version": version,
            "tenant_id": identity.tenant_id,
            "demo": deps.demo is not None and identity.is_anonymous,
            **deps.health.status(),
        }

    @get("/v1/budget", access="public", summary="The latency budget per stage, in milliseconds.")
    async def budget() -> JsonObject:
        return {
            "total_ms": deps.budget.total_ms,
            "target_ms": deps.budget.target_ms,
            "stages": deps.budget.stages,
        }

    @post("/v1/tickets", access="public", summary="A single-use ticket that opens the feed's socket.", status_code=201)
    async def tickets(request: Request[Any, Any, Any]) -> TicketResponse:
        authorization = request.headers.get("authorization")
        await deps.authenticator.prepare(authorization)
        return deps.tickets.issue(
            await read_body(request, MAX_TICKET_BYTES),
            authorization=authorization,
            origin=request.headers.get("origin"),
            host=request.headers.get("host"),
        )

    @post(
        "/v1/demo/calls",
        access="identity",
        summary="Play the demo call, or a two-channel recording sent as the body.",
        status_code=201,
    )
    async def demo_calls(request: Request[Any, Any, Any]) -> JsonObject:
        identity = _identity(request)
        if deps.demo is None or not identity.is_anonymous:
            raise NotFound("the demo is switched off")
        recording = await read_body(request, MAX_RECORDING_BYTES)
        return {"conversation_id": await deps.demo.play(recording or None, identity.tenant_id)}

    return Litestar(
        route_handlers=[
            healthz,
            health_check,
            readyz,
            metrics,
            status,
            budget,
            tickets,
            demo_calls,
            *agent_handlers(deps.presence),
            *conversation_handlers(deps.store, deps.directory, deps.audit, deps.erasure),
            *model_handlers(deps.models),
            *knowledge_handlers(deps.knowledge, deps.store),
            *page_handlers(),
        ],
        guards=[admit],
        exception_handlers={CuelineError: _known, HTTPException: _http, Exception: _unknown},
        openapi_config=OpenAPIConfig(
            title="Cueline",
            version=version,
            openapi_router=Router("/schema", route_handlers=[], opt={"access": "public"}),
            render_plugins=[JsonRenderPlugin(path="/")],
        ),
        request_max_body_size=MAX_RECORDING_BYTES,
        logging_config=None,
    )


def _identity(request: Request[Any, Any, Any]) -> Identity:
    identity: Identity = request.scope["state"]["identity"]  # from `admit`
    return identity


def _known(_: Request[Any, Any, Any], error: CuelineError) -> Response[Any]:
    return Response(_describe(error), status_code=error.status, media_type=MediaType.JSON)


def _http(_: Request[Any, Any, Any], error: HTTPException) -> Response[Any]:
    if isinstance(error, ValidationException):
        # The framework's own text repeats the address, and whatever stands in it.
        places = error.extra if isinstance(error.extra, list) else []
        wrong = next((place for place in places if isinstance(place, dict)), {})
        refused = BadRequest("a parameter is missing or not of its type", field=wrong.get("key"))
        return Response(_describe(refused), status_code=refused.status, media_type=MediaType.JSON)
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
