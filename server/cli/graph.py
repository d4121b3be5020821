"""`cueline graph`: check what is declared, explain what becomes of it. Needs the model folders, not their weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from inference.compile import Wanted, compile_graph, trace
from inference.errors import GraphError, InferenceError
from inference.explain import explain_text
from inference.explain_svg import explain_svg
from inference.graph import Graph, load_yaml, read_graph
from inference.repository import ModelRepository

PROJECT = Path(__file__).resolve().parents[2]
BACKENDS = ("onnxruntime", "triton")
"""In order of preference, as without configuration."""

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


@dataclass(frozen=True, slots=True)
class _PolicyFile:
    """The two keys of a policy that matter to a graph; the rest is checked where policies are."""

    name: str
    graph: str
    outputs: tuple[str, ...]


@click.group()
def graph() -> None:
    """Check and explain graphs."""


@graph.command()
@_folders[0]
@_folders[1]
def check(graphs: Path, model_repo: Path) -> None:
    """Compile every graph, for all of its outputs and for each policy. One line a problem; exit code 1 if any."""
    repository = ModelRepository.open(model_repo, weights=False)
    problems = [str(problem) for problem in repository.problems]
    for name, model in repository.models.items():
        if model.config.ignored:
            click.echo(f"{model_repo.name}/{name}/config.pbtxt: ignored: {model.config.ignored}", err=True)
    found: dict[str, Graph | None] = {}
    for path in sorted(graphs.glob("*.yaml")):
        found[path.stem] = None
        try:
            declared = read_graph(path)
            found[path.stem] = declared
            click.echo(_summary(path.stem, declared, None, repository))
        except InferenceError as error:
            problems.append(str(error))
    if not found:
        problems.append(f"{graphs.name}: no graphs here")
    for path in sorted((graphs / "policies").glob("*.yaml")):
        try:
            policy = _read_policy(path)
            if policy.graph not in found:
                raise GraphError(
                    "no such graph", graph=path.name, field="graph", expected=", ".join(found), given=policy.graph
                )
            wanted = found[policy.graph]
            if wanted is not None:  # else the graph's own problem is told already
                click.echo(_summary(f"policy {policy.name}", wanted, policy.outputs, repository))
        except InferenceError as error:
            problems.append(f"policy {path.stem}: {error}")
    for problem in problems:
        click.echo(problem, err=True)
    if problems:
        raise SystemExit(1)


@graph.command()
@click.argument("name")
@click.option("--policy", help="Compile for the outputs that this policy wants.")
@click.option("--svg", type=click.Path(path_type=Path, dir_okay=False), help="Write a picture to this file.")
@click.option("--passes", is_flag=True, help="Show what every pass has made of it.")
@_folders[0]
@_folders[1]
def explain(name: str, policy: str | None, svg: Path | None, passes: bool, graphs: Path, model_repo: Path) -> None:
    """Print the plan of graph NAME: steps, conditions, fused groups, buckets, budget and cost."""
    try:
        repository = ModelRepository.open(model_repo, weights=False)
        declared = read_graph(graphs / f"{name}.yaml")
        outputs = _read_policy(graphs / "policies" / f"{policy}.yaml").outputs if policy else None
        stages = trace([(declared, outputs)], repository, backends=BACKENDS)
        structure = compile_graph(declared, outputs, repository, backends=BACKENDS).structure
    except InferenceError as error:
        raise click.ClickException(str(error)) from error
    click.echo(explain_text(stages, structure=structure, passes=passes), nl=False)
    if svg is not None:
        svg.write_text(explain_svg(stages, passes=passes), "utf-8")
        click.echo(f"picture in {svg}", err=True)


def _summary(title: str, declared: Graph, wanted: Wanted, repository: ModelRepository) -> str:
    plan = compile_graph(declared, wanted, repository, backends=BACKENDS)
    return f"{title}: ok, {len(plan.outputs)} outputs in {len(plan.steps)} steps"


def _read_policy(path: Path) -> _PolicyFile:
    """Read which graph and outputs a policy wants.

    Raises:
        GraphError: If the file is missing, or has no such keys.
    """
    try:
        content = load_yaml(path.read_text("utf-8"), path.name)
    except (OSError, UnicodeDecodeError) as error:
        raise GraphError(f"cannot be read ({type(error).__name__})", graph=path.name) from error
    content = content if isinstance(content, dict) else {}
    name, outputs = content.get("graph"), content.get("outputs")
    if not isinstance(name, str):
        raise GraphError("is missing", graph=path.name, field="graph", expected="a name", given=str(name))
    if not isinstance(outputs, dict) or not all(isinstance(output, str) for output in outputs):
        raise GraphError("is missing", graph=path.name, field="outputs", expected="outputs by name", given="nothing")
    return _PolicyFile(path.stem, name, tuple(outputs))
