from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from inference.compile import Stage, trace
from inference.explain import explain_text
from inference.explain_svg import explain_svg
from inference.graph import Graph, Node, parse_graph
from inference.repository import ModelRepository
from tests.inference.compile.test_compiler import BACKENDS, GUIDANCE
from tests.inference.model_folders import write_model

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Stage, ...]:
    folder = tmp_path_factory.mktemp("models") / "model_repo"
    write_model(folder)
    graph = parse_graph(GUIDANCE, "guidance.yaml")
    return trace([(graph, ["intent", "passages"])], ModelRepository.open(folder), backends=BACKENDS)


def test_the_text_names_steps_groups_buckets_budget_and_cost(stages: tuple[Stage, ...]) -> None:
    text = explain_text(stages, costs={"utterance": 3.1, "passages": 12.0}, structure="abc")
    lines = {line.split()[1]: line.split() for line in text.splitlines() if line.startswith("  ")}
    assert text.startswith("plan guidance: 5 steps, 2 outputs, structure abc\n")
    assert lines["utterance"][2:4] == ["model", "1"]
    assert lines["utterance"][-4:] == ["40", "ms", "3.10", "ms"]
    assert lines["passages"][-4:] == ["ms", "12.00", "ms,", "over"]
    assert lines["intent"][-2:] == ["–", "–"]
    assert "when" in lines["step"]
    assert "model utterance on onnxruntime: 6 buckets 1×8–8×32" in text
    assert "utterance gives embedding, intent_logits, intent_scope, question_logits" in text
    assert "outputs as they become ready: intent, passages" in text


def test_the_text_shows_every_pass(stages: tuple[Stage, ...]) -> None:
    text = explain_text(stages, passes=True)
    passes = [line.split(":")[0] for line in text.splitlines() if line.startswith("after ")]
    assert passes == [f"after {stage.name}" for stage in stages]
    before, _, after = text.partition("after prune")
    assert "actions" in before
    assert "actions" not in after


@pytest.mark.parametrize("passes", [False, True])
def test_the_picture_has_a_card_for_each_node(stages: tuple[Stage, ...], passes: bool) -> None:
    root = ElementTree.fromstring(explain_svg(stages, costs={"utterance": 3.1}, passes=passes))
    panels = root.findall(f"{SVG}g")
    assert len(panels) == (len(stages) if passes else 1)
    names = [text.text for text in panels[-1].iter(f"{SVG}text") if text.get("class") == "name"]
    assert names == ["is_final", "speaker", "text", "tokens", "utterance", "intent", "question", "passages"]
    words = [text.text or "" for text in panels[-1].iter(f"{SVG}text")]
    assert "fused group 1" in words
    assert "budget 40 ms · cost 3.10 ms" in words
    assert "onnxruntime · 6 buckets 1×8–8×32" in words
    assert len([path for path in panels[-1].iter(f"{SVG}path") if path.get("class") == "condition"]) == 1


def test_cards_do_not_overlap_and_lie_on_the_canvas(stages: tuple[Stage, ...]) -> None:
    root = ElementTree.fromstring(explain_svg(stages))
    cards = [
        tuple(int(rect.get(key, "")) for key in ("x", "y", "width", "height"))
        for rect in root.iter(f"{SVG}rect")
        if str(rect.get("class")).startswith("card")
    ]
    width, height = int(root.get("width", "")), int(root.get("height", ""))
    for index, (x, y, w, h) in enumerate(cards):
        assert x >= 0
        assert y >= 0
        assert x + w <= width
        assert y + h <= height
        for x2, y2, w2, h2 in cards[index + 1 :]:
            assert x + w <= x2 or x2 + w2 <= x or y + h <= y2 or y2 + h2 <= y


def test_long_names_and_conditions_stay_on_their_cards_and_are_whole_in_the_tooltip(tmp_path: Path) -> None:
    name, terms = "a_name_that_somebody_may_well_choose_for_a_node", [f"urgency > {i}" for i in range(12)]
    nodes = {name: Node("python", ("text",), function="f", when=" and ".join(terms))}
    graph = Graph("long", {"text": "string", "urgency": "float"}, nodes, (name,))
    write_model(tmp_path)
    picture = explain_svg(trace([(graph, None)], ModelRepository.open(tmp_path), backends=BACKENDS))
    (card,) = [
        card
        for card in ElementTree.fromstring(picture).iter(f"{SVG}g")
        if card.find(f"{SVG}title") is not None and name in (card.find(f"{SVG}title").text or "")
    ]  # type: ignore[union-attr]
    title, *texts = [element.text or "" for element in card if element.text]
    assert all(term in title for term in terms)
    assert len(texts[0]) <= 25
    assert max(map(len, texts)) <= 36
    conditions = [text for text in texts if "urgency" in text]
    assert len(conditions) == 3
    assert conditions[-1].endswith("…")


def test_names_are_escaped(stages: tuple[Stage, ...]) -> None:
    text = explain_svg(stages)
    assert "speaker == customer" in text
    assert "<script" not in text
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
