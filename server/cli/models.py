"""`cueline models …`: build, train, evaluate, watch and switch what `model_repo/` serves."""

from __future__ import annotations

import importlib.util
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console

import inference.export
from inference.errors import ModelError
from inference.export.build import FP16_FILE, FP32_FILE, STATIC8_FILE, build_version, read_sources
from inference.export.verify import verify_version
from inference.export.weights import ExportError
from inference.training.readers import DataError
from server.cli.versions import promote, rollback, status

REPOSITORY = Path("model_repo")
MODEL = "utterance"
DATA_HELP = "Folder of labelled sets, as docs/models.md lists them."
SEED = click.IntRange(0, 2**32 - 1)

_console = Console(stderr=True, highlight=False)


@click.group()
def models() -> None:
    """Build, train, evaluate, watch and switch the models of the repository."""


for _command in (status, promote, rollback):
    models.add_command(_command)


@models.command()
@click.option("--repo", type=click.Path(path_type=Path), default=REPOSITORY, show_default=True, help="Model folder.")
@click.option("--force", is_flag=True, help="Build again what is there.")
def build(repo: Path, force: bool) -> None:
    """Build every precision of each version.

    From its committed weights, and verify it.
    """
    versions = _versions(repo)
    if not versions:
        raise click.ClickException(f"{repo / MODEL}: no version to build")
    for version in versions:
        if not force and _is_fresh(version):
            _console.print(f"{version} is built")
            continue
        started_s = time.monotonic()
        with _refusals(), _console.status(f"{version}") as status:
            build_version(version, lambda name, v=version: status.update(f"{v / name}: building"))  # type: ignore[misc]
            status.update(f"{version}: verifying")
            verdicts = verify_version(version, read_sources(version).encoder.num_layers)
        for verdict in verdicts:
            _console.print(
                f"{version / verdict.file}: cosine to fp32 {verdict.mean_cosine:.5f}, "
                f"row alone against in batch {verdict.batch_gap:.1g}",
                soft_wrap=True,
            )
        _console.print(f"{version} built and verified in {time.monotonic() - started_s:.1f} s")


def _versions(repo: Path) -> list[Path]:
    """Version folders of the model, by number."""
    folders = (path for path in (repo / MODEL).glob("[1-9]*") if path.name.isdecimal() and path.is_dir())
    return sorted(folders, key=lambda path: int(path.name))


def _built(repo: Path, number: int | None, file: str) -> Path:
    """Find a built file of a version, by default of the newest.

    Raises:
        ClickException: If there is no such version, or it is not built; says which there are, or what builds it.
    """
    folders = {int(path.name): path for path in _versions(repo)}
    if not folders:
        raise click.ClickException(f"{repo / MODEL}: has no version")
    if number is None:
        number = max(folders)
    if number not in folders:
        there = ", ".join(map(str, folders))
        raise click.ClickException(f"{repo / MODEL}: has no version {number}; there is {there}")
    path = folders[number] / file
    if not path.is_file():
        raise click.ClickException(f"{path}: not built, run `cueline models build`")
    return path


@contextmanager
def _refusals() -> Iterator[None]:
    """Tell in one line what is wrong with data, folders and files, without a trace."""
    try:
        yield
    except (DataError, ExportError) as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"{error.filename}: {error.strerror}") from error
    except ModelError as error:
        raise click.ClickException(error.message) from error


def _training_extra() -> None:
    """Fail with the command that helps where torch is not installed."""
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("matplotlib") is None:
        raise click.ClickException("training and judging need torch and more: run `make training`, which installs them")


def _layers(_ctx: click.Context, _option: click.Parameter, value: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(layer) for layer in value.split(",")) if value else ()
    except ValueError:
        raise click.BadParameter(f"expected numbers such as 1,3,5, given {value}") from None


@models.command()
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True, help=DATA_HELP)
@click.option("--out", type=click.Path(path_type=Path), help="Version folder to write. Default: the next version.")
@click.option("--steps", type=click.IntRange(min=0), default=3000, show_default=True, help="0: heads only, in minutes.")
@click.option(
    "--start",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Version folder to continue from, instead of the base model.",
)
@click.option(
    "--layers",
    callback=_layers,
    help="Layers of --start that a student keeps, such as 1,3,5; it learns from all of them.",
)
@click.option("--last", is_flag=True, help="Learn from the validate rows as well, once everything has been chosen.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of all that is drawn.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Cores for torch.")
@click.option(
    "--work", type=click.Path(path_type=Path), default=Path("build/training"), show_default=True, help="Stages so far."
)
@click.option("--resume/--fresh", default=True, show_default=True, help="Continue from --work, or start again.")
def train(
    data: Path,
    out: Path | None,
    steps: int,
    start: Path | None,
    layers: tuple[int, ...],
    last: bool,
    seed: int,
    threads: int,
    work: Path,
    resume: bool,
) -> None:
    """Train a new version from labelled data.

    Tune the encoder, fit heads, calibrate, build, verify.
    """
    _training_extra()
    from inference.training.finetune import Settings
    from inference.training.pipeline import Run, forget
    from inference.training.pipeline import train as run_training

    numbers = [int(path.name) for path in _versions(REPOSITORY)]
    version = out or REPOSITORY / MODEL / str(max(numbers, default=0) + 1)
    if not version.name.isdecimal() or int(version.name) < 1:
        raise click.BadParameter(
            f"a version folder is named by its number, such as {REPOSITORY / MODEL / '2'}", param_hint="'--out'"
        )
    run = Run(data, version, work, Settings(steps=steps, seed=seed), threads, start, layers=layers, is_last=last)
    with _refusals():
        if not resume:
            forget(work)
        try:
            run_training(run, _console.print)
        except ValueError as error:
            raise click.ClickException(str(error)) from error
        _add_search_head(version, seed, threads, is_judged=False)
    where = "" if version.parent.parent == REPOSITORY else f" --repo {version.parent.parent}"
    judge = f"cueline models evaluate --data {data}{where} --version {version.name}"
    _console.print(f"{version} is trained; `{judge}` judges it", soft_wrap=True)


@models.command()
@click.option("--repo", type=click.Path(path_type=Path), default=REPOSITORY, show_default=True, help="Model folder.")
@click.option("--version", type=click.IntRange(min=1), help="Version that gets it. Default: the newest.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of all that is drawn.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Cores for torch.")
@click.option("--judge/--no-judge", default=True, show_default=True, help="Report recall in trades left out in turn.")
def search_head(repo: Path, version: int | None, seed: int, threads: int, judge: bool) -> None:
    """Fit the vector that bases are searched by.

    The encoder and the other heads of the version stay as they are. Bases have to be ingested again.
    """
    chosen = _built(repo, version, STATIC8_FILE).parent
    _training_extra()
    with _refusals():
        _add_search_head(chosen, seed, threads, is_judged=judge)


def _add_search_head(version: Path, seed: int, threads: int, *, is_judged: bool) -> None:
    from inference.training.around import with_calls_around
    from inference.training.features import Runner, open_tokenizer
    from inference.training.retrieval_head import Settings
    from inference.training.search import add_search_head
    from inference.training.service_bases import read_off_topic, read_service_bases
    from retrieval.practice import search_tasks

    tokenizer = open_tokenizer(version.parent / "tokenizer.json")
    bases = [with_calls_around(base, random.Random(f"{seed} {base.trade}")) for base in read_service_bases()]
    embed = Runner.for_file(version / STATIC8_FILE, tokenizer, threads).embed
    tasks = search_tasks(bases, read_off_topic(), embed)
    add_search_head(version, tasks, Settings(seed=seed), threads, judged=is_judged, report=_console.print)


@models.command()
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True, help=DATA_HELP)
@click.option("--repo", type=click.Path(path_type=Path), default=REPOSITORY, show_default=True, help="Model folder.")
@click.option("--version", type=click.IntRange(min=1), help="Version to judge. Default: the newest.")
@click.option(
    "--precision",
    type=click.Choice(["static8", "fp32"]),
    default="static8",
    show_default=True,
    help="Which file of it.",
)
@click.option("--rows", type=click.IntRange(min=50), default=2000, show_default=True, help="At most, a source.")
@click.option("--against-fp32", is_flag=True, help="Judge fp32 on the same rows, to tell what int8 costs.")
@click.option("--spoken", type=click.IntRange(min=0), default=0, help="Rows a source to speak, recognise and judge.")
@click.option("--out", type=click.Path(path_type=Path), help="Report folder. Default: reports/<model>-<version>.")
def evaluate(
    data: Path,
    repo: Path,
    version: int | None,
    precision: str,
    rows: int,
    against_fp32: bool,
    spoken: int,
    out: Path | None,
) -> None:
    """Judge a version on held-out rows.

    Is it right, calibrated and fast? Writes a report with plots.
    """
    file = _built(repo, version, STATIC8_FILE if precision == "static8" else FP32_FILE)
    against = _built(repo, version, FP32_FILE) if against_fp32 else None
    _training_extra()
    from inference.training.corpus import read_corpus
    from inference.training.evaluate import evaluate_file
    from inference.training.report import write_report

    title = f"{MODEL} version {file.parent.name}, {precision}"
    folder = out or Path("reports") / f"{MODEL}-{file.parent.name}"
    hear = None
    if spoken:
        from server.cli.hearing import TelephoneLine

        hear = TelephoneLine().hear
    with _refusals(), _console.status("reading") as status:
        folder.mkdir(parents=True, exist_ok=True)  # first: what follows takes minutes
        corpus = read_corpus(data)
        found = evaluate_file(
            file,
            corpus,
            max_rows=rows,
            against=against,
            hear=hear,
            spoken_rows=spoken,
            progress=status.update,
        )
        page = write_report(found, title, folder)
    for task in found.tasks:
        name, value = next(iter(task.numbers.items()))
        click.echo(f"{task.task:16} {task.source:14} {name:14} {value:.4f}")
    _console.print(f"report: {page}")


def _is_fresh(version: Path) -> bool:
    """Whether every precision is there and newer than everything it is built from, code as well as weights."""
    built = [version / name for name in (STATIC8_FILE, FP32_FILE, FP16_FILE)]
    if not all(file.is_file() for file in built):
        return False
    weights = tuple(version.glob("*.safetensors"))
    if not weights:
        return True  # it came built
    sources = (*weights, *Path(inference.export.__file__).parent.glob("*.py"))
    newest = max(source.stat().st_mtime for source in sources)
    return newest <= min(file.stat().st_mtime for file in built)
