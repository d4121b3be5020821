"""A picture of a graph on its way to a plan: one panel a pass, one card a node, a frame round each fused group.

Cards stand in columns by depth, inputs on the left. Solid lines are wires; a dashed line leads from a node to one
whose condition looks at it. Colours are mid tones that read on light and dark; nothing is said by colour alone; no
font or file from outside is needed.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

from inference.compile.compiler import Stage
from inference.compile.draft import Draft, Vertex, sort_by_dependency
from inference.explain import NO_COSTS, PASS_NOTES, cost_text, ladder_text
from inference.plan import Op
from inference.when import ALWAYS

_WIDTH, _GAP_X, _GAP_Y, _LINE, _MARGIN = 232, 56, 12, 15, 24
_TITLE_HEIGHT = 44
_MAX_CHARACTERS = 36  # of the small font on one card
_MAX_NAME = 25  # characters of a name, which is larger
_MAX_WHEN_LINES = 3
_STYLE = """
.cueline-plan { color: #1f2933; font: 11px system-ui, -apple-system, "Segoe UI", sans-serif }
.cueline-plan text { fill: currentColor }
.cueline-plan .name { font-size: 13px; font-weight: 600 }
.cueline-plan .pass { font-size: 15px; font-weight: 600 }
.cueline-plan .card { fill: #f4f6f9; stroke: #8a94a6 }
.cueline-plan .model { stroke: #4f7cc4; stroke-width: 2 }
.cueline-plan .input { stroke-dasharray: 2 2 }
.cueline-plan .output { stroke: #2f9073; stroke-width: 2 }
.cueline-plan .group { fill: #4f7cc4; fill-opacity: .08; stroke: #4f7cc4; stroke-dasharray: 6 4 }
.cueline-plan .wire { fill: none; stroke: #8a94a6; stroke-width: 1.2 }
.cueline-plan .condition { fill: none; stroke: #b7791f; stroke-width: 1.2; stroke-dasharray: 3 3 }
@media (prefers-color-scheme: dark) {
  .cueline-plan { color: #e4e9f0 }
  .cueline-plan .card { fill: #1d232b }
}
"""


def explain_svg(stages: Sequence[Stage], *, costs: Mapping[str, float] = NO_COSTS, passes: bool = False) -> str:
    """Draw a compilation.

    Args:
        stages: From `compile.trace`.
        costs: Node to measured milliseconds, for nodes that were calibrated.
        passes: Whether to draw the draft after every pass, not only the plan.

    Returns:
        A complete SVG document.
    """
    panels = [
        _Panel(draft, stage.name, costs) for stage in (stages if passes else stages[-1:]) for draft in stage.drafts
    ]
    width = max(panel.width for panel in panels)
    height = sum(panel.height for panel in panels)
    plan = stages[-1].drafts[0]
    about = f"Graph {plan.graph}: {len(plan.vertices)} steps, outputs {', '.join(plan.outputs)}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="cueline-plan" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" aria-label={quoteattr(about)}>',
        f"<style>{_STYLE}</style>",
    ]
    top = 0
    for panel in panels:
        parts += [f'<g transform="translate(0 {top})">', *panel.draw(), "</g>"]
        top += panel.height
    return "\n".join([*parts, "</svg>"]) + "\n"


@dataclass(slots=True)
class _Card:
    """A box with a name and lines, and all that is told where these are cut; `x`, `y` is its upper left corner."""

    name: str
    kind: str
    lines: tuple[str, ...]
    told: tuple[str, ...]
    column: int
    group: int
    x: int = 0
    y: int = 0

    @property
    def height(self) -> int:
        return 26 + _LINE * len(self.lines)

    @property
    def middle(self) -> int:
        return self.y + self.height // 2


class _Panel:
    """One draft, laid out."""

    def __init__(self, draft: Draft, name: str, costs: Mapping[str, float]) -> None:
        self._draft = draft
        self._title = f"after {name} – {draft.graph}"
        self._note = PASS_NOTES[name]
        depth = _depths(draft)
        self._cards = {name: _Card(name, "card input", (kind,), (kind,), 0, 0) for name, kind in _inputs(draft).items()}
        outputs = set(draft.outputs.values())
        for number, vertex in enumerate(draft.vertices.values(), 1):
            kind = "card output" if vertex.name in outputs else "card model" if vertex.op is Op.MODEL else "card"
            lines = _lines(vertex, draft, costs, number if name == "order" else None)
            shown = tuple(part for line in lines for part in _wrap(line))
            self._cards[vertex.name] = _Card(vertex.name, kind, shown, lines, depth[vertex.name], vertex.group)
        self._place()
        columns = 1 + max((card.column for card in self._cards.values()), default=0)
        self.width = 2 * _MARGIN + columns * _WIDTH + (columns - 1) * _GAP_X
        self.height = max((card.y + card.height for card in self._cards.values()), default=0) + _MARGIN + _GAP_Y

    def _place(self) -> None:
        """Give every card its corner. Each group has a lane of its own, so that frames never cross other cards."""
        columns: dict[int, dict[int, list[_Card]]] = {}
        for card in self._cards.values():
            columns.setdefault(card.column, {}).setdefault(card.group, []).append(card)
        heights: dict[int, int] = {0: 0}
        for lanes in columns.values():
            for group, cards in lanes.items():
                if set(lanes) != {0}:
                    heights[group] = max(heights.get(group, 0), _stacked(cards))
        top = _TITLE_HEIGHT + _MARGIN
        tops: dict[int, int] = {}
        bottom = top
        for group in sorted(heights, key=lambda group: (group == 0, group)):
            tops[group], bottom = bottom, bottom + heights[group] + (3 * _GAP_Y if heights[group] else 0)
        tallest = max((_stacked(cards) for lanes in columns.values() for cards in lanes.values()), default=0)
        whole = max(bottom - top - 3 * _GAP_Y, tallest)
        for column, lanes in columns.items():
            for group, cards in lanes.items():
                # Without a group beside it, a column stands in the middle of the panel.
                start, room = (top, whole) if set(lanes) == {0} else (tops[group], heights[group])
                y = start + max(0, (room - _stacked(cards)) // 2)
                for card in cards:
                    card.x, card.y = _MARGIN + column * (_WIDTH + _GAP_X), y
                    y += card.height + _GAP_Y

    def draw(self) -> list[str]:
        """Return the elements of the panel, back to front."""
        parts = [
            _text(_MARGIN, 26, self._title, "pass"),
            _text(_MARGIN, 42, self._note),
        ]
        for group in sorted({card.group for card in self._cards.values()} - {0}):
            cards = [card for card in self._cards.values() if card.group == group]
            left, upper = min(card.x for card in cards) - 10, min(card.y for card in cards) - 18
            right, lower = max(card.x for card in cards) + _WIDTH + 10, max(card.y + card.height for card in cards) + 8
            parts.append(
                f'<rect class="group" x="{left}" y="{upper}" width="{right - left}" height="{lower - upper}" rx="10"/>'
            )
            parts.append(_text(left + 8, upper + 13, f"fused group {group}"))
        writers = self._draft.writers()
        for vertex in self._draft.vertices.values():
            wires = {writers.get(value, value) for value in vertex.reads}
            conditions = {writers[value] for value in vertex.when.names() if value in writers} - wires
            parts += [self._line(source, vertex.name, "wire") for source in sorted(wires)]
            parts += [self._line(source, vertex.name, "condition") for source in sorted(conditions)]
        for card in self._cards.values():
            parts += self._card(card)
        return parts

    def _line(self, source: str, target: str, kind: str) -> str:
        start, end = self._cards[source], self._cards[target]
        x1, y1, x2, y2 = start.x + _WIDTH, start.middle, end.x, end.middle
        bend = (x2 - x1) // 2
        return f'<path class="{kind}" d="M{x1} {y1} C{x1 + bend} {y1} {x2 - bend} {y2} {x2} {y2}"/>'

    def _card(self, card: _Card) -> list[str]:
        whole = escape("\n".join((card.name, *card.told)))
        parts = [
            f"<g><title>{whole}</title>",
            f'<rect class="{card.kind}" x="{card.x}" y="{card.y}" width="{_WIDTH}" height="{card.height}" rx="6"/>',
            _text(card.x + 10, card.y + 18, _fit(card.name, _MAX_NAME), "name"),
        ]
        for index, line in enumerate(card.lines):
            parts.append(_text(card.x + 10, card.y + 18 + _LINE * (index + 1), _fit(line)))
        return [*parts, "</g>"]


def _inputs(draft: Draft) -> Mapping[str, str]:
    return {name: kind if isinstance(kind, str) else "one of " + ", ".join(kind) for name, kind in draft.inputs.items()}


def _depths(draft: Draft) -> Mapping[str, int]:
    """Return the column of each vertex: one behind the deepest that it needs."""
    dependencies = draft.dependencies()
    depth: dict[str, int] = {}
    for name in sort_by_dependency(dependencies)[0]:
        depth[name] = 1 + max((depth[other] for other in dependencies[name]), default=0)
    return depth


def _lines(vertex: Vertex, draft: Draft, costs: Mapping[str, float], number: int | None) -> tuple[str, ...]:
    told = [vertex.model] if vertex.op is Op.MODEL else [f"{key} {value}" for key, value in vertex.params.items()]
    lines = [" · ".join([*([f"step {number}"] if number else []), vertex.op.value, *told])]
    if vertex.when != ALWAYS:
        lines.append(f"when {vertex.when}")
    if vertex.op is Op.MODEL:
        lines.append(f"{len(vertex.tensors)} outputs: {', '.join(vertex.tensors)}")
        if ladder := draft.buckets.get(vertex.model):
            backend = draft.backend.get(vertex.model)
            lines.append(f"{backend} · {ladder_text(ladder)}" if backend else ladder_text(ladder))
    if number or vertex.budget_ms is not None:
        budget = "–" if vertex.budget_ms is None else f"{vertex.budget_ms:g} ms"
        lines.append(f"budget {budget} · cost {cost_text(vertex, costs)}")
    return tuple(lines)


def _stacked(cards: Sequence[_Card]) -> int:
    return sum(card.height for card in cards) + _GAP_Y * (len(cards) - 1)


def _text(x: int, y: int, text: str, kind: str = "") -> str:
    return f'<text{f" class={quoteattr(kind)}" if kind else ""} x="{x}" y="{y}">{escape(text)}</text>'


def _wrap(line: str) -> list[str]:
    """Give a condition a few lines, as it says which rows enter; anything else has one."""
    if not line.startswith("when "):
        return [line]
    return textwrap.wrap(line, _MAX_CHARACTERS, max_lines=_MAX_WHEN_LINES, placeholder=" …", break_on_hyphens=False)


def _fit(text: str, characters: int = _MAX_CHARACTERS) -> str:
    """Cut a line at the edge of its card; the card's tooltip has the whole."""
    return text if len(text) <= characters else text[: characters - 1] + "…"
