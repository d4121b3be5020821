"""Model versions over HTTP: what each does, promote, roll back. They serve all tenants: the role is `operator`."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import msgspec
from litestar import Request, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from inference.errors import ModelError
from inference.life.record import Stage
from inference.life.status import ModelStatus
from server.app.body import read_json
from server.auth.identity import Identity
from server.auth.rights import Action, Resource, require
from server.wire.errors import BadRequest, Conflict

MAX_PROMOTION_BYTES = 4096

JsonObject = dict[str, Any]


class ModelDesk(Protocol):
    """Who keeps the versions."""

    def status(self) -> list[ModelStatus]:
        """What every version does."""

    async def promote(self, model: str, version: int, *, stage: Stage = "", ratio: float = 0.0) -> None:
        """Let a version answer all calls, or put it on trial. Raises `ModelError`."""

    async def rollback(self, model: str) -> int:
        """Give up the candidate, or return to the previous version. Raises `ModelError`."""


class Promotion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of a promotion.

    Attributes:
        version: Its number.
        stage: What it is to do: answer `all` calls, a share of them, or be compared only.
        ratio: Share of the calls (canary) or rows (shadow).
    """

    version: int
    stage: Literal["all", "canary", "shadow"] = "all"
    ratio: float = 0.1


def model_handlers(desk: ModelDesk) -> list[HTTPRouteHandler]:
    """Build the routes below `/v1/models`."""

    @get("/v1/models", access="identity", summary="Every version of every model, and what it does.")
    async def models(request: Request[Any, Any, Any]) -> JsonObject:
        _require(request, "read")
        return {"models": msgspec.to_builtins(desk.status())}

    @post("/v1/models/{model:str}/promote", access="identity", summary="Let a version answer.", status_code=200)
    async def promote(request: Request[Any, Any, Any], model: FromPath[str]) -> JsonObject:
        _require(request, "operate")
        asked = await read_json(request, MAX_PROMOTION_BYTES, Promotion)
        if not 0.0 < asked.ratio <= 1.0:
            raise BadRequest("has to be above 0 and at most 1", field="ratio")
        stage: Stage = "" if asked.stage == "all" else asked.stage
        try:
            await desk.promote(model, asked.version, stage=stage, ratio=asked.ratio)
        except ModelError as error:
            raise Conflict(error.message) from error
        return {"models": msgspec.to_builtins(desk.status())}

    @post(
        "/v1/models/{model:str}/rollback", access="identity", summary="Go back to the version before.", status_code=200
    )
    async def rollback(request: Request[Any, Any, Any], model: FromPath[str]) -> JsonObject:
        _require(request, "operate")
        try:
            serving = await desk.rollback(model)
        except ModelError as error:
            raise Conflict(error.message) from error
        return {"serving": serving, "models": msgspec.to_builtins(desk.status())}

    return [models, promote, rollback]


def _require(request: Request[Any, Any, Any], action: Action) -> None:
    identity: Identity = request.scope["state"]["identity"]
    require(identity, action, Resource("server", identity.tenant_id))
