"""`cueline models …`: build, train and evaluate what `model_repo/` serves."""

from __future__ import annotations

import time
from pathlib import Path

import click
from rich.console import Console

from inference.export.build import STATIC8_FILE, build_version, read_sources
from inference.export.verify import verify_version
from inference.export.weights import ExportError

REPOSITORY = Path("model_repo")
MODEL = "utterance"

_console = Console(stderr=True, highlight=False)


@click.group()
def models() -> None:
    """Build, train and evaluate the models of the repository."""


@models.command()
@click.option("--repo", type=click.Path(path_type=Path), default=REPOSITORY, show_default=True, help="Model folder.")
@click.option("--force", is_flag=True, help="Build again what is there.")
def build(repo: Path, force: bool) -> None:
    """Build every precision of each version from its committed weights, and verify it."""
    versions = sorted(path for path in (repo / MODEL).glob("[1-9]*") if path.is_dir())
    if not versions:
        raise click.ClickException(f"{repo / MODEL}: no version to build")
    for version in versions:
        if not force and _is_fresh(version):
            _console.print(f"{version} is built")
            continue
        started_s = time.monotonic()
        try:
            with _console.status(f"{version}") as status:
                build_version(version, lambda name, v=version: status.update(f"{v / name}: building"))  # type: ignore[misc]
                status.update(f"{version}: verifying")
                verdicts = verify_version(version, read_sources(version).encoder.num_layers)
        except ExportError as error:
            raise click.ClickException(str(error)) from error
        for verdict in verdicts:
            _console.print(
                f"{version / verdict.file}: cosine to fp32 {verdict.mean_cosine:.5f}, "
                f"row alone against in batch {verdict.batch_gap:.1g}"
            )
        _console.print(f"{version} built and verified in {time.monotonic() - started_s:.1f} s")


def _is_fresh(version: Path) -> bool:
    """Whether the default model is there and newer than everything it is built from."""
    built = version / STATIC8_FILE
    if not built.is_file():
        return False
    sources = list(version.glob("*.safetensors"))
    return all(source.stat().st_mtime <= built.stat().st_mtime for source in sources)
