"""What a graph means, twice: straight from the declaration, and from a plan. Both make the same symbols of a row."""

from __future__ import annotations

import operator
import zlib
from collections.abc import Mapping
from typing import Any

from inference.compile.draft import sort_by_dependency
from inference.graph import Graph
from inference.plan import Condition, Op, Plan
from inference.repository import ModelRepository
from inference.when import ALWAYS, Predicate, parse_when

ABSENT = None
COMPARE = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def digest(symbol: Any) -> int:
    return zlib.crc32(repr(symbol).encode())


def head_value(repository: ModelRepository, model: str, tensor: str, reads: tuple[Any, ...]) -> Any:
    """Make up what a head says, from what it reads."""
    version = repository.model(model).latest
    head, labels, seed = version.heads[tensor], version.labels.get(tensor, ()), digest((model, tensor, reads))
    score = seed % 1000 / 1000
    match head.kind:
        case "binary":
            return {head.flag: score > 0.5, "score": score} if head.flag else {"score": score}
        case "multi":
            return [(labels[seed % len(labels)], score)]
        case _:
            scope = {"in_scope": score > 0.3, "in_scope_score": score} if head.scope else {}
            return {"label": labels[seed % len(labels)], "score": score, **scope}


def params_read(params: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Return what a registered function is given beside its inputs."""
    return tuple(sorted((key, value) for key, value in params.items() if value))


def holds(condition: Predicate | Condition, look_up: Any) -> bool:
    match condition.kind:
        case "and":
            return all(holds(operand, look_up) for operand in condition.operands)
        case "or":
            return any(holds(operand, look_up) for operand in condition.operands)
        case "not":
            return not holds(condition.operands[0], look_up)
    value = look_up(condition.name if isinstance(condition, Predicate) else condition.slot)
    for key in condition.path:
        value = value.get(key) if isinstance(value, Mapping) else ABSENT
    if value is ABSENT:
        return False
    return bool(value) if condition.kind == "truthy" else COMPARE[condition.kind](value, condition.constant)


def run_declaration(graph: Graph, repository: ModelRepository, row: Mapping[str, Any]) -> dict[str, Any]:
    """Run every node of the declaration in any order that works, and return its outputs."""
    whens = {name: parse_when(node.when) if node.when else ALWAYS for name, node in graph.nodes.items()}
    order, stuck = sort_by_dependency(
        {
            name: ({text.split(".")[0] for text in node.inputs} | whens[name].names()) & graph.nodes.keys()
            for name, node in graph.nodes.items()
        }
    )
    assert not stuck
    values: dict[str, Any] = dict(row)
    sources: dict[str, tuple[str, str]] = {}
    for name in order:
        node = graph.nodes[name]
        reads = [values.get(text) for text in node.inputs]
        present = [value for value in reads if value is not ABSENT]
        values[name] = ABSENT
        if not (present if node.op == "select" else len(present) == len(reads)) or not holds(whens[name], values.get):
            continue
        match node.op:
            case "tokenize":
                values[name] = ("tokens", *reads)
            case "model":
                for tensor in repository.model(node.model).config.outputs:
                    values[f"{name}.{tensor.name}"] = ("tensor", node.model, tensor.name, *reads)
                    sources[f"{name}.{tensor.name}"] = (node.model, tensor.name)
            case "classify" if node.prototypes:
                values[name] = ("moments", *reads)
            case "classify":
                model, tensor = sources[node.inputs[0]]
                head = repository.model(model).latest.heads[tensor]
                if head.scope:
                    reads.append(values[f"{node.inputs[0].split('.')[0]}.{head.scope}"])
                if head.speakers:
                    reads.append(values["speaker"])
                values[name] = head_value(repository, model, tensor, tuple(reads))
            case "select":
                values[name] = present[0][node.key] if node.key else present[0]
            case _:
                given = {"function": node.function, "top_k": node.top_k, **node.params}
                values[name] = (node.op, params_read(given), *reads)
    return {name: values[name] for name in graph.outputs}


def run_plan(plan: Plan, repository: ModelRepository, row: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Run a plan's steps, and return its outputs and the nodes that were entered."""
    values: list[Any] = [ABSENT] * len(plan.slots)
    for name, slot in plan.inputs.items():
        values[slot] = row[name]
    entered: list[str] = []
    for step in plan.steps:
        if step.when is not None and not holds(step.when, values.__getitem__):
            continue
        entered.append(step.node)
        reads = [values[slot] for slot in step.inputs]
        if step.op is Op.SELECT:
            present = [value for value in reads if value is not ABSENT]
            assert present, f"{step.node} was entered without an input"
            values[step.outputs[0]] = present[0][step.params["key"]] if "key" in step.params else present[0]
            continue
        assert ABSENT not in reads, f"{step.node} was entered without an input"
        match step.op:
            case Op.TOKENIZE:
                values[step.outputs[0]] = ("tokens", *reads)
            case Op.MODEL:
                for tensor, slot in zip(step.tensors, step.outputs, strict=True):
                    values[slot] = ("tensor", step.model, tensor, *reads)
            case Op.CLASSIFY if "prototypes" in step.params:
                values[step.outputs[0]] = ("moments", *reads)
            case Op.CLASSIFY:
                values[step.outputs[0]] = head_value(repository, step.model, step.tensors[0], tuple(reads))
            case _:
                values[step.outputs[0]] = (step.op.value, params_read(step.params), *reads)
    return {name: values[slot] for name, slot in plan.outputs.items()}, entered
