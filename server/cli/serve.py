"""`cueline serve`: the server."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import click
import uvloop

from server.cli import logs
from server.cli.workers import Workers, free_port, say_ready, shares, worker_command
from server.config import load_settings
from server.config.settings import Settings
from server.main import Server, version
from server.wire.errors import ConfigError


@click.command()
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    envvar="CUELINE_CONFIG",
    help="TOML file; CUELINE_* variables win over it.",
)
@click.option(
    "--host", help="Address to listen on; others than loopback need auth.jwks or auth.shared_key. [127.0.0.1]"
)
@click.option("--port", type=int, help="Port; 0 takes a free one. [8080]")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Server processes.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Where models run. [cpu]")
@click.option("--dry-run", is_flag=True, help="Check the configuration, load and warm everything, then exit.")
def serve(
    config: Path | None, host: str | None, port: int | None, workers: int, device: str | None, dry_run: bool
) -> None:
    """Start the server.

    Without any option it listens on this machine only, knows one anonymous agent, and needs no other server,
    no key and no network.
    """
    settings = load_settings(config, os.environ, {"host": host, "port": port, "engine.device": device})
    if workers > 1:
        _serve_many(settings, config, workers, device, dry_run=dry_run)
        return
    logs.configure(settings.log_level)
    started_s = time.monotonic()
    _say(f"cueline {version()}")
    server = Server(settings, lambda step: _say(f"  loading {step} …"))

    def listening(url: str) -> None:
        say_ready()
        _say(f"  ready in {time.monotonic() - started_s:.1f} s")
        if settings.auth.is_anonymous:
            _say(f"  anonymous agent of {settings.auth.default_tenant}, this machine only")
        _say(f"  agent app   {url}/")
        _say(f"  feed        {url.replace('http', 'ws', 1)}/v1/feed")
        _say(f"  ingest      {url.replace('http', 'ws', 1)}/v1/ingest/audio, …/transcripts")

    try:
        uvloop.run(server.run(dry_run=dry_run, on_listening=listening))
    except KeyboardInterrupt:
        sys.exit(130)
    if dry_run:
        _say(f"  everything loads ({time.monotonic() - started_s:.1f} s)")


def _serve_many(settings: Settings, config: Path | None, num: int, device: str | None, *, dry_run: bool) -> None:
    """Run so many workers, where what they share allows it."""
    if settings.log.backend != "redis":
        raise ConfigError(
            "several processes need an event log they share, and the embedded one is one process's own: "
            'set log.backend = "redis" and log.url',
            field="workers",
        )
    if dry_run:
        raise ConfigError("a dry run takes one process", field="workers")
    port = settings.port or free_port(settings.host)
    arguments = ["--host", settings.host, "--port", str(port)]
    arguments += ["--config", str(config)] if config is not None else []
    arguments += ["--device", device] if device is not None else []
    asyncio.run(Workers(worker_command(arguments), num, shares(dict(os.environ), num), _say).run())


def _say(text: str) -> None:
    click.echo(text, err=True)
