"""Pass 1, resolve: names become values, and every value gets a type from the model repository.

A node whose inputs exist only for some rows enters only those rows, so its condition includes theirs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from inference.compile.draft import Draft, Vertex, sort_by_dependency
from inference.compile.logic import MAX_COMPARISONS, conjunction, cover_members, disjunction, is_large, normalise
from inference.compile.signatures import SIGNATURES, Site, Wire
from inference.compile.types import Anything, Record, Scalar, ValueType, type_of_input
from inference.errors import GraphError
from inference.graph import Graph
from inference.plan import Op
from inference.repository import ModelRepository
from inference.when import ALWAYS, NEVER, Predicate, WhenError, parse_when


def resolve(graph: Graph, repository: ModelRepository, functions: Collection[str] | None = None) -> Draft:
    """Turn a declaration into a draft whose every value has a type.

    Args:
        graph: As read.
        repository: Names, shapes, dtypes, labels and heads of the models.
        functions: Names registered for `python` nodes; None where they are not known yet.

    Raises:
        GraphError: Naming node, input, expected and given.
    """
    types: dict[str, ValueType] = {name: type_of_input(graph.inputs[name]) for name in sorted(graph.inputs)}
    vertices: dict[str, Vertex] = {}
    whens = {name: _parse(graph, name) for name in sorted(graph.nodes)}
    for name in _order(graph, whens):
        node, site = graph.nodes[name], Site(graph, name, repository, functions)
        wires = [_wire(site, text, vertices, types) for text in node.inputs]
        vertex, written = SIGNATURES[Op(node.op)](site, node, wires)
        for leaf in whens[name].leaves():
            _check_leaf(site, leaf, vertices, types)
        present = [vertices[read.split(".", 1)[0]].when for read in vertex.reads if read not in graph.inputs]
        # A select takes the first input that is there, so one of them is enough.
        inherited = disjunction(present) if vertex.op is Op.SELECT and present else conjunction(present)
        own = _with_presence(normalise(whens[name]), vertices)
        when = cover_members(conjunction((own, inherited)), graph.inputs)
        if is_large(when):
            raise site.error(
                "too many comparisons, its own and those it inherits",
                "when",
                expected=f"at most {MAX_COMPARISONS}",
                given=str(sum(1 for _ in when.leaves())),
            )
        if when == NEVER:
            raise site.error("can never be true", "when", given=node.when or "inputs that exclude each other")
        vertices[name] = replace(vertex, when=when, budget_ms=node.budget_ms)
        types.update(written)
    _check_outputs(graph)
    inputs = {name: graph.inputs[name] for name in sorted(graph.inputs)}
    outputs = {name: name for name in sorted(graph.outputs)}
    return Draft(graph.name, inputs, {}, outputs, types).with_vertices(vertices.values())


def _parse(graph: Graph, name: str) -> Predicate:
    text = graph.nodes[name].when
    try:
        return ALWAYS if text is None else parse_when(text)
    except WhenError as error:
        raise GraphError(str(error), graph=graph.file, node=name, input="when") from error


def _order(graph: Graph, whens: Mapping[str, Predicate]) -> list[str]:
    """Return the nodes so that each comes after those it mentions.

    Raises:
        GraphError: If a node mentions what is not declared, or nodes wait for each other.
    """
    dependencies: dict[str, frozenset[str]] = {}
    for name in sorted(graph.nodes):
        heads = {text: text.split(".", 1)[0] for text in graph.nodes[name].inputs}
        looked_at = whens[name].names()
        for text, head in [*heads.items(), *((head, head) for head in sorted(looked_at))]:
            if head not in graph.nodes and head not in graph.inputs:
                raise GraphError(
                    "unknown name",
                    graph=graph.file,
                    node=name,
                    input=text if text in heads else "when",
                    expected="a declared input or a node",
                    given=text,
                )
        dependencies[name] = looked_at.union(heads.values()) & graph.nodes.keys()
    order, stuck = sort_by_dependency(dependencies)
    if stuck:
        # Every node left over waits for another one left over, so walking back must close a circle.
        path = [stuck[0]]
        while path[-1] not in path[:-1]:
            path.append(min(dependencies[path[-1]].intersection(stuck)))
        circle = path[path.index(path[-1]) :]
        raise GraphError(
            "waits for itself",
            graph=graph.file,
            node=circle[0],
            input="when" if circle[1] in whens[circle[0]].names() else circle[1],
            expected="a node that can run before this one",
            given=" → ".join(circle),
        )
    return order


def _wire(site: Site, text: str, vertices: Mapping[str, Vertex], types: Mapping[str, ValueType]) -> Wire:
    if text in types:
        return Wire(text, types[text])
    head, _, tensor = text.partition(".")
    source = vertices.get(head)
    if source is not None and source.op is Op.MODEL:
        expected = ", ".join(source.writes)
        raise site.error(f"model {source.model} has no such output", text, expected=expected, given=text)
    kind = f"a {source.op.value} node" if source else "a declared input"
    raise site.error("has no tensors", text, expected=head, given=f"{tensor!r} of {kind}")


def _with_presence(predicate: Predicate, vertices: Mapping[str, Vertex]) -> Predicate:
    """Say of each leaf what it implies: that the node it looks at has run. An absent value fulfils no leaf."""
    if predicate.kind in ("and", "or"):
        join = conjunction if predicate.kind == "and" else disjunction
        return join(_with_presence(operand, vertices) for operand in predicate.operands)
    if predicate.name in vertices:
        return conjunction((predicate, vertices[predicate.name].when))
    return predicate


def _check_leaf(site: Site, leaf: Predicate, vertices: Mapping[str, Vertex], types: Mapping[str, ValueType]) -> None:
    """Check one comparison of a `when` against the type of what it looks at."""

    def refuse(problem: str, expected: str, given: str) -> GraphError:
        return site.error(f"{leaf}: {problem}", "when", expected=expected, given=given)

    writer = vertices.get(leaf.name)
    if writer is not None and writer.op is Op.MODEL:
        raise refuse("tensors cannot be compared", "an input or a classified output", f"a model node {leaf.name}")
    kind = types[leaf.name]
    for depth, key in enumerate(leaf.path):
        if isinstance(kind, Anything):
            return
        if not isinstance(kind, Record) or key not in kind.keys:
            parent = ".".join((leaf.name, *leaf.path[:depth]))
            keys = ", ".join(kind.keys) if isinstance(kind, Record) else "no key"
            raise refuse(f"{parent} has no such key", f"one of {keys}" if "," in keys else keys, key)
        kind = kind.keys[key]
    if isinstance(kind, Anything):
        return
    if not isinstance(kind, Scalar):
        raise refuse("cannot be compared", "a string, number or bool", str(kind))
    constant = leaf.constant
    given = {str: f"{constant!r}", float: f"the number {constant}", bool: f"the bool {str(constant).lower()}"}
    if leaf.kind == "truthy":
        if kind.kind != "bool":
            raise refuse("needs a comparison", "bool", str(kind))
    elif leaf.kind not in ("==", "!=") and kind.kind != "float":
        raise refuse("cannot be ordered", "float", str(kind))
    elif type(constant) is not {"string": str, "float": float, "bool": bool}[kind.kind]:
        raise refuse("wrong type", str(kind), given[type(constant)])
    elif kind.members and constant not in kind.members:
        raise refuse("unknown word", str(kind), repr(constant))


def _check_outputs(graph: Graph) -> None:
    for index, name in enumerate(graph.outputs):
        node = graph.nodes.get(name)
        if node is None or Op(node.op) in (Op.TOKENIZE, Op.MODEL):
            raise GraphError(
                "is no output" if node else "unknown node",
                graph=graph.file,
                field=f"outputs[{index}]",
                expected="a node that makes one value",
                given=f"{name} ({node.op})" if node else name,
            )
