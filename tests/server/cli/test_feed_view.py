import io
from typing import Any

from rich.console import Console

from server.cli.feed_view import FeedView, clock, printable
from server.wire.clock import Stamps
from server.wire.publication import Publication


def shown(*publications: tuple[str, dict[str, Any]], is_terminal: bool = False) -> str:
    output = io.StringIO()
    with FeedView(Console(file=output, width=100, force_terminal=is_terminal, highlight=False)) as view:
        for offset, (kind, payload) in enumerate(publications, 1):
            view.show(Publication(ch="call:1", ep="e", off=offset, kind=kind, t=Stamps(), d=payload))  # type: ignore[arg-type]
    return output.getvalue()


def said(text: str, *, is_final: bool) -> tuple[str, dict[str, Any]]:
    return "transcript", {
        "utterance_id": "u1", "revision": 1, "speaker": "customer", "start_ms": 61_500, "end_ms": 63_000,
        "text": text, "is_final": is_final,
    }  # fmt: skip


def test_without_a_terminal_only_finals_are_printed() -> None:
    assert shown(said("hel", is_final=False), said("hello", is_final=True)) == "01:01.5   customer  hello\n"


def test_on_a_terminal_an_interim_settles_in_place() -> None:
    output = shown(said("hel", is_final=False), said("hello", is_final=True), is_terminal=True)
    assert "hel\x1b[0m" in output
    assert output.index("hel\x1b[0m") < output.index("hello")


def test_every_kind_has_a_line() -> None:
    annotation = {"utterance_id": "u1", "output": "intent", "value": {"label": "book"}, "score": 0.9}
    action = {"id": "a", "type": "hint", "title": "Do it", "body": "like this", "state": "new"}
    output = shown(
        said("hello", is_final=True),
        ("annotation", annotation),
        ("annotation", annotation | {"utterance_id": "interim"}),
        ("annotation", annotation | {"output": "moments", "value": []}),
        ("annotation", annotation | {"value": None}),
        ("action", action),
        ("action", action | {"state": "retract"}),
        ("checklist", {"revision": 1, "items": [{"id": "g", "title": "Greet", "is_done": True}]}),
        ("gap", {"from_ms": 0, "to_ms": None, "cause": "audio_missing", "state": "open", "speaker": "agent"}),
        ("translation", {"utterance_id": "u1", "language": "de", "text": "hallo"}),
        ("notice", {"code": "shedding", "message": "busy"}),
        ("summary", {"revision": 1, "sections": [{"title": "Why", "text": "a light"}], "is_final": True}),
        ("call", {"conversation_id": "1", "state": "ended", "reason": "stopped"}),
    )
    assert [line.strip() for line in output.splitlines()[1:]] == [
        "intent book",
        "▸ hint: Do it",
        "like this",
        "✗ hint: Do it",
        "checklist 1/1 Greet",
        "gap 00:00.0-… (agent) audio_missing, open",
        "de hallo",
        "shedding busy",
        "Why: a light",
        "call ended stopped",
    ]


def test_words_cannot_command_the_terminal_nor_the_markup() -> None:
    assert "\x1b" not in shown(said("\x1b]0;owned\x07[red]x[/]", is_final=True))
    assert "[red]x[/]" in shown(said("[red]x[/]", is_final=True))
    assert printable("a\nb\x1bc") == "a\nb\N{REPLACEMENT CHARACTER}c"


def test_clock() -> None:
    assert [clock(0), clock(61_549), clock(3_600_000)] == ["00:00.0", "01:01.5", "60:00.0"]
