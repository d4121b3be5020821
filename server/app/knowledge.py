"""Knowledge bases over HTTP: ask, list, fill, go back, remove; and what was asked without an answer.

Every route acts on the identity's own tenant; a base of another does not exist for it. Agents ask, administrators
change. What a reader may see of a base is decided by their roles, which articles name as `rights`.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Protocol

import msgspec
from litestar import Request, delete, get, post, put
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, FromQuery

from inference.errors import InferenceError
from retrieval.article import Viewer
from retrieval.conversation import Query, build_query, parse_context
from retrieval.errors import RetrievalError
from retrieval.ingest import Report
from retrieval.manifest import Manifest
from retrieval.search import MAX_TOP_K, Answer
from server.app.body import read_body, read_json
from server.auth.identity import Identity
from server.auth.rights import Action, Resource, require
from server.knowledge.errors import as_cueline_error
from server.wire.errors import BadRequest
from server.wire.ids import TenantId

MAX_ARCHIVE_BYTES = 64 * 1024 * 1024
MAX_QUESTION_BYTES = 64 * 1024
MAX_UNANSWERED = 500

JsonObject = dict[str, Any]


class KnowledgeDesk(Protocol):
    """The bases of all tenants. Errors are those of the retrieval room."""

    async def search(
        self, tenant: str, name: str, query: Query, *, top_k: int = 3, viewer: Viewer | None = None
    ) -> Answer:
        """Search one of the tenant's bases."""

    async def manifests(self, tenant: str) -> list[Manifest]:
        """What the tenant's bases say of themselves."""

    async def fill(self, tenant: str, name: str, archive: bytes) -> Report:
        """Make a base hold what a ZIP holds."""

    async def rollback(self, tenant: str, name: str) -> int:
        """Search the generation before the current one again."""

    async def remove(self, tenant: str, name: str) -> None:
        """Remove a base."""


class UnansweredStore(Protocol):
    """Remembers questions."""

    async def unanswered(self, tenant_id: TenantId, limit: int) -> list[JsonObject]:
        """Questions that nothing answered."""


class Question(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of a search.

    Attributes:
        question: As asked.
        context: Turns before it, oldest first: objects of `speaker` and `text`, or strings of the customer.
        top_k: Most results.
    """

    question: str
    context: Any = None
    top_k: int = 3


def knowledge_handlers(desk: KnowledgeDesk, store: UnansweredStore) -> list[HTTPRouteHandler]:
    """Build the routes below `/v1/kb`."""

    @get("/v1/kb", access="identity", summary="Your tenant's knowledge bases.")
    async def bases(request: Request[Any, Any, Any]) -> JsonObject:
        identity = _allowed(request, "ask")
        return {"bases": msgspec.to_builtins(await desk.manifests(identity.tenant_id))}

    @get("/v1/kb/unanswered", access="identity", summary="Questions that were asked and not answered.")
    async def unanswered(request: Request[Any, Any, Any], limit: FromQuery[int] = 100) -> JsonObject:
        identity = _allowed(request, "read")
        if not 1 <= limit <= MAX_UNANSWERED:
            raise BadRequest(f"has to be between 1 and {MAX_UNANSWERED}", field="limit")
        return {"questions": await store.unanswered(identity.tenant_id, limit)}

    @post("/v1/kb/{name:str}/search", access="identity", summary="Ask a knowledge base.", status_code=200)
    async def search(request: Request[Any, Any, Any], name: FromPath[str]) -> JsonObject:
        identity = _allowed(request, "ask")
        asked = await read_json(request, MAX_QUESTION_BYTES, Question)
        if not 1 <= asked.top_k <= MAX_TOP_K:
            raise BadRequest(f"has to be between 1 and {MAX_TOP_K}", field="top_k")
        try:
            query = build_query(asked.question, parse_context(asked.context))
            viewer = Viewer(frozenset(identity.roles))
            answer = await desk.search(identity.tenant_id, name, query, top_k=asked.top_k, viewer=viewer)
        except (RetrievalError, InferenceError) as error:
            raise as_cueline_error(error) from error
        return {"query": query.question, "abstained": answer.abstained, "results": [asdict(r) for r in answer.results]}

    @put("/v1/kb/{name:str}", access="identity", summary="Make a base hold what a ZIP of articles holds.")
    async def fill(request: Request[Any, Any, Any], name: FromPath[str]) -> JsonObject:
        identity = _allowed(request, "operate")
        archive = await read_body(request, MAX_ARCHIVE_BYTES)
        try:
            report = await desk.fill(identity.tenant_id, name, archive)
        except (RetrievalError, InferenceError) as error:
            raise as_cueline_error(error) from error
        described: JsonObject = msgspec.to_builtins(report)
        return described

    @post("/v1/kb/{name:str}/rollback", access="identity", summary="Search the generation before.", status_code=200)
    async def rollback(request: Request[Any, Any, Any], name: FromPath[str]) -> JsonObject:
        identity = _allowed(request, "operate")
        try:
            return {"generation": await desk.rollback(identity.tenant_id, name)}
        except RetrievalError as error:
            raise as_cueline_error(error) from error

    @delete("/v1/kb/{name:str}", access="identity", summary="Remove a knowledge base.")
    async def remove(request: Request[Any, Any, Any], name: FromPath[str]) -> None:
        identity = _allowed(request, "operate")
        try:
            await desk.remove(identity.tenant_id, name)
        except RetrievalError as error:
            raise as_cueline_error(error) from error

    return [bases, unanswered, search, fill, rollback, remove]


def _allowed(request: Request[Any, Any, Any], action: Action) -> Identity:
    identity: Identity = request.scope["state"]["identity"]
    require(identity, action, Resource("tenant", identity.tenant_id))
    return identity
