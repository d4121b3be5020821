"""`cueline replay`: a telephony source and an agent in one, and the figures between them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
import uvloop
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from server.replay.recording import Recording, read_sides, read_stereo
from server.replay.replay import Replay
from server.wire.publication import Publication

DEFAULT_URL = "ws://127.0.0.1:8080"


@click.command()
@click.option("--customer", type=click.Path(path_type=Path), help="The customer's side, one channel.")
@click.option("--agent", type=click.Path(path_type=Path), help="The agent's side, one channel.")
@click.option("--call", "stereo", type=click.Path(path_type=Path), help="Both in one: customer left, agent right.")
@click.option("--url", envvar="CUELINE_URL", default=DEFAULT_URL, show_default=True, help="The server.")
@click.option(
    "--speed",
    type=click.Choice(["1", "max"]),
    default="1",
    show_default=True,
    help="Real time, or as fast as the server acknowledges (then only final_to_action is measured).",
)
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="Stream only the beginning.")
@click.option(
    "--report", type=click.Path(path_type=Path), help="Write the report there as JSON; - for standard output."
)
@click.option("--conversation", help="Conversation id; a fresh one by default.")
@click.option("--tenant", help="Tenant; the server's default, or the token's.")
@click.option("--token", envvar="CUELINE_TOKEN", help="Bearer token, where the server wants one.")
def replay(
    customer: Path | None,
    agent: Path | None,
    stereo: Path | None,
    url: str,
    speed: str,
    seconds: float | None,
    report: Path | None,
    conversation: str | None,
    tenant: str | None,
    token: str | None,
) -> None:
    """Stream a two-party recording in as telephony does, follow the feed as the agent does, and report.

    \b
    cueline replay --customer customer.wav --agent agent.wav --report report.json
    """  # noqa: D301 - click takes a real backspace as "do not rewrap"
    recording = _recording(customer, agent, stereo)
    to_stdout = report is not None and str(report) == "-"
    console = Console(stderr=to_stdout, highlight=False)
    run = Replay(
        url,
        recording,
        conversation_id=conversation,
        tenant_id=tenant,
        token=token,
        speed=None if speed == "max" else 1.0,
        seconds=seconds,
    )
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    ) as bar:
        task = bar.add_task("streaming", total=1.0)
        result = uvloop.run(
            run.run(
                progress=lambda share: bar.update(task, completed=share),
                on_publication=lambda publication: _show(console, publication),
            )
        )
    if report is not None and not to_stdout:
        report.write_text(json.dumps(result, indent=2) + "\n")
    if to_stdout:
        click.echo(json.dumps(result, indent=2))
    _summarise(console, result)


def _recording(customer: Path | None, agent: Path | None, stereo: Path | None) -> Recording:
    if stereo is not None and customer is None and agent is None:
        return read_stereo(stereo)
    if stereo is None and customer is not None and agent is not None:
        return read_sides(customer, agent)
    raise click.UsageError("name both --customer and --agent, or one two-channel file with --call")


def _show(console: Console, publication: Publication) -> None:
    payload: dict[str, Any] = publication.d
    match publication.kind:
        case "transcript" if payload["is_final"] and payload["text"]:
            minutes, milliseconds = divmod(payload["start_ms"], 60_000)
            console.print(
                f"[dim]{minutes:02}:{milliseconds / 1000:04.1f}[/] [bold]{payload['speaker']:>8}[/]  ", end=""
            )
            console.print(payload["text"], markup=False)
        case "action" if payload["state"] == "new":
            console.print(f"{'':>8}[green]{payload['type']:>8}[/]  ", end="")
            console.print(payload["title"], markup=False)
        case "gap":
            console.print(f"{'':>8}[red]{'gap':>8}[/]  {payload['cause']} {payload['state']}")


def _summarise(console: Console, result: dict[str, Any]) -> None:
    table = Table("latency, ms", "n", "p50", "p95", "p99", "max", title=f"conversation {result['conversation_id']}")
    for name, row in [*result["latency_ms"].items(), *result["stages_ms"].items()]:
        cells = ["–" if row[key] is None else f"{row[key]:g}" for key in ("n", "p50", "p95", "p99", "max")]
        table.add_row(name, *cells)
    console.print(table)
    console.print(
        f"{result['utterances']} utterances, {result['interims']} interims, {result['actions']} actions, "
        f"{result['gaps']} gaps, {result['feed_lost']} lost on the feed"
    )
