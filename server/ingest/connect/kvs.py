"""Kinesis Video Streams through the AWS client library: where to connect, and the bytes of one `GetMedia` call.

    GetDataEndpoint(stream) ─▶ endpoint ─▶ GetMedia(start) ─▶ bytes as they come

Retries are the caller's, who knows where to go on; the library's own are off. What happened is told by type:
`Unavailable` may be tried again, `Forbidden`, `NotFound` and `BadRequest` will not get better. The library is the
extra `aws`. Source: PROTOCOLS b2, OPERATIONS d3.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final

from server.wire.errors import BadRequest, ConfigError, CuelineError, Forbidden, NotFound, Unavailable

READ_BYTES: Final = 64 * 1024
"""At most so much at once; what is there is taken without waiting for more."""
CONNECT_TIMEOUT_S: Final = 5.0
_PERMANENT: Final[dict[str, type[CuelineError]]] = {
    "ResourceNotFoundException": NotFound,
    "NotAuthorizedException": Forbidden,
    "AccessDeniedException": Forbidden,
    "AccessDenied": Forbidden,
    "InvalidArgumentException": BadRequest,
    "InvalidSignatureException": Forbidden,
    "UnrecognizedClientException": Forbidden,
    "ExpiredTokenException": Unavailable,
}

StartSelector = Mapping[str, Any]


def from_time(start_ms: float) -> StartSelector:
    """Begin with the fragment that holds this producer time."""
    return {
        "StartSelectorType": "PRODUCER_TIMESTAMP",
        "StartTimestamp": datetime.fromtimestamp(start_ms / 1000, tz=UTC),
    }


def after(token: str) -> StartSelector:
    """Go on after the fragment that gave this token."""
    return {"StartSelectorType": "CONTINUATION_TOKEN", "ContinuationToken": token}


class Media:
    """The body of one `GetMedia` call."""

    def __init__(self, payload: Any) -> None:
        self._payload = payload

    async def read(self) -> bytes:
        """Bytes as they came; empty at the end of the body.

        Raises:
            Unavailable: The connection broke.
        """
        try:
            return bytes(await self._payload.read(READ_BYTES))
        except Exception as error:
            raise _translate(error) from error


class KinesisVideo:
    """One AWS account and region. Use as an asynchronous context.

    Args:
        region: AWS region; empty takes it from the environment or the stream.
        endpoint_url: Address of the control plane, for a simulator or a VPC endpoint; empty for Amazon's own.
        read_timeout_s: A connection on which nothing comes for so long is broken.
        max_streams: Streams read at once.

    Raises:
        ConfigError: The extra `aws` is not installed.
    """

    def __init__(self, region: str, endpoint_url: str, *, read_timeout_s: float, max_streams: int) -> None:
        try:
            from aiobotocore.config import AioConfig  # the extra `aws`
            from aiobotocore.session import get_session
        except ImportError as error:
            raise ConfigError("needs the extra aws: pip install 'cueline[aws]'", field="connect") from error
        self._session = get_session()
        self._options: dict[str, Any] = {
            "region_name": region or self._session.get_config_variable("region") or "us-east-1",
            "config": AioConfig(
                connect_timeout=CONNECT_TIMEOUT_S,
                read_timeout=read_timeout_s,
                max_pool_connections=max_streams + 8,
                retries={"total_max_attempts": 1},
            ),
        }
        self._endpoint_url = endpoint_url or None
        self._stack = AsyncExitStack()
        self._control: Any = None
        self._endpoints: dict[str, str] = {}
        self._media: dict[str, Any] = {}

    async def __aenter__(self) -> KinesisVideo:
        """Load the library's service model now, which takes a moment, rather than with the first call waiting."""
        self._control = await self._client("kinesisvideo", self._endpoint_url)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close all connections."""
        await self._stack.aclose()

    @asynccontextmanager
    async def media(self, stream_arn: str, start: StartSelector) -> AsyncIterator[Media]:
        """Call `GetMedia`.

        Raises:
            Unavailable: Throttled, a server error, or no connection.
            CuelineError: Not allowed, or no such stream.
        """
        try:
            client = await self._media_client(stream_arn)
            answer = await client.get_media(StreamARN=stream_arn, StartSelector=start)
        except Exception as error:
            # The stream may have moved: ask again where it is.
            self._endpoints.pop(stream_arn, None)
            raise _translate(error) from error
        async with answer["Payload"] as payload:
            yield Media(payload)

    async def _media_client(self, stream_arn: str) -> Any:
        endpoint = self._endpoints.get(stream_arn)
        if endpoint is None:
            answer = await self._control.get_data_endpoint(StreamARN=stream_arn, APIName="GET_MEDIA")
            endpoint = self._endpoints[stream_arn] = answer["DataEndpoint"]
        if endpoint not in self._media:
            self._media[endpoint] = await self._client("kinesis-video-media", endpoint)
        return self._media[endpoint]

    async def _client(self, service: str, endpoint_url: str | None) -> Any:
        return await self._stack.enter_async_context(
            self._session.create_client(service, endpoint_url=endpoint_url, **self._options)
        )


def _translate(error: Exception) -> CuelineError:
    """What an error of the library or its transport means to us; its text may hold request details, its code not."""
    if isinstance(error, CuelineError):
        return error
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        code = str(response.get("Error", {}).get("Code", ""))
        status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        kind = _PERMANENT.get(code) or (Forbidden if status in (401, 403) else Unavailable)
        return kind(f"Kinesis Video Streams answered {code or status}", field="stream_arn")
    if type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError"):
        return Forbidden("no AWS credentials were found")
    return Unavailable(f"the connection to Kinesis Video Streams broke: {type(error).__name__}")
