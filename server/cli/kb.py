"""`cueline kb`: fill, search and judge knowledge bases. Works on the data directory; no server is needed.

ingest: folder ─▶ report     search: question, context ─▶ passages     evaluate: set ─▶ recall, abstention, latency
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from textwrap import indent
from typing import Any

import click
import msgspec
import uvloop
from rich.console import Console
from rich.table import Table

from inference.engine import Engine
from inference.engine import EngineSettings as InferenceSettings
from inference.errors import InferenceError
from inference.repository import ModelRepository
from retrieval.article import Viewer
from retrieval.conversation import build_query, decode_context
from retrieval.errors import RetrievalError
from retrieval.errors import ingest_command as command_that_fills
from retrieval.evaluation import Scores, evaluate, read_cases
from retrieval.ingest import Report, ingest
from retrieval.manifest import EngineEmbedder, encoder_identity
from retrieval.search import MAX_TOP_K, Answer, KnowledgeBase
from retrieval.store import BaseStore, bases
from server.cli.progress import shown_progress
from server.config import Settings, load_settings
from server.knowledge.errors import as_cueline_error
from server.wire.errors import BadRequest, CuelineError

DEFAULT_TOP_K = 3
_MAX_LISTED = 20
"""Skipped files that are named one by one."""
_WIDEST = 1000
"""Characters a line of a table may take; no name is longer."""

_common = [
    click.option("--kb", "base", metavar="NAME", help="Knowledge base. [the tenant's name]"),
    click.option("--tenant", help="Owner. [car_service]"),
    click.option("--token", envvar="CUELINE_TOKEN", hidden=True, help="Not needed: nothing is asked of a server."),
    click.option("--config", type=click.Path(path_type=Path), help="TOML file; CUELINE_* variables win over it."),
]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a command works."""

    settings: Settings
    tenant: str
    base: str

    @property
    def data(self) -> Path:
        return self.settings.data_path


def _options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the common options, as one `place`."""

    def with_place(
        *args: Any, base: str | None, tenant: str | None, token: str | None, config: Path | None, **rest: Any
    ) -> None:
        settings = load_settings(config, os.environ, {"auth.default_tenant": tenant})
        owner = settings.auth.default_tenant
        try:
            command(*args, place=_Place(settings, owner, base or owner), **rest)
        except (RetrievalError, InferenceError) as error:
            raise _told(as_cueline_error(error)) from error

    with_place.__doc__ = command.__doc__
    with_place.__name__ = command.__name__
    for option in reversed(_common):
        with_place = option(with_place)
    return with_place


def _viewer(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say who reads, as one `viewer`."""

    @click.option("--rights", multiple=True, help="A right that the reader has; may be repeated.")
    @click.option("--queue", default="", help="Queue of the call.")
    @wraps(command)
    def with_viewer(*args: Any, rights: tuple[str, ...], queue: str, **rest: Any) -> None:
        command(*args, viewer=Viewer(frozenset(rights), queue), **rest)

    return with_viewer


def _told(error: CuelineError) -> CuelineError:
    """Put the field before the message where that says too little alone: a command prints nothing else."""
    if isinstance(error, BadRequest) and error.field:
        return BadRequest(f"{error.field}: {error.message}", field=error.field)
    return error


@click.group()
def kb() -> None:
    """Fill, search and judge knowledge bases."""


@kb.command("ingest")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--json", "is_json", is_flag=True, help="Print the report as JSON.")
@_options
def ingest_command(folder: Path, is_json: bool, place: _Place) -> None:
    """Make a base hold what a folder holds.

    DIR may hold Markdown, text, HTML, PDF, DOCX, JSON and CSV. Only what changed is embedded; the new generation is
    searched at once, and `kb rollback` goes back.
    """
    store = BaseStore(place.data, place.tenant, place.base)
    with shown_progress() as tell:

        async def run() -> Report:
            async with _embedder(place.settings) as embedder:
                return await ingest(folder, store, embedder, tell)

        report = uvloop.run(run())
    if is_json:
        click.echo(msgspec.json.encode(msgspec.to_builtins(report)).decode())
        return
    _print_report(report, place)


@kb.command("search")
@click.argument("question", metavar="QUERY")
@click.option("--context", metavar="JSON", default="", help='Turns before it: [{"speaker": …, "text": …}, …].')
@click.option(
    "--top-k",
    metavar="K",
    type=click.IntRange(1, MAX_TOP_K),
    default=DEFAULT_TOP_K,
    show_default=True,
    help="Articles at most.",
)
@_viewer
@click.option("--json", "is_json", is_flag=True, help="Print JSON.")
@_options
def search_command(question: str, context: str, top_k: int, viewer: Viewer, is_json: bool, place: _Place) -> None:
    """Print the passages that answer a question.

    Best first, one an article; nothing where none answers QUERY.
    """
    query = build_query(question, decode_context(context))

    async def run() -> Answer:
        async with _embedder(place.settings) as embedder:
            base = KnowledgeBase(place.data, place.tenant, place.base, embedder)
            return await base.search(query, top_k=top_k, viewer=viewer)

    store = BaseStore(place.data, place.tenant, place.base)
    store.manifest().check_encoder(encoder_identity(_repository(place.settings)), place.tenant)  # before loading models
    answer = uvloop.run(run())
    if is_json:
        results = [{"source": r.source, "title": r.title, "text": r.text, "score": r.score} for r in answer.results]
        found = {"query": question, "abstained": answer.abstained, "results": results}
        click.echo(msgspec.json.encode(found).decode())
        return
    console = _console()
    if answer.abstained:
        console.print(f"Nothing in {place.base} answers that.", markup=False)
    for number, result in enumerate(answer.results, 1):
        console.print(f"{number}. {result.title}", style="bold", markup=False)
        console.print(indent(result.text, "   "), markup=False)
        console.print(f"   {result.source}, {result.score:.2f}", style="dim", markup=False)


@kb.command("evaluate")
@click.argument("file", metavar="F.jsonl", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--json", "is_json", is_flag=True, help="Print JSON.")
@click.option("--misses", is_flag=True, help="Also print the questions that went wrong.")
@_viewer
@_options
def evaluate_command(file: Path, is_json: bool, misses: bool, viewer: Viewer, place: _Place) -> None:
    """Ask many questions, and say how well a base answers.

    F.jsonl holds lines {"question", "context"?, "relevant"}; `relevant` names articles of the base, or none.
    """
    with file.open("rb") as lines:
        cases = read_cases(lines)

    async def run() -> tuple[Scores, list[Answer]]:
        async with _embedder(place.settings) as embedder:
            base = KnowledgeBase(place.data, place.tenant, place.base, embedder)
            return await evaluate(base, cases, viewer=viewer)

    scores, answers = uvloop.run(run())
    if is_json:
        click.echo(msgspec.json.encode(scores).decode())
    else:
        _print_scores(scores)
    if misses:
        for case, answer in zip(cases, answers, strict=True):
            found = [result.source for result in answer.results[:3]]
            if not case.relevant & set(found) and (case.relevant or found):
                wanted = ", ".join(sorted(case.relevant)) or "nothing"
                click.echo(f"{case.question}\n    wanted {wanted}; found {', '.join(found) or 'nothing'}", err=is_json)


@kb.command("list")
@click.option("--json", "is_json", is_flag=True, help="Print JSON.")
@_options
def list_command(is_json: bool, place: _Place) -> None:
    """List the tenant's bases: size, kind of index, age."""
    found, broken = [], []
    for name in bases(place.data, place.tenant):
        try:
            found.append(BaseStore(place.data, place.tenant, name).manifest())
        except RetrievalError as error:
            broken.append(f"{name}: {error}")
    if is_json:
        click.echo(msgspec.json.encode(found).decode())
    elif not found:
        if not broken:
            click.echo(
                f"{place.tenant} has no knowledge base; make one: {command_that_fills('NAME', place.tenant)}", err=True
            )
    else:
        table = Table(box=None, header_style="bold")
        for column in ("base", "generation", "articles", "passages", "index", "encoder", "made"):
            table.add_column(column, no_wrap=True)
        for m in found:
            encoder = f"{m.encoder.model}/{m.encoder.version}"
            row = (m.base, m.generation, m.articles, m.passages, m.index, encoder, m.created_at)
            table.add_row(*map(str, row))
        console = Console()
        needed = console.measure(table, options=console.options.update_width(_WIDEST)).maximum
        console.width = max(console.width, needed)  # a name cut short cannot be given to another command
        console.print(table)
    for line in broken:
        click.echo(line, err=True)


@kb.command("rollback")
@_options
def rollback_command(place: _Place) -> None:
    """Search the generation before the current one again."""
    number = BaseStore(place.data, place.tenant, place.base).rollback()
    click.echo(f"{place.base}: generation {number} is searched now")


@kb.command("delete")
@click.confirmation_option("--yes", help="Do not ask.", prompt="Delete the base with all its generations?")
@_options
def delete_command(place: _Place) -> None:
    """Delete a base with all its generations.

    Searches under way finish. A server fills a base of graphs/knowledge that its policies name anew.
    """
    store = BaseStore(place.data, place.tenant, place.base)
    store.current()  # a name misspelled deletes nothing, and must not look as if it had
    store.delete()
    click.echo(f"{place.base}: deleted")


def _repository(settings: Settings) -> ModelRepository:
    return ModelRepository.open(settings.paths.model_repo)


@asynccontextmanager
async def _embedder(settings: Settings) -> AsyncIterator[EngineEmbedder]:
    repository = _repository(settings)
    engine = Engine(
        repository,
        InferenceSettings(
            device=settings.engine.device, precision=settings.engine.precision, workers=settings.engine.workers
        ),
    )
    await engine.start()
    try:
        yield EngineEmbedder(engine, encoder_identity(repository))
    finally:
        await engine.stop()


def _console() -> Console:
    """Return one that breaks lines for a reader only: a program that reads them wants each whole."""
    console = Console(highlight=False)
    console.soft_wrap = not console.is_terminal
    return console


def _print_report(report: Report, place: _Place) -> None:
    manifest = report.manifest
    console = _console()
    if report.is_changed:
        console.print(
            f"{place.base}: generation {manifest.generation}, {manifest.articles} articles "
            f"({report.articles_new} new, {report.articles_changed} changed, {report.articles_gone} gone), "
            f"{manifest.passages} passages ({report.passages_embedded} texts embedded), {manifest.index} index"
        )
    else:
        console.print(f"{place.base}: nothing changed, generation {manifest.generation} stays")
    for skipped in report.skipped[:_MAX_LISTED]:
        console.print(f"  skipped {skipped.source}: {skipped.reason}", markup=False)
    if len(report.skipped) > _MAX_LISTED:
        console.print(f"  and {len(report.skipped) - _MAX_LISTED} more; --json lists all")


def _print_scores(scores: Scores) -> None:
    table = Table(box=None, show_header=False)
    for name, value in msgspec.to_builtins(scores).items():
        if name != "latency_ms":
            shown = "–" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)
            table.add_row(name.replace("_", " "), shown)
    for stage, found in scores.latency_ms.items():
        table.add_row(f"{stage} ms", f"p50 {found.p50:.2f}  p95 {found.p95:.2f}  p99 {found.p99:.2f}")
    Console(highlight=False).print(table)
