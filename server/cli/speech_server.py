"""`cueline speech-server`: the embedded recogniser behind Deepgram's live protocol."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import ssl
from pathlib import Path

import click
import uvloop

from server.cli import logs
from server.config import load_settings
from server.config.check import is_loopback
from server.config.settings import Settings
from server.metrics import Metrics
from server.speech.chosen import embedded
from server.speech_server.faults import Faults
from server.speech_server.server import LISTEN_PATH, SpeechServer
from server.wire.errors import BadRequest, ConfigError

KEY_VARIABLE = "SPEECH_SERVER_KEY"


@click.command("speech-server")
@click.option("--config", type=click.Path(path_type=Path), help="TOML file, as for serve; its section speech counts.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address; others need a key and a certificate.")
@click.option("--port", type=click.IntRange(0, 65535), default=8081, show_default=True, help="0 takes a free one.")
@click.option("--workers", type=click.IntRange(0), help="Processes that recognise; 0: one a core.")
@click.option("--certificate", type=click.Path(path_type=Path), help="PEM file with the certificate and its chain.")
@click.option("--private-key", type=click.Path(path_type=Path), help="PEM file with its private key.")
@click.option(
    "--fault",
    "fault_texts",
    multiple=True,
    metavar="NAME=N,…",
    help="For tests: refuse=STATUS, drop=S, stall=S, slow=S, garbage=N of a connection. Several are drawn in turn.",
)
@click.option("--seed", type=int, help="Draw connections' faults at random from this seed instead.")
def speech_server(
    config: Path | None,
    host: str,
    port: int,
    workers: int | None,
    certificate: Path | None,
    private_key: Path | None,
    fault_texts: tuple[str, ...],
    seed: int | None,
) -> None:
    """Serve the embedded recogniser to any client of Deepgram's live API.

    \b
    cueline speech-server --port 8081
    CUELINE_SPEECH__RECOGNISER=deepgram CUELINE_SPEECH__DEEPGRAM__URL=ws://127.0.0.1:8081 cueline serve

    Clients present SPEECH_SERVER_KEY as their API key; without it, anyone on this machine may connect.
    """  # noqa: D301 - click takes a real backspace as "do not rewrap"
    key = os.environ.get(KEY_VARIABLE, "")
    if not is_loopback(host) and not (key and certificate):
        raise ConfigError(f"other machines reach {host}: set {KEY_VARIABLE} and --certificate", field="host")
    settings = load_settings(config, os.environ, {"speech.workers": workers})
    logs.configure(settings.log_level)
    faults = _faults(fault_texts, seed)
    try:
        uvloop.run(_run(settings, key, host, port, _tls(certificate, private_key), faults))
    except KeyboardInterrupt:
        raise click.exceptions.Abort from None


async def _run(settings: Settings, key: str, host: str, port: int, tls: ssl.SSLContext | None, faults: _Draw) -> None:
    recogniser = embedded(settings.speech, Metrics())
    server = SpeechServer(recogniser, key=key, faults=faults)
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await recogniser.start()
    try:
        await server.start(host, port, tls)
        click.echo(f"speech server  {server.url}{LISTEN_PATH}", err=True)
        await stopped.wait()
        await server.stop()
    finally:
        await recogniser.stop()


class _Draw:
    """Faults for one connection after the other, in turn or at random."""

    def __init__(self, choices: list[Faults], draw: random.Random | None) -> None:
        self._choices = choices or [Faults()]
        self._draw = draw
        self._number = -1

    def __call__(self) -> Faults:
        """The next connection's."""
        if self._draw is not None:
            return self._draw.choice(self._choices)
        self._number += 1
        return self._choices[self._number % len(self._choices)]


def _faults(texts: tuple[str, ...], seed: int | None) -> _Draw:
    try:
        choices = [Faults.parse(text) for text in texts]
    except BadRequest as error:
        raise click.BadParameter(f"{error.field} {error.message}", param_hint="--fault") from None
    return _Draw(choices, random.Random(seed) if seed is not None else None)


def _tls(certificate: Path | None, private_key: Path | None) -> ssl.SSLContext | None:
    if certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, private_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"cannot be used: {error}", field=str(certificate)) from None
    return context
