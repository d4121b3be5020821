"""What became of a graph, in words: the nodes after each pass, then the plan with groups, buckets, budget and cost.

compile.trace ──Stage…──▶ explain_text | explain_svg.explain_svg
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from inference.compile.compiler import Stage
from inference.compile.draft import Draft, Vertex
from inference.plan import Bucket, Op
from inference.when import ALWAYS

NO_COSTS: Mapping[str, float] = {}

PASS_NOTES: Mapping[str, str] = {
    "resolve": "names, shapes and dtypes are checked; a node inherits the condition of its inputs",
    "prune": "what nobody wants is gone",
    "merge": "equal nodes are one",
    "predicates": "a row enters only what it will use",
    "fuse": "a model gives what is read; its heads are one pass",
    "bucket": "shapes to warm",
    "place": "models have a backend",
    "order": "the running order",
}
"""What each pass has done, in a line."""


def explain_text(
    stages: Sequence[Stage], *, costs: Mapping[str, float] = NO_COSTS, structure: str = "", passes: bool = False
) -> str:
    """Describe a compilation.

    Args:
        stages: From `compile.trace`.
        costs: Node to measured milliseconds, for nodes that were calibrated.
        structure: Of the plan; shown in the head line.
        passes: Whether to show the draft after every pass, not only the plan.
    """
    parts: list[str] = []
    for stage in stages if passes else ():
        parts.append(f"after {stage.name}: {PASS_NOTES[stage.name]}")
        for draft in stage.drafts:
            if len(stage.drafts) > 1:
                parts.append(f"  {draft.graph} for {', '.join(draft.outputs)}")
            parts.extend(_table([_short_row(vertex) for vertex in draft.vertices.values()]))
        parts.append("")
    plan = stages[-1].drafts[0]
    named = f", structure {structure}" if structure else ""
    parts.append(f"plan {plan.graph}: {len(plan.vertices)} steps, {len(plan.outputs)} outputs{named}")
    rows: list[Sequence[str]] = [("#", "step", "op", "group", "when", "reads", "budget", "cost")]
    rows += [
        (str(number), *_short_row(vertex), _budget(vertex), cost_text(vertex, costs))
        for number, vertex in enumerate(plan.vertices.values(), 1)
    ]
    parts.extend(_table(rows))
    for model in plan.models:
        parts.append(f"model {model} on {plan.backend[model]}: {ladder_text(plan.buckets[model])}")
    for vertex in plan.vertices.values():
        if vertex.op is Op.MODEL:
            parts.append(f"{vertex.name} gives {', '.join(vertex.tensors)}")
    parts.append(f"outputs as they become ready: {', '.join(outputs_in_order(plan))}")
    return "\n".join(parts) + "\n"


def outputs_in_order(draft: Draft) -> list[str]:
    """Return the output names in the order in which they become ready."""
    place = {value: index for index, v in enumerate(draft.vertices.values()) for value in v.writes}
    return sorted(draft.outputs, key=lambda name: (place[draft.outputs[name]], name))


def ladder_text(ladder: Sequence[Bucket]) -> str:
    """Return a ladder in a few words, each rung as rows × tokens."""
    if len(ladder) == 1:
        return f"1 bucket, {ladder[0].rows}×{ladder[0].tokens}"
    smallest, largest = ladder[0], ladder[-1]
    return f"{len(ladder)} buckets {smallest.rows}×{smallest.tokens}–{largest.rows}×{largest.tokens}"


def cost_text(vertex: Vertex, costs: Mapping[str, float]) -> str:
    """Return the measured cost, with a word where that is over the budget; a dash where nothing was measured."""
    cost = costs.get(vertex.name)
    if cost is None:
        return "–"
    over = vertex.budget_ms is not None and cost > vertex.budget_ms
    return f"{cost:.2f} ms{', over' if over else ''}"


def _budget(vertex: Vertex) -> str:
    return "–" if vertex.budget_ms is None else f"{vertex.budget_ms:g} ms"


def _short_row(vertex: Vertex) -> tuple[str, ...]:
    when = "" if vertex.when == ALWAYS else str(vertex.when)
    return (vertex.name, vertex.op.value, str(vertex.group or ""), when, ", ".join(vertex.reads))


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows with columns aligned, two spaces apart."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
    return ["  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
