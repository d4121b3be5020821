"""The declaration: YAML → `Graph`, names and nothing else. What the names mean is checked by `compile.resolve`.

graphs/guidance.yaml ──read_graph──▶ Graph(name, inputs, nodes, outputs) ──compile_graph──▶ Plan
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml

from inference.choices import one_of
from inference.errors import GraphError
from inference.when import KEYWORDS

InputType = Literal["string", "bool", "float", "carry"] | tuple[str, ...]
"""Type of a declared input; a tuple lists the members that a string may have, a `carry` comes from the turn before."""


class Node(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One declared node.

    Attributes:
        op: What it does.
        inputs: Declared inputs, nodes, or outputs of model nodes (`utterance.embedding`).
        model: Model of a `tokenize` or `model` node.
        when: Rows that enter it, in the grammar of `inference.when`; None: every row.
        budget_ms: What it may take; shown beside what it does take.
        prototypes: Whose labels by example a `classify` node compares with.
        mode: How a `pool` node makes one vector of a row's tokens.
        key: Key of its input's value that a `select` node picks.
        function: Registered function of a `python` node.
        top_k: Results of a `retrieve` node.
        params: Anything else that a `retrieve` or `python` node hands to its function.
    """

    op: Literal["tokenize", "model", "pool", "classify", "select", "retrieve", "python"]
    inputs: tuple[str, ...] = ()
    model: str = ""
    when: str | None = None
    budget_ms: Annotated[float, msgspec.Meta(gt=0, le=3_600_000)] | None = None
    prototypes: Literal["tenant"] | None = None
    mode: Literal["mean", "max", "first"] | None = None
    key: str | None = None
    function: str = ""
    top_k: Annotated[int, msgspec.Meta(gt=0, le=1000)] | None = None
    params: Mapping[str, Any] = {}


class Graph(msgspec.Struct, frozen=True):
    """A declared graph.

    Attributes:
        name: Its name, and the stem of its file.
        inputs: Type of each declared input.
        nodes: By name; the order means nothing.
        outputs: Nodes that a policy may ask for.
    """

    name: str
    inputs: Mapping[str, InputType]
    nodes: Mapping[str, Node]
    outputs: tuple[str, ...]

    @property
    def file(self) -> str:
        """Name of the file that declares it; how errors name the graph."""
        return f"{self.name}.yaml"


class _GraphFile(msgspec.Struct, forbid_unknown_fields=True):
    """The file's first level; the levels below are read one by one, so that errors can name the key."""

    name: str
    inputs: dict[str, Any]
    nodes: dict[str, Any]
    outputs: tuple[str, ...]


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML without silently overwritten keys: the second node of a name would win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                continue
            if key_node.value in seen:
                problem = f"{key_node.value!r} is declared twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def read_graph(path: Path) -> Graph:
    """Read one graph file.

    Raises:
        GraphError: Naming the file and the path of the bad value, such as `guidance.yaml: nodes.intent.when`.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise GraphError(f"cannot be read ({type(error).__name__})", graph=path.name) from error
    graph = parse_graph(text, path.name)
    if graph.name != path.stem:
        raise GraphError("is not the file's name", graph=path.name, field="name", expected=path.stem, given=graph.name)
    return graph


def load_graphs(folder: Path) -> Mapping[str, Graph]:
    """Read every graph of a folder, by name.

    Raises:
        GraphError: Of the first bad file.
    """
    return {path.stem: read_graph(path) for path in sorted(folder.glob("*.yaml"))}


def parse_graph(text: str, file: str) -> Graph:
    """Read one graph.

    Args:
        text: YAML.
        file: How errors name the graph.

    Raises:
        GraphError: Naming the file and the path of the bad value.
    """
    try:
        content = yaml.load(text, _UniqueKeyLoader)
    except Exception as error:  # YAML's constructors let through whatever a malformed scalar makes them raise
        raise GraphError(_yaml_problem(error), graph=file) from error
    declared = _convert(content, _GraphFile, file, "")
    inputs = {name: _read_input(raw, file, f"inputs.{name}") for name, raw in declared.inputs.items()}
    nodes = {name: _convert(raw, Node, file, f"nodes.{name}") for name, raw in declared.nodes.items()}
    for kind, names in (("inputs", inputs), ("nodes", nodes)):
        for name in names:
            if not (name.isidentifier() and name.isascii()) or name in KEYWORDS:
                raise GraphError(
                    "is no name", graph=file, field=f"{kind}.{name}", expected="letters, digits and _", given=name
                )
    if sum(kind == "carry" for kind in inputs.values()) > 1:
        raise GraphError("a turn has one turn before it", graph=file, field="inputs", expected="one input `carry`")
    if clash := sorted(inputs.keys() & nodes.keys()):
        raise GraphError("is an input already", graph=file, node=clash[0], field=f"nodes.{clash[0]}")
    for index, name in enumerate(declared.outputs):
        if name in declared.outputs[:index]:
            raise GraphError("is listed twice", graph=file, field=f"outputs[{index}]", given=name)
    if not declared.outputs:
        raise GraphError("names no node", graph=file, field="outputs")
    return Graph(declared.name, inputs, nodes, declared.outputs)


def _read_input(raw: Any, file: str, field: str) -> InputType:
    declared: InputType = _convert(raw, InputType, file, field)
    if isinstance(declared, tuple) and (len(set(declared)) < max(2, len(declared)) or not all(declared)):
        raise GraphError(
            "bad list", graph=file, field=field, expected="two or more different words", given=str(list(declared))
        )
    return declared


def _convert(raw: Any, kind: Any, file: str, field: str) -> Any:
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at ")
        path = place.replace("`key` in ", "").strip("`").removeprefix("$")
        if problem.startswith("Invalid enum value"):
            problem += one_of(kind, path)
        where = (field + path) if field else path.lstrip(".")
        raise GraphError(problem[:1].lower() + problem[1:], graph=file, field=where or None) from error


def _yaml_problem(error: Exception) -> str:
    """Return one line with the place, without the text around it."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or type(error).__name__
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else f"is no YAML: {problem}"
