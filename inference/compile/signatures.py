"""What each op takes and gives: one function an op, from a node and its typed inputs to a vertex and its types.

    (site, node, wires) → (vertex, types of the values it writes)

A new op is a function here, an entry of `SIGNATURES`, and a branch of the runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inference.compile.draft import Vertex
from inference.compile.types import (
    Anything,
    Claims,
    Handed,
    Record,
    Scalar,
    Tensor,
    Tokens,
    ValueType,
    join_types,
    type_of_head,
    type_of_input,
)
from inference.errors import GraphError, ModelError
from inference.graph import Graph, Node
from inference.head_spec import HeadSpec
from inference.model_config import FLOAT_DTYPES, TensorSpec
from inference.plan import Op
from inference.repository import ModelRepository, ModelVersion

_TOKEN_INPUTS = frozenset({"input_ids", "attention_mask", "token_type_ids"})
_STRING = Scalar("string")
_OWN_KEYS = ("model", "prototypes", "mode", "key", "function", "top_k", "params")


@dataclass(frozen=True, slots=True)
class Wire:
    """One input of a node: the value it names, and the type of that value."""

    value: str
    type: ValueType


@dataclass(frozen=True, slots=True)
class Site:
    """The node under work, and all that its signature may look at."""

    graph: Graph
    name: str
    repository: ModelRepository
    functions: Collection[str] | None

    def error(self, problem: str, input: str = "", *, expected: str = "", given: str = "") -> GraphError:
        """Return an error that names this node."""
        return GraphError(problem, graph=self.graph.file, node=self.name, input=input, expected=expected, given=given)

    def wrong_type(self, wire: Wire, expected: str) -> GraphError:
        """Return the error for an input that carries something else."""
        return self.error("wrong type", wire.value, expected=expected, given=str(wire.type))

    def version(self, model: str) -> ModelVersion:
        """Return the version of a model whose names and shapes the graph is checked against.

        Raises:
            GraphError: If the model is missing or broken.
        """
        try:
            return self.repository.model(model).latest
        except ModelError as error:
            raise self.error(error.message, expected="a model that can be served", given=model) from error

    def take(self, wires: Sequence[Wire], *expected: str) -> None:
        """Check the number of inputs, given a word for each that is expected."""
        if len(wires) != len(expected):
            raise self.error(
                "wrong number of inputs", expected=f"{len(expected)} ({', '.join(expected)})", given=str(len(wires))
            )

    def take_keys(self, node: Node, *, needed: tuple[str, ...] = (), allowed: tuple[str, ...] = ()) -> None:
        """Check the keys of the declaration that not every op has."""
        given = [key for key in _OWN_KEYS if getattr(node, key)]
        for key in needed:
            if key not in given:
                raise self.error(f"{node.op} needs {key!r}", expected=key, given="nothing")
        for key in given:
            if key not in needed + allowed:
                own = ", ".join(needed + allowed) or "no keys of its own"
                raise self.error(f"{node.op} takes no {key!r}", expected=own, given=key)


Signature = Callable[[Site, Node, Sequence[Wire]], tuple[Vertex, Mapping[str, ValueType]]]


def _values(wires: Sequence[Wire]) -> tuple[str, ...]:
    return tuple(wire.value for wire in wires)


def _row_of_floats(site: Site, wire: Wire) -> Tensor:
    given = wire.type
    if not isinstance(given, Tensor) or given.dtype not in FLOAT_DTYPES or len(given.dims) != 1:
        raise site.wrong_type(wire, "a row of floats")
    return given


def _check_tokens(site: Site, wire: Wire, model: str) -> None:
    """Accept tokens of the model itself, or of one with the very same tokeniser."""
    digest = site.version(model).tokenizer_digest
    given = wire.type
    if not isinstance(given, Tokens) or (given.model != model and given.tokenizer_digest != digest):
        raise site.wrong_type(wire, f"tokens of {model}")


def _check_tensor(site: Site, wire: Wire, expected: TensorSpec) -> None:
    given = wire.type
    fits = isinstance(given, Tensor) and given.dtype == expected.dtype and len(given.dims) == len(expected.dims)
    if (
        not fits
        or not isinstance(given, Tensor)
        or any(
            ours != theirs and -1 not in (ours, theirs) for ours, theirs in zip(given.dims, expected.dims, strict=True)
        )
    ):
        raise site.wrong_type(wire, f"{expected.name} {expected}")


def _tokenize(site: Site, node: Node, wires: Sequence[Wire]) -> tuple[Vertex, Mapping[str, ValueType]]:
    site.take_keys(node, needed=("model",))
    site.take(wires, "a string")
    if wires[0].type != _STRING:
        raise site.wrong_type(wires[0], "string")
    version = site.version(node.model)
    if version.tokenizer is None:
        raise site.error(f"model {node.model} has no tokeniser", expected="tokenizer.json", given="no such file")
    vertex = Vertex(site.name, Op.TOKENIZE, _values(wires), model=node.model)
    return vertex, {site.name: Tokens(node.model, version.tokenizer_digest)}


def _model(site: Site, node: Node, wires: Sequence[Wire]) -> tuple[Vertex, Mapping[str, ValueType]]:
    """A model whose inputs are token ids takes one tokens value; any other takes its tensors in the config's order."""
    site.take_keys(node, needed=("model",))
    config = site.version(node.model).config
    if {tensor.name for tensor in config.inputs} <= _TOKEN_INPUTS:
        site.take(wires, f"tokens of {node.model}")
        _check_tokens(site, wires[0], node.model)
    else:
        site.take(wires, *(f"{tensor.name} {tensor}" for tensor in config.inputs))
        for wire, tensor in zip(wires, config.inputs, strict=True):
            _check_tensor(site, wire, tensor)
    tensors = tuple(tensor.name for tensor in config.outputs)
    vertex = Vertex(site.name, Op.MODEL, _values(wires), model=node.model, tensors=tensors)
    return vertex, {
        f"{site.name}.{tensor.name}": Tensor(tensor.dtype, tensor.dims, node.model, tensor.name)
        for tensor in config.outputs
    }


def _pool(site: Site, node: Node, wires: Sequence[Wire]) -> tuple[Vertex, Mapping[str, ValueType]]:
    site.take_keys(node, allowed=("mode",))
    site.take(wires, "a row of floats a token", "the tokens")
    given = wires[0].type
    if not isinstance(given, Tensor) or given.dtype not in FLOAT_DTYPES or len(given.dims) != 2:
        raise site.wrong_type(wires[0], "a row of floats a token")
    _check_tokens(site, wires[1], given.model)
    vertex = Vertex(site.name, Op.POOL, _values(wires), model=given.model, params={"mode": node.mode or "mean"})
    return vertex, {site.name: Tensor(given.dtype, given.dims[1:], given.model)}


def _classify(site: Site, node: Node, wires: Sequence[Wire]) -> tuple[Vertex, Mapping[str, ValueType]]:
    """A head reads what its spec names beside the logits: the scope's logit, then who speaks and what was carried over.

    A graph without an input of type `carry` takes every turn for the first one.
    """
    site.take_keys(node, allowed=("prototypes",))
    site.take(wires, "a row of floats")
    given, value = _row_of_floats(site, wires[0]), wires[0].value
    if node.prototypes:
        if not given.model:
            raise site.error("compares vectors of one model", value, expected="a tensor of one model", given=str(given))
        source = (given.tensor,) if given.tensor else ()
        params = {"prototypes": node.prototypes}
        vertex = Vertex(site.name, Op.CLASSIFY, (value,), model=given.model, tensors=source, params=params)
        return vertex, {site.name: Claims(None)}
    version = site.version(given.model) if given.tensor else None
    head = version.heads.get(given.tensor) if version else None
    if version is None or head is None:
        known = ", ".join(sorted(version.heads)) if version else ""
        raise site.error(
            "has no head", value, expected=f"one of {known or '(no heads.json)'}", given=given.tensor or str(given)
        )
    reads, tensors = [value], [given.tensor]
    if head.scope:
        reads.append(value.removesuffix(given.tensor) + head.scope)
        tensors.append(head.scope)
    if head.speakers:
        _check_speakers(site, value, head)
        reads.append("speaker")
    if head.carry:
        reads.extend(name for name, declared in site.graph.inputs.items() if declared == "carry")
    vertex = Vertex(site.name, Op.CLASSIFY, tuple(reads), model=given.model, tensors=tuple(tensors))
    return vertex, {site.name: type_of_head(head, version.labels.get(given.tensor, ()))}


def _check_speakers(site: Site, value: str, head: HeadSpec) -> None:
    declared = site.graph.inputs.get("speaker")
    speakers = sorted(head.speakers or {})
    if not isinstance(declared, tuple) or not set(speakers) <= set(declared):
        raise site.error(
            "this head depends on who speaks",
            value,
            expected=f"an input 'speaker' with {', '.join(speakers)}",
            given="no such input" if declared is None else str(type_of_input(declared)),
        )


def _select(site: Site, node: Node, wires: Sequence[Wire]) -> tuple[Vertex, Mapping[str, ValueType]]:
    """The first input that is there; with `key`, that key of it."""
    site.take_keys(node, allowed=("key",))
    if not wires:
        raise site.error("wrong number of inputs", expected="one or more", given="0")
    kind = wires[0].type
    for wire in wires:
        joined = join_types(kind, wire.type)
        if joined is None:
            raise site.wrong_type(wire, str(kind))
        kind = joined
    if isinstance(kind, Tokens | Handed):
        raise site.wrong_type(wires[0], "a value or a tensor")
    params: dict[str, Any] = {}
    if node.key:
        if not isinstance(kind, Record) or node.key not in kind.keys:
            raise site.error(f"has no key {node.key!r}", wires[0].value, expected=node.key, given=str(kind))
        kind, params = kind.keys[node.key], {"key": node.key}
    model = kind.model if isinstance(kind, Tensor) else ""  # so that its output tells which version's numbers these are
    return Vertex(site.name, Op.SELECT, _values(wires), model=model, params=params), {site.name: kind}


def _retrieve(site: Site, node: Node, wires: Sequence[Wire]) -> tuple[Vertex, Mapping[str, ValueType]]:
    site.take_keys(node, allowed=("top_k", "params"))
    site.take(wires, "a row of floats", "a string")
    _row_of_floats(site, wires[0])
    if wires[1].type != _STRING:
        raise site.wrong_type(wires[1], "string")
    params = {**node.params, **({"top_k": node.top_k} if node.top_k else {})}
    return Vertex(site.name, Op.RETRIEVE, _values(wires), params=params), {site.name: Anything()}


def _python(site: Site, node: Node, wires: Sequence[Wire]) -> tuple[Vertex, Mapping[str, ValueType]]:
    site.take_keys(node, needed=("function",), allowed=("params",))
    if site.functions is not None and node.function not in site.functions:
        known = ", ".join(sorted(site.functions))
        raise site.error("unknown function", expected=f"one of {known or '(none registered)'}", given=node.function)
    params = {**node.params, "function": node.function}
    return Vertex(site.name, Op.PYTHON, _values(wires), params=params), {site.name: Anything()}


SIGNATURES: Mapping[Op, Signature] = {
    Op.TOKENIZE: _tokenize,
    Op.MODEL: _model,
    Op.POOL: _pool,
    Op.CLASSIFY: _classify,
    Op.SELECT: _select,
    Op.RETRIEVE: _retrieve,
    Op.PYTHON: _python,
}
