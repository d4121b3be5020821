"""REST over stored conversations: read, list, erase. Every read is noted in the audit log before it is answered."""

from __future__ import annotations

import math
from typing import Any

import msgspec
from litestar import Request, Response, delete, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery

from server.audit.log import AuditLog
from server.auth.identity import Identity
from server.auth.rights import Action, Resource, require
from server.feed.access import Directory, resource_of
from server.log.contract import ChannelKey
from server.privacy.erasure import Erasure, ErasureReceipt
from server.store.contract import Store
from server.wire.errors import BadRequest, Forbidden, NotFound
from server.wire.ids import ExternalId, call_channel

DEFAULT_PAGE = 50
MAX_PAGE = 200

JsonObject = dict[str, Any]


def conversation_handlers(
    store: Store, directory: Directory, audit: AuditLog, erasure: Erasure
) -> list[HTTPRouteHandler]:
    """Build the handlers of `/v1/conversations`, `/v1/customers` and `/v1/erasures`."""

    async def allow(identity: Identity, action: Action, resource: Resource, what: str) -> None:
        try:
            require(identity, action, resource)
        except Forbidden:
            await audit.note(identity, action, what, outcome="refused")
            raise
        await audit.note(identity, action, what)

    @get("/v1/conversations", access="identity", summary="Conversations, newest first.")
    async def conversations(
        request: Request[Any, Any, Any], limit: FromQuery[int] = DEFAULT_PAGE, before_ms: FromQuery[float | None] = None
    ) -> JsonObject:
        identity = identity_of(request)
        await allow(identity, "list", Resource("tenant", identity.tenant_id), "conversations")
        if not 1 <= limit <= MAX_PAGE:
            raise BadRequest(f"has to be between 1 and {MAX_PAGE}", field="limit")
        if before_ms is not None and not math.isfinite(before_ms):
            raise BadRequest("has to be a number", field="before_ms")
        found = await store.conversations(identity.tenant_id, limit=limit, before_ms=before_ms)
        return {"conversations": found}

    @get("/v1/conversations/{conversation_id:str}", access="identity", summary="One conversation, whole.")
    async def conversation(request: Request[Any, Any, Any], conversation_id: FromPath[str]) -> JsonObject:
        identity = identity_of(request)
        ch = call_channel(_checked(conversation_id, "conversation_id"))
        try:
            await allow(identity, "read", await resource_of(directory, ChannelKey(identity.tenant_id, ch)), ch)
        except Forbidden:
            # One that may not be read is told apart from none at all by nobody.
            raise NotFound("there is no such conversation") from None
        found = await store.conversation(identity.tenant_id, conversation_id)
        if found is None:
            raise NotFound("there is no such conversation")
        return found

    @delete(
        "/v1/conversations/{conversation_id:str}",
        access="identity",
        status_code=200,
        summary="Erase a conversation everywhere; answers a receipt.",
    )
    async def erase_conversation(
        request: Request[Any, Any, Any], conversation_id: FromPath[str]
    ) -> Response[ErasureReceipt]:
        identity = identity_of(request)
        name = _checked(conversation_id, "conversation_id")
        await _may_erase(identity, audit, call_channel(name))
        return _answer(await erasure.erase(identity, [name]))

    @delete(
        "/v1/customers/{customer_id:str}",
        access="identity",
        status_code=200,
        summary="Erase every conversation of a customer everywhere; answers a receipt.",
    )
    async def erase_customer(request: Request[Any, Any, Any], customer_id: FromPath[str]) -> Response[ErasureReceipt]:
        identity = identity_of(request)
        name = _checked(customer_id, "customer_id")
        await _may_erase(identity, audit, f"customer:{name}")
        return _answer(await erasure.erase_customer(identity, name))

    @get("/v1/erasures/{receipt_id:str}", access="identity", summary="What the store says of an erasure.")
    async def erasures(request: Request[Any, Any, Any], receipt_id: FromPath[str]) -> JsonObject:
        identity = identity_of(request)
        require(identity, "read", Resource("tenant", identity.tenant_id))
        found = await erasure.receipt(identity.tenant_id, receipt_id)
        if not found:
            raise NotFound("no such erasure has reached the store")
        return {"receipt_id": receipt_id, "conversations": found}

    return [conversations, conversation, erase_conversation, erase_customer, erasures]


def identity_of(request: Request[Any, Any, Any]) -> Identity:
    """Whoever the door let in."""
    identity: Identity = request.scope["state"]["identity"]
    return identity


async def _may_erase(identity: Identity, audit: AuditLog, what: str) -> None:
    try:
        require(identity, "erase", Resource("call", identity.tenant_id))
    except Forbidden:
        await audit.note(identity, "erase", what, outcome="refused")
        raise


def _checked(name: str, field: str) -> str:
    try:
        return msgspec.convert(name, ExternalId)
    except msgspec.ValidationError:
        raise BadRequest("is not an id", field=field) from None


def _answer(receipt: ErasureReceipt) -> Response[ErasureReceipt]:
    """200: done. 202: will be done. 503: ask again."""
    return Response(receipt, status_code={"complete": 200, "pending": 202, "failed": 503}[receipt.state])
