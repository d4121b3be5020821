"""How far work of several stages is, on standard error: bars on a terminal, lines in a file or a log."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

Tell = Callable[[str, int, int], None]
"""Stage, done, total."""


@contextmanager
def shown_progress() -> Iterator[Tell]:
    """Give what is told of each step; any thread may call it."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield ProgressLines(lambda line: click.echo(line, err=True)).tell
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bars:
        stages: dict[str, TaskID] = {}

        def tell(stage: str, done: int, total: int) -> None:
            if stage not in stages:
                stages[stage] = bars.add_task(stage, total=total)
            bars.update(stages[stage], completed=done, total=total)

        yield tell


class ProgressLines:
    """One line where a stage begins, one at each tenth, one at its end: few enough for a log, and never long silent."""

    def __init__(self, write: Callable[[str], None]) -> None:
        """Write nothing yet.

        Args:
            write: Takes a line.
        """
        self._write = write
        self._tenths: dict[str, int] = {}

    def tell(self, stage: str, done: int, total: int) -> None:
        """As `Tell`."""
        tenth = 10 * done // max(total, 1)
        if self._tenths.get(stage) != tenth:
            self._tenths[stage] = tenth
            self._write(f"{stage} {done}/{total}")
