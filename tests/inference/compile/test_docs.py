"""The examples of docs/graphs.md are right."""

from __future__ import annotations

import re
from pathlib import Path

from inference.compile import compile_graph
from inference.graph import parse_graph
from inference.plan import Op
from inference.repository import ModelRepository
from inference.when import parse_when
from tests.inference.model_folders import write_model

PAGE = (Path(__file__).parents[3] / "docs" / "graphs.md").read_text("utf-8")


def test_the_graphs_compile(tmp_path: Path) -> None:
    write_model(tmp_path, extra='output { name: "carry" data_type: TYPE_FP32 dims: [1] }')
    examples = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        graph = parse_graph(example, "example.yaml")
        assert compile_graph(graph, None, ModelRepository.open(tmp_path), backends=["fake"]).outputs


def test_the_conditions_are_read() -> None:
    section = PAGE.split("## `when`")[1]
    lines = re.findall(r"```\n(.*?)```", section, re.DOTALL)[0].splitlines()
    assert len(lines) == 3
    assert all(str(parse_when(line)) == line for line in lines)


def test_every_op_is_in_the_table() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE.split("## `when`")[0], re.MULTILINE)) == {op.value for op in Op}
