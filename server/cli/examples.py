"""`cueline graph examples`: what the encoder makes of a policy's example phrases."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import click

from inference.errors import InferenceError
from inference.repository import ModelRepository
from inference.request import EmbeddingArray
from server.policy.conditions import NEGATIVES_LABEL
from server.policy.examples import LeaveOneOut, LostPhrase, leave_one_out
from server.policy.loading import load_policy
from server.policy.prototypes import Collision, build_prototypes, prototype_spec, read_negatives
from server.wire.errors import CuelineError

PROJECT = Path(__file__).resolve().parents[2]


@click.command()
@click.argument("policy")
@click.option(
    "--graphs",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=PROJECT / "graphs",
    help="Folder of the graphs; their policies lie in its folder policies.",
)
@click.option(
    "--model-repo",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=PROJECT / "model_repo",
    help="Folder of the models.",
)
@click.option("--lowest-share", type=click.FloatRange(0, 1), default=0.0, help="Exit with 1 if fewer are found.")
def examples(policy: str, graphs: Path, model_repo: Path, lowest_share: float) -> None:
    """Try a policy's example phrases.

    Each phrase of POLICY, a tenant or a file, is left out and looked up by the others. Names phrases that collide
    with those of another moment or another own action, and phrases that their own one would not know.
    """
    folder = graphs / "policies"
    path = Path(policy) if policy.endswith((".yaml", ".yml")) else folder / f"{policy}.yaml"
    try:
        spec = prototype_spec(load_policy(path))
        negatives = read_negatives(folder / "general_negatives.txt")
        repository = ModelRepository.open(model_repo)
        vectors = asyncio.run(_embed(repository, (*spec.phrases, *negatives)))
    except (InferenceError, CuelineError) as error:
        raise click.ClickException(str(error)) from error
    own, general = vectors[: len(spec.phrases)], vectors[len(spec.phrases) :]
    built = build_prototypes(spec, own, negatives, general)
    found = leave_one_out(spec, own, built.thresholds, negatives, general)
    for line in _lines(found, built.collisions):
        click.echo(line)
    if found.share < lowest_share:
        raise SystemExit(1)


async def _embed(repository: ModelRepository, texts: tuple[str, ...]) -> EmbeddingArray:
    from inference.engine import Engine  # brings onnxruntime, which --help does not need

    engine = Engine(repository)
    await engine.start()
    try:
        return await engine.embed(texts)
    finally:
        await engine.stop()


def _lines(found: LeaveOneOut, collisions: tuple[Collision, ...]) -> Iterator[str]:
    if not found.tried:
        yield "no moment and no action has two example phrases"
    for moment, tried in found.tried.items():
        yield f"{moment}: {found.found.get(moment, 0)} of {tried} phrases found by the others"
    if found.lost:
        yield "\nLeft out, not found:"
        yield from map(_lost_line, found.lost)
    if collisions:
        yield "\nThe same to the encoder, under two moments or two actions:"
    for pair in collisions:
        yield f'  {pair.score:.2f}  {pair.label} "{pair.phrase}"  =  {pair.other_label} "{pair.other_phrase}"'
    yield f"\n{found.share:.0%} found, {len(collisions)} collisions"


def _lost_line(lost: LostPhrase) -> str:
    why = f"{lost.score:.2f} is below {lost.threshold:.2f}: nothing like it among the others"
    if lost.rival == NEGATIVES_LABEL:
        why = f'{lost.rival_score:.2f} to the general negative "{lost.rival_phrase}", {lost.score:.2f} to its own'
    elif lost.rival:
        why = f'{lost.rival_score:.2f} to {lost.rival} "{lost.rival_phrase}", {lost.score:.2f} to its own'
    return f'  {lost.label} "{lost.phrase}": {why}'
