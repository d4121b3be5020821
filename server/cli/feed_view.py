"""A call's feed as lines on a terminal: finals stay, interims settle in place below them, cards appear and go."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from server.wire.publication import Publication

_SPEAKER_STYLE = {"customer": "bold cyan", "agent": "bold green"}
_CARD_STYLE = {"new": "bold yellow", "update": "yellow", "expire": "dim", "retract": "dim strike"}
_SEVERITY_STYLE = {"info": "dim", "warning": "yellow", "error": "bold red"}
_SHOWN_OUTPUTS = frozenset({"intent", "sentiment"})
_INDENT = " " * 20


class FeedView:
    """Prints publications. Where the output is no terminal, interims are left out.

    Args:
        console: Where to.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._interims: dict[str, Text] = {}
        self._final_ids: set[str] = set()
        self._live = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> FeedView:
        """Take over the bottom lines of the terminal."""
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Give them back."""
        self._live.stop()

    def note(self, text: str, style: str = "dim") -> None:
        """Print something about the connection itself."""
        self._console.print(Text(text, style))

    def forget(self) -> None:
        """A snapshot follows: what was settling is told anew."""
        self._interims.clear()
        self._refresh()

    def show(self, publication: Publication) -> None:
        """Print one publication."""
        payload: dict[str, Any] = publication.d
        match publication.kind:
            case "transcript":
                self._transcript(payload)
            case "action":
                self._action(payload)
            case "annotation" if payload["output"] in _SHOWN_OUTPUTS and isinstance(payload["value"], dict):
                # An interim's claims change with every word; the ones worth a line come with the final.
                if payload["utterance_id"] in self._final_ids and payload["value"].get("label") is not None:
                    self._line(f"{payload['output']} ", "dim", str(payload["value"]["label"]), "dim")
            case "checklist":
                items = payload["items"]
                done = [item["title"] for item in items if item["is_done"]]
                self._line(f"checklist {len(done)}/{len(items)} ", "dim", ", ".join(done), "dim")
            case "gap":
                end = payload.get("to_ms")
                until = clock(end) if end is not None else "…"
                span = f"gap {clock(payload['from_ms'])}-{until} ({payload['speaker']}) "
                self._line(span, "red", f"{payload['cause']}, {payload['state']}", "red")
            case "translation":
                self._line(f"{payload['language']} ", "dim", payload["text"], "italic")
            case "call":
                reason = payload.get("reason", "")
                self._line(f"call {payload['state']} ", "bold", reason, "dim")
            case "notice":
                style = _SEVERITY_STYLE[payload.get("severity", "info")]
                self._line(f"{payload['code']} ", style, payload["message"], style)
            case "summary" if payload["is_final"]:
                for section in payload["sections"]:
                    self._line(f"{section['title']}: ", "bold", section["text"])

    def _transcript(self, payload: dict[str, Any]) -> None:
        line = Text.assemble(
            (f"{clock(payload['start_ms'])} ", "dim"),
            (f"{payload['speaker']:>10}  ", _SPEAKER_STYLE.get(payload["speaker"], "bold")),
            (printable(payload["text"]), "" if payload["is_final"] else "dim italic"),
        )
        if payload["is_final"]:
            self._interims.pop(payload["utterance_id"], None)
            self._final_ids.add(payload["utterance_id"])
            self._console.print(line)
        else:
            self._interims[payload["utterance_id"]] = line
        self._refresh()

    def _action(self, payload: dict[str, Any]) -> None:
        state = payload["state"]
        style = _CARD_STYLE.get(state, "")
        mark = {"new": "▸", "update": "▹", "expire": "·", "retract": "✗"}.get(state, " ")
        self._line(f"{mark} {payload['type']}: ", style, payload["title"], style)
        if state in ("new", "update") and payload.get("body"):
            self._line("  ", "", payload["body"])

    def _line(self, head: str, head_style: str, text: str, style: str = "") -> None:
        self._console.print(Text.assemble(_INDENT, (printable(head), head_style), (printable(text), style)))

    def _refresh(self) -> None:
        if self._live.is_started:
            self._live.update(Group(*self._interims.values()), refresh=True)


def clock(ms: int) -> str:
    """Audio time as `mm:ss.t`."""
    minutes, left_ms = divmod(ms, 60_000)
    return f"{minutes:02}:{left_ms / 1000:04.1f}"


def printable(text: str) -> str:
    """The text without what could command the terminal; line breaks stay."""
    return "".join(
        character if character.isprintable() or character == "\n" else "\N{REPLACEMENT CHARACTER}" for character in text
    )
