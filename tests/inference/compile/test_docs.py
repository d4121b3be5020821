"""The examples of docs/graphs.md are right."""

from __future__ import annotations

import re
from pathlib import Path

from inference.compile import compile_graph
from inference.graph import parse_graph
from inference.plan import Op
from inference.repository import ModelRepository
from inference.when import parse_when

PAGE = (Path(__file__).parents[3] / "docs" / "graphs.md").read_text("utf-8")


def test_the_graph_compiles(repository: ModelRepository) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert compile_graph(parse_graph(example, "guidance.yaml"), None, repository, backends=["fake"]).outputs


def test_the_conditions_are_read() -> None:
    section = PAGE.split("## `when`")[1]
    lines = re.findall(r"```\n(.*?)```", section, re.DOTALL)[0].splitlines()
    assert len(lines) == 3
    assert all(str(parse_when(line)) == line for line in lines)


def test_every_op_is_in_the_table() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE.split("## `when`")[0], re.MULTILINE)) == {op.value for op in Op}
