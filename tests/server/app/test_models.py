"""The routes of model versions: who may, what is asked of the keeper, what is answered when it cannot."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from litestar import Litestar
from litestar.testing import TestClient

from inference.errors import ModelError
from inference.life.status import ModelStatus, VersionStatus
from server.app.api import _known
from server.app.models import model_handlers
from server.auth.identity import Identity, Role
from server.wire.errors import CuelineError
from server.wire.ids import TenantId


class Desk:
    def __init__(self) -> None:
        self.asked: list[Any] = []

    def status(self) -> list[ModelStatus]:
        versions = [VersionStatus(version=1, state="serving", is_proven=True)]
        return [
            ModelStatus(
                model="utterance", serving=1, previous=None, probation_s=0.0, rollout="direct", versions=versions
            )
        ]

    async def promote(self, model: str, version: int, *, stage: str = "", ratio: float = 0.0) -> None:
        self.asked.append((model, version, stage, ratio))
        if version == 7:
            raise ModelError("there is no such version, there is 1", path="utterance/7")

    async def rollback(self, model: str) -> int:
        self.asked.append(model)
        if model == "other":
            raise ModelError("there is no version to go back to", path=model)
        return 1


class Rig:
    def __init__(self) -> None:
        self.desk = Desk()
        self.roles: set[Role] = {"operator"}

        async def admit(connection: Any, _: Any) -> None:
            connection.scope["state"]["identity"] = Identity(TenantId("t"), None, frozenset(self.roles))

        app = Litestar(
            model_handlers(self.desk), guards=[admit], exception_handlers={CuelineError: _known}, logging_config=None
        )
        self.client = TestClient(app)


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    with rig.client:
        yield rig


def test_an_operator_sees_and_switches_versions(rig: Rig) -> None:
    (model,) = rig.client.get("/v1/models").json()["models"]
    assert (model["serving"], model["versions"][0]["state"]) == (1, "serving")
    assert rig.client.post("/v1/models/utterance/promote", json={"version": 2}).status_code == 200
    body = {"version": 2, "stage": "canary", "ratio": 0.25}
    assert rig.client.post("/v1/models/utterance/promote", json=body).status_code == 200
    assert rig.client.post("/v1/models/utterance/rollback").json()["serving"] == 1
    assert rig.desk.asked == [("utterance", 2, "", 0.1), ("utterance", 2, "canary", 0.25), "utterance"]


@pytest.mark.parametrize("role", ["agent", "supervisor", "telephony", "admin"])
def test_models_serve_all_tenants_so_no_role_of_a_tenant_touches_them(rig: Rig, role: Role) -> None:
    rig.roles = {role}
    answers = [
        rig.client.get("/v1/models"),
        rig.client.post("/v1/models/utterance/promote", json={"version": 2}),
        rig.client.post("/v1/models/utterance/rollback"),
    ]
    assert {answer.status_code for answer in answers} == {403}
    assert rig.desk.asked == []


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        (b"{", None, "the body is not valid JSON"),
        (b'{"version":' + b"[" * 2000, "version", "got `array`"),
        (b'{"version": 2, "x":' + b" " * 5000 + b"1}", None, "more than 4096"),
        (b"{}", "version", "missing"),
        (b'{"version": 2, "stage": "half"}', "stage", "not one of those allowed"),
        (b'{"version": 2, "ratio": 0}', "ratio", "above 0"),
        (b'{"version": 2, "shade": 1}', None, "shade"),
    ],
)
def test_a_promotion_that_makes_no_sense_is_refused(rig: Rig, body: bytes, field: str | None, message: str) -> None:
    answer = rig.client.post("/v1/models/utterance/promote", content=body)
    assert answer.status_code in (400, 413)
    assert answer.json().get("field") == field
    assert message in answer.json()["message"]
    assert rig.desk.asked == []


def test_what_the_keeper_cannot_do_is_a_conflict_with_its_words(rig: Rig) -> None:
    answer = rig.client.post("/v1/models/utterance/promote", json={"version": 7})
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert "there is no such version, there is 1" in answer.json()["message"]
    assert rig.client.post("/v1/models/other/rollback").status_code == 409
