"""The body of a request, up to a bound of size and of time."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import msgspec
from litestar import Request

from server.wire.codec import DECODE_ERRORS, bad_message
from server.wire.errors import TimedOut, TooLarge

BODY_TIMEOUT_S = 60.0
"""A sender that drips would hold its connection and what it sent so far for ever."""

T = TypeVar("T")


async def read_body(request: Request[Any, Any, Any], max_bytes: int, *, timeout_s: float = BODY_TIMEOUT_S) -> bytes:
    """Read it whole; what is larger is refused while it comes in.

    Raises:
        TooLarge: It has more than `max_bytes` bytes.
        TimedOut: It was not complete within `timeout_s`.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > max_bytes:
                    raise TooLarge(f"the body has more than {max_bytes} bytes")
    except TimeoutError:
        raise TimedOut(f"the body was not complete within {timeout_s:.0f} s") from None
    return bytes(body)


async def read_json(request: Request[Any, Any, Any], max_bytes: int, kind: type[T]) -> T:
    """Read a JSON body of one kind.

    Raises:
        BadMessage: It is none; names the field.
        TooLarge: As `read_body`.
        TimedOut: As `read_body`.
    """
    body = await read_body(request, max_bytes)
    try:
        return msgspec.json.decode(body, type=kind)
    except DECODE_ERRORS as error:
        raise bad_message(error, what="body") from None
