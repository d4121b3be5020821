"""`cueline demo`: the scripted calls that `make run` offers."""

from __future__ import annotations

import os

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from server.app.demo_script import SCRIPTS_FOLDER, load_scripts
from server.app.render import render_demo_call
from server.config import load_settings


@click.group()
def demo() -> None:
    """Render the demo calls."""


@demo.command()
def render() -> None:
    """Speak the scripted calls with the embedded voices.

    One WAV a tenant, into the data directory. Calls that are there already and unchanged are left as they are.
    """
    folder = load_settings(None, os.environ).data_path / "demo"
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("lines"))
    with Progress(*columns, console=Console(stderr=True)) as bar:
        for script in load_scripts(SCRIPTS_FOLDER):
            task = bar.add_task(script.name, total=len(script.lines))
            render_demo_call(script, folder, lambda done, _, task=task: bar.update(task, completed=done))  # type: ignore[misc]
