"""`cueline feed`: a call's feed as an agent sees it, for people and for programs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import click
import uvloop
from rich.console import Console

from server.cli.feed_view import FeedView
from server.log.contract import Position
from server.replay.feed_client import (
    Connected,
    Disconnected,
    Event,
    FeedClient,
    Received,
    Refused,
    Subscribed,
    Unsubscribed,
)
from server.wire import codec, ids
from server.wire import feed as wire
from server.wire.errors import Forbidden, Unavailable
from server.wire.publication import Publication

DEFAULT_URL = "ws://127.0.0.1:8080"
QUIET_S = 1.0
"""A call that ended and says nothing for so long has said everything."""


@click.command()
@click.option("--conversation", required=True, help="Whose feed.")
@click.option("--from", "position", metavar="EPOCH:OFFSET", help="Continue after this position.")
@click.option("--json", "is_json", is_flag=True, help="One publication a line, as it came.")
@click.option("--follow", is_flag=True, help="Stay when the call has ended.")
@click.option("--url", envvar="CUELINE_URL", default=DEFAULT_URL, show_default=True, help="The server.")
@click.option("--tenant", help="Tenant; the server's default, or the token's.")
@click.option("--token", envvar="CUELINE_TOKEN", help="Bearer token, where the server wants one.")
def feed(
    conversation: str,
    position: str | None,
    is_json: bool,
    follow: bool,
    url: str,
    tenant: str | None,
    token: str | None,
) -> None:
    """Print a call's feed as an agent sees it, until the call has ended. Reconnects by itself.

    With --json the standard output has one publication a line; a line with the type "subscribed" says that
    publications were lost and the latest of every state follows.
    """
    channel = ids.call_channel(conversation)
    client = FeedClient(url, tenant_id=tenant, token=token)
    start = _parse_position(position)
    if is_json:
        uvloop.run(_follow(client, channel, start, _JsonLines(), stay=follow))
    else:
        with FeedView(Console(highlight=False)) as view:
            uvloop.run(_follow(client, channel, start, _View(view), stay=follow))


class _JsonLines:
    """Publications as they came on standard output, the connection's fate on standard error."""

    def publication(self, publication: Publication) -> None:
        click.echo(codec.json_encoder.encode(publication))

    def lost(self, event: Subscribed) -> None:
        position = event.position
        told = wire.Subscribed(ch=event.ch, recovered=False, ep=position.epoch, off=position.offset, tail=[])
        click.echo(codec.json_encoder.encode(told))

    def note(self, text: str) -> None:
        click.echo(text, err=True)


class _View:
    """For people."""

    def __init__(self, view: FeedView) -> None:
        self._view = view

    def publication(self, publication: Publication) -> None:
        self._view.show(publication)

    def lost(self, event: Subscribed) -> None:
        self._view.forget()
        self._view.note("part of the feed was lost; the latest state follows", "yellow")

    def note(self, text: str) -> None:
        self._view.note(text)


async def _follow(
    client: FeedClient, channel: str, position: Position | None, out: _JsonLines | _View, *, stay: bool
) -> None:
    await client.subscribe(channel, position)
    has_ended = False
    async with client:
        events = client.events()
        while (event := await _next(events, QUIET_S if has_ended and not stay else None)) is not None:
            match event:
                case Received(publication):
                    out.publication(publication)
                    if publication.kind == "call":
                        has_ended = publication.d["state"] == "ended"
                case Subscribed() if event.is_lost:
                    out.lost(event)
                case Refused(error):
                    raise Forbidden(error.message, field=error.field)
                case Unsubscribed(_, reason):
                    raise Forbidden(f"the server ended the subscription: {reason}")
                case Disconnected(code, reason, is_final):
                    if is_final or client.num_connections == 0:
                        raise Unavailable(reason or f"the server closed the feed with {code}")
                    out.note(f"disconnected ({code} {reason}), coming back …")
                case Connected() if client.num_connections > 1:
                    out.note("connected again")


async def _next(events: AsyncIterator[Event], timeout_s: float | None) -> Event | None:
    """The next event, None when there are no more or none came in time."""
    try:
        async with asyncio.timeout(timeout_s):
            return await anext(events, None)
    except TimeoutError:
        return None


def _parse_position(text: str | None) -> Position | None:
    if text is None:
        return None
    epoch, _, offset = text.rpartition(":")
    if not epoch or not offset.isdecimal():
        raise click.BadParameter(f"{text!r} is not EPOCH:OFFSET", param_hint="--from")
    return Position(epoch, int(offset))
