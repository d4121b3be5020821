"""What serves the page: types, security headers, caching, and nothing outside the folder."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from litestar import Litestar
from litestar.testing import TestClient

from server.app.page import STATIC_FOLDER, load_assets, page_handlers


@pytest.fixture
def client() -> Iterator[TestClient[Any]]:
    with TestClient(Litestar(route_handlers=page_handlers(), openapi_config=None)) as client:
        yield client


def test_the_page_is_served_at_the_root(client: TestClient[Any]) -> None:
    answer = client.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.content == (STATIC_FOLDER / "index.html").read_bytes()


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("main.js", "text/javascript; charset=utf-8"),
        ("view/dom.js", "text/javascript; charset=utf-8"),
        ("app.css", "text/css; charset=utf-8"),
        ("icon.svg", "image/svg+xml"),
    ],
)
def test_modules_styles_and_icon(client: TestClient[Any], name: str, content_type: str) -> None:
    answer = client.get(f"/app/{name}")
    assert (answer.status_code, answer.headers["content-type"]) == (200, content_type)
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_everything_carries_a_policy_without_exceptions(client: TestClient[Any]) -> None:
    for path in ("/", "/app/main.js", "/app/none"):
        policy = client.get(path).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy


def test_a_softphone_may_be_allowed_to_frame_it() -> None:
    handlers = page_handlers(frame_ancestors=["https://desk.example.com"])
    with TestClient(Litestar(route_handlers=handlers, openapi_config=None)) as client:
        assert "frame-ancestors https://desk.example.com;" in client.get("/").headers["content-security-policy"]


def test_an_unchanged_file_is_not_sent_again(client: TestClient[Any]) -> None:
    first = client.get("/app/main.js")
    assert first.headers["cache-control"] == "no-cache"
    again = client.get("/app/main.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/app/main.js", headers={"If-None-Match": '"other"'}).status_code == 200


def test_compressed_only_for_those_who_ask(client: TestClient[Any]) -> None:
    plain = client.get("/app/app.css", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    zipped = client.get("/app/app.css", headers={"Accept-Encoding": "gzip"})
    assert zipped.headers["content-encoding"] == "gzip"
    assert zipped.content == plain.content
    assert zipped.headers["vary"] == "Accept-Encoding"


@pytest.mark.parametrize(
    "path", ["/app/none.js", "/app/../page.py", "/app/%2e%2e/page.py", "/app//etc/passwd", "/app/"]
)
def test_nothing_else_is_served(client: TestClient[Any], path: str) -> None:
    assert client.get(path).status_code == 404


def test_a_folder_without_page_or_with_unknown_files_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"index\.html"):
        load_assets(tmp_path)
    (tmp_path / "index.html").write_text("<p>")
    assert gzip.decompress(load_assets(tmp_path)["index.html"].gzipped) == b"<p>"
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match=r"notes\.txt"):
        load_assets(tmp_path)
