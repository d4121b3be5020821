"""Serves the agent app: `/` is the page, `/app/…` its modules, styles and icon.

    static/ ──read once──▶ Asset(body, gzip, etag) ──▶ GET / and GET /app/{path}

All files are read into memory at start (about 100 KB), so that no request touches the disk, a missing file
stops the start, and a path outside the folder cannot exist. Browsers revalidate by `ETag` on each load: a new
release shows at once, an unchanged file costs a 304.

The content security policy allows same-origin modules, styles, images and connections and nothing else, and
demands trusted types, of which the page creates none: text can only be set as text.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

STATIC_FOLDER = Path(__file__).parent / "static"

# Litestar adds `charset=utf-8` to the textual ones.
_CONTENT_TYPES: Mapping[str, str] = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file as it is sent.

    Attributes:
        body: The file's bytes.
        gzipped: The same, compressed once at start.
        content_type: Media type.
        etag: Quoted hash of `body`.
    """

    body: bytes
    gzipped: bytes
    content_type: str
    etag: str


def load_assets(folder: Path = STATIC_FOLDER) -> dict[str, Asset]:
    """Read every file of the app; keys are paths below `folder` with forward slashes.

    Raises:
        FileNotFoundError: There is no `index.html`.
        ValueError: A file's type is not one the app serves.
    """
    assets: dict[str, Asset] = {}
    for path in sorted(file for file in folder.rglob("*") if file.is_file()):
        name = path.relative_to(folder).as_posix()
        if path.suffix not in _CONTENT_TYPES:
            raise ValueError(f"{name}: no content type is known for {path.suffix or 'a file without suffix'}")
        body = path.read_bytes()
        assets[name] = Asset(
            body=body,
            gzipped=gzip.compress(body, mtime=0),
            content_type=_CONTENT_TYPES[path.suffix],
            etag=f'"{hashlib.sha256(body).hexdigest()[:20]}"',
        )
    if "index.html" not in assets:
        raise FileNotFoundError(f"{folder} holds no index.html")
    return assets


def security_headers(frame_ancestors: Iterable[str] = ()) -> dict[str, str]:
    """Headers of every response of the app.

    Args:
        frame_ancestors: Origins that may show the app in a frame, such as a softphone's page; nobody by default.
    """
    ancestors = " ".join(frame_ancestors) or "'none'"
    policy = (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        f"base-uri 'none'; form-action 'none'; frame-ancestors {ancestors}; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )
    return {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
        "Vary": "Accept-Encoding",
    }


def page_handlers(folder: Path = STATIC_FOLDER, frame_ancestors: Iterable[str] = ()) -> list[HTTPRouteHandler]:
    """Build the handlers of `/` and `/app/…`; mount them on the application's root.

    Raises:
        FileNotFoundError: As `load_assets`.
        ValueError: As `load_assets`.
    """
    assets = load_assets(folder)
    headers = security_headers(frame_ancestors)

    def respond(request: Request[Any, Any, Any], name: str) -> Response[bytes]:
        asset = assets.get(name)
        if asset is None:
            return Response(b"not found", status_code=404, media_type="text/plain", headers=headers)
        asset_headers = headers | {"ETag": asset.etag}
        if asset.etag in request.headers.get("if-none-match", ""):
            return Response(b"", status_code=304, media_type=asset.content_type, headers=asset_headers)
        if "gzip" in request.headers.get("accept-encoding", ""):
            zipped = asset_headers | {"Content-Encoding": "gzip"}
            return Response(asset.gzipped, media_type=asset.content_type, headers=zipped)
        return Response(asset.body, media_type=asset.content_type, headers=asset_headers)

    @get("/", access="public", include_in_schema=False, name="agent_app")
    async def index(request: Request[Any, Any, Any]) -> Response[bytes]:
        return respond(request, "index.html")

    @get("/app/{name:path}", access="public", include_in_schema=False, name="agent_app_asset")
    async def asset(request: Request[Any, Any, Any], name: FromPath[str]) -> Response[bytes]:
        return respond(request, name.lstrip("/"))

    return [index, asset]
