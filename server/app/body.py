"""The body of a request, up to a bound."""

from __future__ import annotations

from typing import Any

from litestar import Request

from server.wire.errors import TooLarge


async def read_body(request: Request[Any, Any, Any], max_bytes: int) -> bytes:
    """Read it whole; what is larger is refused while it comes in.

    Raises:
        TooLarge: It has more than `max_bytes` bytes.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise TooLarge(f"the body has more than {max_bytes} bytes")
    return bytes(body)
