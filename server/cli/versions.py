"""`cueline models status | promote | rollback`: versions of a running server, or what its folders say without one."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from inference.errors import ModelError
from inference.life.file import read_records
from inference.life.status import ModelStatus, VersionStatus, describe_folder
from server.config import load_settings
from server.wire.errors import Unavailable

DEFAULT_URL = "http://127.0.0.1:8080"
_TIMEOUT_S = 180.0
"""A promotion answers once the version is tried, loaded and warm."""
_STYLES = {"serving": "bold green", "canary": "cyan", "shadow": "cyan", "refused": "red", "rolled_back": "red"}

Command = Callable[..., None]


def _name(_ctx: click.Context, _argument: click.Parameter, model: str) -> str:
    """Refuse a name that no model can have, before it makes an address that nobody knows."""
    if not model.strip():
        raise click.BadParameter("expected the name of a model, given none")
    return model


def _server_options(command: Command) -> Command:
    for option in (
        click.option(
            "--token",
            envvar="CUELINE_TOKEN",
            show_envvar=True,
            help="Bearer token of an operator, where the server wants one.",
        ),
        click.option(
            "--url",
            envvar="CUELINE_URL",
            show_envvar=True,
            default=DEFAULT_URL,
            show_default=True,
            help="The running server.",
        ),
    ):
        command = option(command)
    return command


@click.command()
@_server_options
@click.option("--offline", is_flag=True, help="Read the folders; ask no server.")
@click.option("--config", type=click.Path(path_type=Path), envvar="CUELINE_CONFIG", help="TOML file, for the folders.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(url: str, token: str | None, offline: bool, config: Path | None, as_json: bool) -> None:
    """Show every version of every model.

    Which serves, which is on trial, which is refused, and why. Asks the running server; where none answers, says
    what one that starts now would find.

    \b
    share     of the calls (canary) or rows (shadow) that it gets
    golden    whether it repeated its golden inputs when it was loaded
    row ms    time that it takes for one short row
    rows/min  rows of the last minute, example phrases and articles among them
    failed    rows of the last minute that it failed on and another did not
    slowness  times as long as the other version takes for such batches
    pinned    a policy or a knowledge base asks for it by its number
    """  # noqa: D301 - click takes a real backspace as "do not rewrap"
    is_running = False
    if not offline:
        try:
            models = _ask(url, token, "/v1/models")
            is_running = True
        except Unavailable:
            pass
    if not is_running:
        settings = load_settings(config, os.environ)
        try:
            models = describe_folder(Path(settings.paths.model_repo), read_records(settings.data_path / "models.json"))
        except ModelError as error:
            raise click.ClickException(error.message) from error
    if as_json:
        click.echo(json.dumps({"running": is_running, "models": msgspec.to_builtins(models)}, indent=2))
        return
    _show(models, url if is_running else "")


@click.command()
@click.argument("model", default="utterance", callback=_name)
@click.option("--version", type=click.IntRange(1), required=True, help="Its number: the name of its folder.")
@click.option(
    "--canary", type=click.FloatRange(0, 1, min_open=True), help="Let it answer this share of the calls only."
)
@click.option("--shadow", type=click.FloatRange(0, 1, min_open=True), help="Compare it on this share of the rows only.")
@_server_options
def promote(model: str, version: int, canary: float | None, shadow: float | None, url: str, token: str | None) -> None:
    """Let a version answer all calls, or put it on trial.

    MODEL is a folder of the repository, `utterance` unless given. The version is loaded first, where it is not;
    whatever is wrong with it is told, and what serves stays.

    \b
    cueline models promote utterance --version 2 --shadow 0.2
    cueline models promote utterance --version 2 --canary 0.1
    cueline models promote utterance --version 2
    """  # noqa: D301 - click takes a real backspace as "do not rewrap"
    if canary is not None and shadow is not None:
        raise click.UsageError("--canary and --shadow exclude each other")
    body: dict[str, Any] = {"version": version}
    if canary is not None:
        body |= {"stage": "canary", "ratio": canary}
    elif shadow is not None:
        body |= {"stage": "shadow", "ratio": shadow}
    _show(_ask(url, token, f"/v1/models/{_segment(model)}/promote", body), url)


@click.command()
@click.argument("model", default="utterance", callback=_name)
@_server_options
def rollback(model: str, url: str, token: str | None) -> None:
    """Give up the version on trial, or return to the one before.

    MODEL is a folder of the repository, `utterance` unless given. Where no version of it is on trial, the one that
    served before this one serves again.
    """
    _show(_ask(url, token, f"/v1/models/{_segment(model)}/rollback", {}), url)


class _Answer(msgspec.Struct):
    models: list[ModelStatus]


def _segment(model: str) -> str:
    """Write a model's name as one segment of a path, whatever is in it."""
    return urllib.parse.quote(model, safe="")


def _ask(url: str, token: str | None, path: str, body: dict[str, Any] | None = None) -> list[ModelStatus]:
    """Ask the running server for its models, or to change one of them.

    Raises:
        Unavailable: Nobody answers there, or somebody else does.
        ClickException: It refuses; its own words. Or the address is none.
    """
    try:
        request = urllib.request.Request(url.rstrip("/") + path)
    except ValueError as error:
        raise click.BadParameter(f"{url} is no address", param_hint="'--url'") from error
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    if body is not None:
        request.data = json.dumps(body).encode()
        request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
            return msgspec.json.decode(answer.read(), type=_Answer).models
    except urllib.error.HTTPError as error:
        try:
            message = json.loads(error.read())["message"]
        except (ValueError, KeyError, TypeError):
            message = f"status {error.code}"
        raise click.ClickException(f"{url}: {message}") from error
    except TimeoutError as error:
        raise click.ClickException(
            f"{url}: no answer within {_TIMEOUT_S:g} s; `cueline models status` shows what becomes of it"
        ) from error
    except (OSError, ValueError, HTTPException, msgspec.DecodeError) as error:
        raise Unavailable(f"no server answers at {url}; start one with `cueline serve`") from error


def _show(models: Sequence[ModelStatus], url: str) -> None:
    console = Console(highlight=False)
    console.print(url or "no server is running; a start now would find:", style="dim")
    if not models:
        console.print("the repository holds no model")
    for model in models:
        head = Text(model.model, style="bold")
        if model.serving is not None:
            head.append(f"  version {model.serving} answers", style="")
        if model.previous is not None:
            head.append(f", a rollback returns to {model.previous}", style="dim")
        if model.probation_s:
            head.append(f", on probation for {model.probation_s:.0f} s", style="dim")
        console.print(head)
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for name in ("version", "state", "share", "golden", "row ms", "rows/min", "failed", "slowness", ""):
            table.add_column(name, justify="left" if name in ("state", "golden", "") else "right")
        for version in model.versions:
            table.add_row(*_row(version))
        console.print(table)
        for version in model.versions:
            if version.reason:
                console.print(f"version {version.version}: {version.reason}", soft_wrap=True)
            _show_agreement(console, version)


def _row(version: VersionStatus) -> list[str | Text]:
    state = Text(version.state.replace("_", " "), style=_STYLES.get(version.state, "dim"))
    pinned = "pinned" if version.pinned else ""
    if version.is_proven is None:
        return [str(version.version), state, "", "", "", "", "", "", pinned]
    return [
        str(version.version),
        state,
        f"{version.ratio:.0%}" if version.ratio else "",
        "proven" if version.is_proven else "none",
        "" if version.row_ms is None else f"{version.row_ms:.2f}",
        str(version.rows),
        str(version.failed),
        "" if version.slowness is None else f"{version.slowness:.2f}",
        pinned,
    ]


def _show_agreement(console: Console, version: VersionStatus) -> None:
    if version.state != "shadow":
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), title_justify="left")
    for name in (f"version {version.version} in shadow", "rows", "agreed", "score gap"):
        table.add_column(name, justify="left" if "shadow" in name else "right")
    for output, agreement in version.agreement.items():
        table.add_row(output, str(agreement.rows), f"{agreement.agreed_ratio:.1%}", f"{agreement.mean_gap:.3f}")
    console.print(table)
    if version.shadow_failed or version.shadow_skipped:
        console.print(f"{version.shadow_failed} copies failed, {version.shadow_skipped} gave way to live rows")
