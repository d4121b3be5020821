"""Where things are on the page, and how tests set its scene."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from playwright.sync_api import expect

from tests.server.app import script
from tests.server.app.stage import Stage

CALL = "call:c1"
PHONE_SIDE = {"width": 360, "height": 740}
DESK = {"width": 1280, "height": 800}
TIMEOUT_MS = 15_000
expect.set_options(timeout=TIMEOUT_MS)

OpenPage = Callable[..., Any]


def line(page: Any, text: str) -> Any:
    """Bubbles or gaps of the transcript with this text."""
    return page.locator("#lines > li", has_text=text)


def card(page: Any, title: str) -> Any:
    """Cards with this text."""
    return page.locator("#cards > li", has_text=title)


def begin(stage: Stage, page: Any) -> None:
    """Start a call that the page receives live from here on."""
    stage.call("c1", "started", policy="car_service v3")
    expect(page.locator("#call")).to_contain_text("Live")


def play_talk(stage: Stage) -> None:
    """Publish the scripted talk."""
    for payload, stamps in script.talk():
        stage.publish(CALL, payload, stamps)


def publish_sentences(stage: Stage, first: int, count: int) -> None:
    """Publish final sentences, both speakers by turns."""
    for number in range(first, first + count):
        words: script.Line = (
            "customer" if number % 2 else "agent",
            number * 5000,
            number * 5000 + 900,
            f"Sentence {number}.",
        )
        stage.publish(CALL, script.utterance(number, line=words), script.stamps())
