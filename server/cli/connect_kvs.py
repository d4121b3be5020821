"""`cueline connect-kvs`: Amazon Connect's audio, from Kinesis Video Streams to the server."""

from __future__ import annotations

import os
import time
from contextlib import AsyncExitStack
from pathlib import Path

import click
import uvloop

from server.auth.claims import ClaimRules
from server.auth.key_set import KeySet
from server.auth.tokens import (
    AnonymousAuthenticator,
    Authenticator,
    KeySetAuthenticator,
    SharedKeyAuthenticator,
    issue_token,
)
from server.cli import logs
from server.config import load_settings
from server.config.settings import AuthSettings, Settings
from server.ingest.connect.cursor import CursorFolder
from server.ingest.connect.http import EVENTS_PATH, EventDoor
from server.ingest.connect.kvs import KinesisVideo
from server.ingest.connect.listen import listening, told_to_stop
from server.ingest.connect.service import ConnectService, Tokens
from server.metrics import Metrics
from server.wire.ids import TenantId

TOKEN_TTL_S = 24 * 3600.0
"""Longer than any call: a token is drawn anew for each connection."""
READ_TIMEOUT_MARGIN_S = 5.0


@click.command("connect-kvs")
@click.option("--config", type=click.Path(path_type=Path), help="TOML file, as for serve; CUELINE_* variables win.")
@click.option("--host", help="Address for contact events. [127.0.0.1]")
@click.option("--port", type=int, help="Port for contact events; 0 takes a free one. [8090]")
@click.option("--url", envvar="CUELINE_URL", help="The Cueline server. [ws://127.0.0.1:8080]")
@click.option("--token", envvar="CUELINE_TOKEN", help="Bearer token for the server. [signed with auth.shared_key]")
@click.option("--region", help="AWS region. [the AWS environment's]")
@click.option("--endpoint-url", help="Kinesis Video Streams, where it is not Amazon's own: a simulator, say.")
def connect_kvs(
    config: Path | None,
    host: str | None,
    port: int | None,
    url: str | None,
    token: str | None,
    region: str | None,
    endpoint_url: str | None,
) -> None:
    """Read contacts of Amazon Connect and stream them to the server.

    A contact begins with the event of its contact flow and ends with its contact event, both sent to
    /v1/connect/events. Where each contact stands is kept in the data directory: another process that shares it goes
    on with the contacts of one that died, without losing a sample.
    """
    settings = load_settings(
        config,
        os.environ,
        {
            "connect.host": host,
            "connect.port": port,
            "connect.server_url": url.rstrip("/") if url else None,
            "connect.token": token,
            "connect.region": region,
            "connect.endpoint_url": endpoint_url,
        },
    )
    logs.configure(settings.log_level)
    uvloop.run(_run(settings))


async def _run(settings: Settings) -> None:
    connect = settings.connect
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        authenticator = await _authenticator(settings.auth, stack)
        kinesis = await stack.enter_async_context(
            KinesisVideo(
                connect.region,
                connect.endpoint_url,
                read_timeout_s=connect.stall_s + READ_TIMEOUT_MARGIN_S,
                max_streams=connect.max_contacts,
            )
        )
        service = ConnectService(
            CursorFolder(settings.data_path / "connect"), kinesis, connect, metrics, _tokens(settings)
        )
        door = EventDoor(
            service, authenticator, metrics, settings.auth.metrics_key, agents_by_arn=connect.agents_by_arn
        )
        stack.push_async_callback(service.stop)
        url = await stack.enter_async_context(listening(door, connect.host, connect.port, field="connect.port"))
        await service.start()
        click.echo(f"  contact events  POST {url}{EVENTS_PATH}", err=True)
        click.echo(f"  server          {connect.server_url}", err=True)
        await told_to_stop()


async def _authenticator(auth: AuthSettings, stack: AsyncExitStack) -> Authenticator:
    if auth.is_anonymous:
        return AnonymousAuthenticator(auth.default_tenant, auth.default_agent)
    rules = ClaimRules(auth.claims_prefix, auth.issuer, auth.audience)
    if auth.shared_key:
        return SharedKeyAuthenticator(auth.shared_key, rules)
    keys = KeySet(auth.jwks)
    await keys.start()
    stack.push_async_callback(keys.stop)
    return KeySetAuthenticator(keys, rules)


def _tokens(settings: Settings) -> Tokens:
    def token(tenant_id: TenantId) -> str | None:
        if settings.connect.token or not settings.auth.shared_key:
            return settings.connect.token or None
        return issue_token(
            settings.auth.shared_key,
            tenant_id=tenant_id,
            agent_id=None,
            roles=("telephony",),
            ttl_s=TOKEN_TTL_S,
            wall_s=time.time(),
        )

    return token
