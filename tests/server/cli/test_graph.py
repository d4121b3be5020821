from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from server.cli.graph import graph
from tests.inference.compile.test_compiler import GUIDANCE
from tests.inference.model_folders import write_model

POLICY = """
tenant: bank
version: 1
graph: guidance
outputs: {intent: {min_score: 0.6}, actions: {}}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_model(tmp_path / "model_repo", weights=False)
    policies = tmp_path / "graphs" / "policies"
    policies.mkdir(parents=True)
    (tmp_path / "graphs" / "guidance.yaml").write_text(GUIDANCE)
    (policies / "bank.yaml").write_text(POLICY)
    return tmp_path


def call(project: Path, *words: str) -> Result:
    folders = ["--graphs", str(project / "graphs"), "--model-repo", str(project / "model_repo")]
    return CliRunner().invoke(graph, [*words, *folders])


def test_check_compiles_graphs_and_policies(project: Path) -> None:
    result = call(project, "check")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "guidance: ok, 5 outputs in 7 steps",
        "policy bank: ok, 2 outputs in 4 steps",
    ]
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("file", "text", "problem"),
    [
        ("graphs/broken.yaml", "name: [", "broken.yaml: line 1, column 8: expected the node content"),
        ("graphs/other.yaml", GUIDANCE, "other.yaml: name: is not the file's name; expected other, given guidance"),
        (
            "graphs/guidance.yaml",
            GUIDANCE.replace("when: speaker == customer", "when: speaker == custmer"),
            "guidance.yaml: nodes.intent.when: speaker == custmer: unknown word; "
            "expected one of customer, agent, given 'custmer'",
        ),
        (
            "graphs/policies/car.yaml",
            POLICY.replace("intent", "mood"),
            "policies/car.yaml: outputs.mood: graph `guidance` has no output `mood`",
        ),
        (
            "graphs/policies/car.yaml",
            POLICY.replace("graph: guidance", "graph: nothing"),
            "policies/car.yaml: graph: no graph `nothing`",
        ),
        ("graphs/policies/car.yaml", "- a", "policies/car.yaml: a policy is a mapping"),
        ("model_repo/utterance/1/heads.json", "{", "model_repo/utterance/1/heads.json: "),
    ],
)
def test_check_tells_each_problem_in_a_line(file: str, text: str, problem: str, project: Path) -> None:
    (project / file).write_text(text)
    result = call(project, "check")
    assert result.exit_code == 1
    assert result.stderr.startswith(problem)
    assert all(line.strip() for line in result.stderr.splitlines())


def test_check_goes_on_after_a_problem(project: Path) -> None:
    (project / "graphs/broken.yaml").write_text("name: [")
    (project / "graphs/policies/car.yaml").write_text(POLICY.replace("graph: guidance", "graph: broken"))
    result = call(project, "check")
    assert result.stdout.splitlines() == ["guidance: ok, 5 outputs in 7 steps", "policy bank: ok, 2 outputs in 4 steps"]
    assert len(result.stderr.splitlines()) == 1


def test_a_folder_without_graphs_is_a_problem(project: Path) -> None:
    (project / "graphs/guidance.yaml").unlink()
    assert call(project, "check").exit_code == 1


def test_an_unknown_config_field_is_told_but_no_problem(project: Path) -> None:
    with (project / "model_repo/utterance/config.pbtxt").open("a") as file:
        file.write("\nmax_batch_sise: 4\n")
    result = call(project, "check")
    assert result.exit_code == 0
    assert "ignored: line" in result.stderr
    assert "max_batch_sise" in result.stderr


def test_explain_prints_the_plan_of_a_policy(project: Path) -> None:
    result = call(project, "explain", "guidance", "--policy", "bank")
    assert result.exit_code == 0
    assert result.stdout.startswith("plan guidance: 4 steps, 2 outputs, structure ")
    assert "after resolve" not in result.stdout
    assert "after resolve" in call(project, "explain", "guidance", "--passes").stdout


def test_explain_shows_what_several_policies_share(project: Path) -> None:
    other = POLICY.replace("tenant: bank", "tenant: shop").replace(
        "{intent: {min_score: 0.6}, actions: {}}", "{moments: {}}"
    )
    (project / "graphs/policies/shop.yaml").write_text(other)
    both = call(project, "explain", "guidance", "--policy", "bank", "--policy", "shop", "--passes")
    assert both.exit_code == 0, both.output
    before, _, after = both.stdout.partition("after merge")
    assert "  guidance for actions, intent\n" in before
    assert "  guidance for moments\n" in before
    assert "plan guidance: 5 steps, 3 outputs, structure " in after
    alone = call(project, "explain", "guidance", "--policy", "bank").stdout
    assert alone.split("structure ")[1].split()[0] != after.split("structure ")[1].split()[0]


def test_explain_refuses_a_policy_of_another_graph(project: Path) -> None:
    (project / "graphs/policies/shop.yaml").write_text(POLICY.replace("graph: guidance", "graph: other"))
    result = call(project, "explain", "guidance", "--policy", "shop")
    assert result.exit_code == 1
    assert "policy 'shop' is for the graph 'other', not 'guidance'" in result.stderr


def test_explain_draws(project: Path) -> None:
    picture = project / "plan.svg"
    assert call(project, "explain", "guidance", "--svg", str(picture)).exit_code == 0
    assert ElementTree.fromstring(picture.read_text()).tag.endswith("svg")


@pytest.mark.slow
def test_explain_measures_the_shipped_model() -> None:
    result = CliRunner().invoke(graph, ["explain", "guidance", "--measure"])
    assert result.exit_code == 0, result.stderr
    (line,) = [line for line in result.stdout.splitlines() if " model  " in line]
    assert line.endswith(" ms")


@pytest.mark.parametrize("words", [("nothing",), ("guidance", "--policy", "nobody")])
def test_explain_names_what_is_missing(words: tuple[str, ...], project: Path) -> None:
    result = call(project, "explain", *words)
    assert result.exit_code == 1
    assert f"{words[-1]!r} in " in result.stderr
    assert "there is " in result.stderr


def test_the_shipped_project_is_right() -> None:
    result = CliRunner().invoke(graph, ["check"])
    assert result.exit_code == 0, result.stderr


def test_a_picture_that_cannot_be_written_is_one_line(project: Path) -> None:
    result = call(project, "explain", "guidance", "--svg", str(project / "nowhere" / "plan.svg"))
    assert result.exit_code == 1
    assert "plan.svg: No such file or directory" in result.stderr
