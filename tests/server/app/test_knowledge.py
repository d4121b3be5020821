"""Knowledge bases over HTTP, with real bases behind."""

import httpx
import pytest
from litestar import Litestar
from litestar.connection import ASGIConnection
from litestar.exceptions import HTTPException

from server.app.api import _http, _known
from server.app.knowledge import knowledge_handlers
from server.auth.identity import Identity
from server.knowledge import upload
from server.wire.errors import CuelineError
from tests.server.knowledge.conftest import articles, library  # noqa: F401
from tests.server.knowledge.test_upload import archive


class Unanswered:
    async def unanswered(self, tenant_id, limit):
        return [{"conversation_id": "c1", "question": f"{tenant_id} asked"}][:limit]


@pytest.fixture
def client(library):  # noqa: F811
    def identify(connection: ASGIConnection, handler) -> None:
        tenant, _, role = connection.headers["x-who"].partition("/")
        connection.scope["state"]["identity"] = Identity(tenant, "a1", frozenset({role}))

    application = Litestar(
        knowledge_handlers(library, Unanswered()),
        guards=[identify],
        exception_handlers={CuelineError: _known, HTTPException: _http},
    )
    transport = httpx.ASGITransport(application)

    async def ask(method, path, who="shop/agent", **body):
        async with httpx.AsyncClient(transport=transport, base_url="http://cueline.example") as http:
            return await http.request(method, path, headers={"x-who": who}, **body)

    return ask


async def test_an_agent_asks_and_is_told_where_it_stands(client):
    answer = await client("POST", "/v1/kb/faq/search", json={"question": "how long does a refund for a jacket take"})
    found = answer.json()
    assert (answer.status_code, found["abstained"]) == (200, False)
    assert found["results"][0]["source"] == "refund.md"
    nothing = await client("POST", "/v1/kb/faq/search", json={"question": "zebra quantum lasagne"})
    assert nothing.json() == {"query": "zebra quantum lasagne", "abstained": True, "results": []}


async def test_a_parameter_of_another_type_is_named_and_not_repeated(client):
    answer = await client("GET", "/v1/kb/unanswered?limit=secret&x=secret", who="shop/supervisor")
    assert (answer.status_code, answer.json()["field"]) == (400, "limit")
    assert "secret" not in answer.text


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"question": ""}, "question"),
        ({"question": "x", "top_k": 0}, "top_k"),
        ({"question": "x", "context": [{"speaker": 1, "text": "y"}]}, "context[0].speaker"),
        ({"question": "x", "context": [{"speaker": "boss", "text": "y"}]}, "context[0].speaker"),
        ({"question": "x", "tenant": "other"}, None),
        ({}, "question"),
    ],
)
async def test_a_wrong_question_names_its_field(client, body, field):
    answer = await client("POST", "/v1/kb/faq/search", json=body)
    assert (answer.status_code, answer.json().get("field")) == (400, field)
    assert field is None or not answer.json()["message"].startswith(field)


async def test_anothers_base_is_none(client):
    for path in ("/v1/kb/faq/search", "/v1/kb/nothing/search"):
        answer = await client("POST", path, "other/agent", json={"question": "refund"})
        assert answer.status_code == 404
    assert (await client("GET", "/v1/kb", "other/agent")).json() == {"bases": []}
    assert [base["base"] for base in (await client("GET", "/v1/kb")).json()["bases"]] == ["faq"]


async def test_agents_ask_and_administrators_change(client):
    body = archive(**{"new.md": "# Gift wrapping\n\nGift wrapping costs four dollars.\n"})
    for method, path in (("PUT", "/v1/kb/faq"), ("DELETE", "/v1/kb/faq"), ("POST", "/v1/kb/faq/rollback")):
        assert (await client(method, path, content=body)).status_code == 403
    report = (await client("PUT", "/v1/kb/faq", "shop/admin", content=body)).json()
    assert (report["articles_new"], report["articles_gone"]) == (1, 2)
    question = {"question": "what does gift wrapping cost"}
    assert (await client("POST", "/v1/kb/faq/search", json=question)).json()["results"][0]["source"] == "new.md"
    assert (await client("POST", "/v1/kb/faq/rollback", "shop/admin")).json() == {"generation": 1}
    refused = await client("POST", "/v1/kb/faq/rollback", "shop/admin")
    assert (refused.status_code, refused.json()["field"]) == (409, "kb")
    assert (await client("POST", "/v1/kb/faq/search", json=question)).json()["abstained"]
    assert (await client("DELETE", "/v1/kb/faq", "shop/admin")).status_code == 204
    assert (await client("POST", "/v1/kb/faq/search", json=question)).status_code == 404
    assert (await client("DELETE", "/v1/kb/faq", "shop/admin")).status_code == 404


async def test_an_archive_without_an_article_changes_nothing(client):
    for body in (b"no zip", archive(), archive(**{"photo.png": "x"})):
        answer = await client("PUT", "/v1/kb/faq", "shop/admin", content=body)
        assert (answer.status_code, answer.json()["field"]) == (400, "body")
    assert (await client("GET", "/v1/kb")).json()["bases"][0]["generation"] == 1


async def test_an_archive_with_rules_that_cannot_be_read_is_told_without_its_field_twice(client):
    body = archive(**{"new.md": "# Gifts\n\nGift wrapping costs four dollars.\n", "access.yaml": "- no mapping"})
    told = (await client("PUT", "/v1/kb/faq", "shop/admin", content=body)).json()
    assert (told["code"], told["field"]) == ("bad_request", "access.yaml")
    assert "access.yaml" not in told["message"]


async def test_an_archive_that_unpacks_to_more_than_a_base_takes_changes_nothing(client, monkeypatch):
    monkeypatch.setattr(upload, "MAX_TOTAL_BYTES", 2500)
    body = archive(**{f"{name}.md": "# A\n\n" + "a " * 450 for name in "abc"})
    answer = await client("PUT", "/v1/kb/faq", "shop/admin", content=body)
    assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (413, "too_large", "body")
    assert (await client("GET", "/v1/kb")).json()["bases"][0]["generation"] == 1


async def test_a_base_that_is_being_filled_may_be_tried_again(client, library):  # noqa: F811
    body = archive(**{"new.md": "# Gifts\n\nGift wrapping costs four dollars.\n"})
    with library.store("shop", "faq").writing():
        for method in ("PUT", "DELETE"):
            answer = await client(method, "/v1/kb/faq", "shop/admin", content=body)
            assert (answer.status_code, answer.json()["retryable"]) == (409, True)
    assert (await client("PUT", "/v1/kb/faq", "shop/admin", content=body)).status_code == 200


async def test_what_was_not_answered_is_for_who_writes_the_articles(client):
    assert (await client("GET", "/v1/kb/unanswered")).status_code == 403
    answer = await client("GET", "/v1/kb/unanswered", "shop/admin")
    assert answer.json()["questions"][0]["question"] == "shop asked"
    assert (await client("GET", "/v1/kb/unanswered?limit=0", "shop/admin")).status_code == 400
