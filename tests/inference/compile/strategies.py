"""Random graphs that are right: several encoders and tokenisers, duplicates, conditions on inputs and outputs."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from inference.graph import Graph, Node

INPUTS = {
    "text": "string",
    "speaker": ("customer", "agent"),
    "channel": ("voice", "chat", "mail"),
    "is_final": "bool",
    "urgency": "float",
}
ROWS = [
    {"text": text, "speaker": speaker, "channel": channel, "is_final": is_final, "urgency": urgency}
    for text, channel in (("one", "voice"), ("two", "chat"), ("three", "mail"))
    for speaker in ("customer", "agent")
    for is_final in (False, True)
    for urgency in (0.0, 1.0)
]
LEAVES = ["speaker == customer", "speaker == agent", "is_final", "speaker != agent", "urgency > 0.5", "urgency <= 0.5"]
LEAVES += ["channel == voice", "channel == chat"]
HEADS = ["intent_logits", "sentiment_logits", "question_logits", "actions_logits", "dissatisfied_logits"]
LEAVES_OF = {
    "intent_logits": ["label == balance", "label == transfer", "in_scope", "score >= 0.25"],
    "sentiment_logits": ["label != negative", "score < 0.5"],
    "question_logits": ["is_question", "score > 0.75"],
    "dissatisfied_logits": ["score > 0.5"],
}


@st.composite
def conditions(draw: st.DrawFn, leaves: list[str]) -> str | None:
    if draw(st.booleans()):
        return None
    text = draw(st.sampled_from(leaves))
    for _ in range(draw(st.integers(0, 2))):
        other = draw(st.sampled_from(leaves))
        text = draw(
            st.sampled_from([f"{text} and {other}", f"{other} or {text}", f"not ({text})", f"({text}) and not {other}"])
        )
    return text


@st.composite
def graphs(draw: st.DrawFn, name: str = "guidance") -> Graph:
    nodes: dict[str, Node] = {}
    leaves = list(LEAVES)

    def when() -> str | None:
        return draw(conditions(leaves))

    tokens = [f"tokens{i}" for i in range(draw(st.integers(1, 2)))]
    for token in tokens:
        nodes[token] = Node("tokenize", ("text",), model="utterance", when=when())
    encoders = [f"encoder{i}" for i in range(draw(st.integers(1, 3)))]
    values: list[tuple[str, str]] = []

    def classify(encoder: str, index: int) -> None:
        head, node = draw(st.sampled_from(HEADS)), f"{encoder}_head{index}"
        nodes[node] = Node("classify", (f"{encoder}.{head}",), when=when())
        values.append((node, head))
        leaves.extend(f"{node}.{leaf}" for leaf in LEAVES_OF.get(head, ()))

    for encoder in encoders:
        nodes[encoder] = Node(
            "model",
            (draw(st.sampled_from(tokens)),),
            model=draw(st.sampled_from(["utterance", "second"])),
            when=when(),
            budget_ms=draw(st.sampled_from([None, 5.0, 40.0])),
        )
        for index in range(draw(st.integers(1, 3))):
            classify(encoder, index)
    if draw(st.booleans()):
        nodes["moments"] = Node("classify", (f"{encoders[0]}.embedding",), prototypes="tenant", when=when())
        values.append(("moments", ""))
    for index in range(draw(st.integers(0, 2))):
        inputs, top_k = (f"{encoders[-1]}.embedding", "text"), draw(st.sampled_from([None, 3, 5]))
        nodes[f"passages{index}"] = Node("retrieve", inputs, when=when(), top_k=top_k)
        values.append((f"passages{index}", ""))
    same = [node for node, head in values if head == "sentiment_logits"]
    for index in range(draw(st.integers(0, 2)) if len(same) > 1 else 0):
        key = draw(st.sampled_from([None, "score", "label"]))
        nodes[f"either{index}"] = Node("select", tuple(same), when=when(), key=key)
        values.append((f"either{index}", ""))
    reported = draw(st.sampled_from(values))[0]
    for index in range(draw(st.integers(1, 2))):
        params = draw(st.sampled_from([{}, {"mark": 1}, {"mark": 2}]))
        nodes[f"report{index}"] = Node("python", (reported,), function="report", params=params, when=when())
        values.append((f"report{index}", ""))
    outputs = draw(st.lists(st.sampled_from([node for node, _ in values]), min_size=1, unique=True))
    declared: dict[str, Any] = dict(INPUTS)
    return Graph(name, declared, nodes, tuple(outputs))


def shuffled(graph: Graph, draw: Any) -> Graph:
    """Return the same declaration in another order."""
    nodes = dict(draw(st.permutations(list(graph.nodes.items()))))
    inputs = dict(draw(st.permutations(list(graph.inputs.items()))))
    return Graph(graph.name, inputs, nodes, tuple(draw(st.permutations(graph.outputs))))
