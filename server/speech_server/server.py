"""The listening socket of the speech server."""

from __future__ import annotations

import hmac
import http
import logging
import ssl
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

import msgspec
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from server.speech.contract import Recogniser
from server.speech_server.faults import Faults
from server.speech_server.query import ListenOptions, parse
from server.speech_server.session import Session
from server.wire.errors import BadRequest, ConfigError

log = logging.getLogger(__name__)

LISTEN_PATH = "/v1/listen"
_MAX_FRAME_BYTES = 1024 * 1024
_MAX_WAITING_FRAMES = 64
_KEPT_REQUESTS = 100


class SpeechServer:
    """Deepgram's live endpoint on one address.

    Args:
        recogniser: Started; the server does not stop it.
        key: What clients have to present; empty: anyone may connect.
        faults: Asked once a connection.
    """

    def __init__(self, recogniser: Recogniser, *, key: str = "", faults: Callable[[], Faults] = Faults) -> None:
        self._recogniser = recogniser
        self._key = key
        self._faults = faults
        self._server: Server | None = None
        self._accepted: dict[ServerConnection, tuple[ListenOptions, Faults, str]] = {}
        self.requests: deque[tuple[ListenOptions, Headers]] = deque(maxlen=_KEPT_REQUESTS)
        """The newest accepted handshakes."""
        self.url = ""

    async def start(self, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
        """Listen; `url` then says where.

        Raises:
            ConfigError: The address is taken.
        """
        try:
            self._server = await serve(
                self._serve,
                host,
                port,
                ssl=tls,
                process_request=self._admit,
                process_response=self._name,
                select_subprotocol=_credentials_protocol,
                compression=None,
                max_size=_MAX_FRAME_BYTES,
                max_queue=_MAX_WAITING_FRAMES,
                ping_interval=None,  # the protocol has its own sign of life
            )
        except OSError as error:
            raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}", field="port") from None
        name, number = next(iter(self._server.sockets)).getsockname()[:2]
        self.url = f"{'wss' if tls else 'ws'}://{f'[{name}]' if ':' in name else name}:{number}"

    async def stop(self) -> None:
        """Close all connections."""
        if self._server is not None:
            self._server.close(code=1001, reason="shutting down")
            await self._server.wait_closed()

    def _admit(self, socket: ServerConnection, request: Request) -> Response | None:
        """Answer a handshake: None lets it become a socket."""
        request_id = str(uuid.uuid4())
        path = urlsplit(request.path).path
        if path in ("/healthz", "/v1/status"):
            return _answer(http.HTTPStatus.OK, {"ready": True})
        if path != LISTEN_PATH:
            return _answer(
                http.HTTPStatus.NOT_FOUND, {"err_code": "NOT_FOUND", "err_msg": f"only {LISTEN_PATH} is here"}
            )
        faults = self._faults()
        if faults.refuse:
            return _answer(http.HTTPStatus(faults.refuse), {"err_code": "REFUSED", "request_id": request_id})
        if self._key and not self._is_known(request.headers):
            return _answer(
                http.HTTPStatus.UNAUTHORIZED,
                {"err_code": "INVALID_AUTH", "err_msg": "Invalid credentials.", "request_id": request_id},
            )
        try:
            options = parse(request.path)
        except BadRequest as error:
            body = {"err_code": "INVALID_QUERY_PARAMETER", "err_msg": f"{error.field} {error.message}"}
            return _answer(http.HTTPStatus.BAD_REQUEST, {**body, "request_id": request_id})
        self._accepted[socket] = (options, faults, request_id)
        self.requests.append((options, request.headers))
        return None

    def _name(self, socket: ServerConnection, request: Request, response: Response) -> None:
        """Tell the client what its connection is called."""
        if socket in self._accepted:
            response.headers["dg-request-id"] = self._accepted[socket][2]

    def _is_known(self, headers: Headers) -> bool:
        scheme, _, credentials = headers.get("Authorization", "").partition(" ")
        if scheme.lower() not in ("token", "bearer"):
            # Browsers cannot set a header: they offer `token, KEY` as subprotocols.
            credentials = headers.get("Sec-WebSocket-Protocol", "").partition(",")[2]
        return hmac.compare_digest(credentials.strip().encode(), self._key.encode())

    async def _serve(self, socket: ServerConnection) -> None:
        options, faults, request_id = self._accepted.pop(socket)
        log.info("stream open", extra={"request_id": request_id, "channels": options.num_outputs})
        await Session(socket, options, self._recogniser, request_id, faults).run()


def _credentials_protocol(socket: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """A browser that offers its credentials as subprotocols wants one of them chosen."""
    return next((name for name in offered if name.lower() in ("token", "bearer")), None)


def _answer(status: http.HTTPStatus, body: dict[str, object]) -> Response:
    data = msgspec.json.encode(body)
    headers = Headers(
        [("Content-Type", "application/json"), ("Content-Length", str(len(data))), ("Connection", "close")]
    )
    if "err_msg" in body:
        headers["dg-error"] = str(body["err_msg"])
    return Response(status.value, status.phrase, headers, data)
