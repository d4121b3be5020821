"""`cueline graph`: check what is declared, explain what becomes of it. Needs the model folders, not their weights."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import click

from inference.compile import Wanted, compile_graph, compile_set, offered_labels, trace
from inference.compile.draft import Draft
from inference.errors import InferenceError
from inference.explain import explain_text
from inference.explain_svg import explain_svg
from inference.graph import Graph, read_graph
from inference.plan import Op
from inference.repository import ModelRepository
from server.cli.examples import examples
from server.orchestrator.graphs import run_outputs
from server.policy.loading import load_policy
from server.wire.errors import ConfigError

PROJECT = Path(__file__).resolve().parents[2]
BACKENDS = ("onnxruntime", "triton")
"""In order of preference, as without configuration."""

MEASURED_TOKENS = 16
"""The rung above the mean length of an utterance, 12 tokens."""

_folders = [
    click.option(
        "--graphs",
        type=click.Path(path_type=Path, exists=True, file_okay=False),
        default=PROJECT / "graphs",
        help="Folder of the graphs; their policies lie in its folder policies.",
    ),
    click.option(
        "--model-repo",
        type=click.Path(path_type=Path, exists=True, file_okay=False),
        default=PROJECT / "model_repo",
        help="Folder of the models.",
    ),
]


@click.group()
def graph() -> None:
    """Check and explain graphs, and the policies on top of them."""


graph.add_command(examples)


@graph.command()
@_folders[0]
@_folders[1]
def check(graphs: Path, model_repo: Path) -> None:
    """Compile every graph, check every policy.

    Graphs are compiled for all of their outputs and for those that each policy wants. One line a problem; exit code 1
    if there is any.
    """
    repository = ModelRepository.open(model_repo, weights=False)
    problems = [str(problem) for problem in repository.problems]
    for name, model in repository.models.items():
        if model.config.ignored:
            click.echo(f"{model_repo.name}/{name}/config.pbtxt: ignored: {model.config.ignored}", err=True)
    declared: dict[str, Graph] = {}
    broken: set[str] = set()
    offered: dict[str, Mapping[str, frozenset[str] | None]] = {}
    for path in sorted(graphs.glob("*.yaml")):
        try:
            declared[path.stem] = read_graph(path)
            offered[path.stem] = offered_labels(declared[path.stem], repository)
            click.echo(_summary(path.stem, declared[path.stem], None, repository))
        except InferenceError as error:
            broken.add(path.stem)
            problems.append(str(error))
    if not declared and not broken:
        problems.append(f"{graphs.name}: no graphs here")
    for path in sorted((graphs / "policies").glob("*.yaml")):
        try:
            if load_policy(path).graph in broken:
                continue  # the graph's own problem is told already
            policy = load_policy(path, offered)
            for warning in policy.warnings:
                click.echo(f"warning: {warning}", err=True)
            outputs = run_outputs(declared[policy.graph], policy.wanted_outputs)
            click.echo(_summary(f"policy {path.stem}", declared[policy.graph], outputs, repository))
        except ConfigError as error:
            problems.append(f"policies/{error}")
        except InferenceError as error:
            problems.append(f"policies/{path.name}: {error}")
    for problem in problems:
        click.echo(problem, err=True)
    if problems:
        raise SystemExit(1)


@graph.command()
@click.argument("name")
@click.option(
    "--policy",
    "policies",
    multiple=True,
    help="Compile for the outputs that this policy wants; several: what all of them share.",
)
@click.option("--svg", type=click.Path(path_type=Path, dir_okay=False), help="Write a picture to this file.")
@click.option("--passes", is_flag=True, help="Show what every pass has made of it.")
@click.option("--measure", is_flag=True, help="Load and warm the models, and show what they cost on this machine.")
@_folders[0]
@_folders[1]
def explain(
    name: str, policies: tuple[str, ...], svg: Path | None, passes: bool, measure: bool, graphs: Path, model_repo: Path
) -> None:
    """Print the plan of a graph.

    Its steps, conditions, fused groups, buckets, budget and cost; NAME is a file in the folder of the graphs.
    """
    try:
        repository = ModelRepository.open(model_repo, weights=measure)
        declared = read_graph(_file(graphs, name, "graph"))
        wanted = {policy: (declared, _wanted(graphs, policy, declared)) for policy in policies}
        stages = trace(list(wanted.values()) or [(declared, None)], repository, backends=BACKENDS)
        structure = compile_set(wanted or {"": (declared, None)}, repository, backends=BACKENDS).shared.structure
        costs = asyncio.run(_measure(repository, stages[-1].drafts[0])) if measure else {}
    except (InferenceError, ConfigError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(explain_text(stages, costs=costs, structure=structure, passes=passes), nl=False)
    if svg is not None:
        try:
            svg.write_text(explain_svg(stages, costs=costs, passes=passes), "utf-8")
        except OSError as error:
            raise click.ClickException(f"{svg}: {error.strerror}") from error
        click.echo(f"picture in {svg}", err=True)


def _file(folder: Path, name: str, kind: str) -> Path:
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml"))) or "none"
        raise click.ClickException(f"no {kind} {name!r} in {folder.name}, there is {known}")
    return path


def _wanted(graphs: Path, policy: str, declared: Graph) -> list[str]:
    """Return the outputs that calls of a policy run.

    Raises:
        click.ClickException: If there is no such policy, or it is for another graph.
        ConfigError: If it cannot be read.
    """
    loaded = load_policy(_file(graphs / "policies", policy, "policy"))
    if loaded.graph != declared.name:
        raise click.ClickException(f"policy {policy!r} is for the graph {loaded.graph!r}, not {declared.name!r}")
    return run_outputs(declared, loaded.wanted_outputs)


async def _measure(repository: ModelRepository, plan: Draft) -> Mapping[str, float]:
    """Return what each model node costs for one row of `MEASURED_TOKENS`, in milliseconds, as fitted at warm-up."""
    from inference.engine import Engine  # brings onnxruntime, which nothing else here needs

    engine = Engine(repository)
    await engine.start()
    try:
        costs = engine.stats().costs
    finally:
        await engine.stop()
    click.echo(f"cost: one row of {MEASURED_TOKENS} tokens, as fitted at warm-up on this machine", err=True)
    found: dict[str, float] = {}
    for vertex in plan.vertices.values():
        if vertex.op is Op.MODEL:
            cost = costs[f"{vertex.model}/{repository.model(vertex.model).latest.version}"]
            found[vertex.name] = 1000 * (cost.a_s * MEASURED_TOKENS + cost.b_s)
    return found


def _summary(title: str, declared: Graph, wanted: Wanted, repository: ModelRepository) -> str:
    plan = compile_graph(declared, wanted, repository, backends=BACKENDS)
    return f"{title}: ok, {len(plan.outputs)} outputs in {len(plan.steps)} steps"
