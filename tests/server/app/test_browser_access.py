"""The page in a real browser: keyboard, screen reader, contrast, room, motion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.server.app import script
from tests.server.app.browser import CALL, DESK, PHONE_SIDE, OpenPage, begin, card, line, play_talk
from tests.server.app.stage import Stage

pytestmark = pytest.mark.browser


def test_everything_can_be_done_by_keyboard(talk: Any, stage: Stage) -> None:
    stage.wait_shown("reset_light#1", "wait#1", "answer#1")
    talk.keyboard.press("g")
    expect(talk.locator("#cards > li").first).to_be_focused()
    talk.keyboard.press("ArrowDown")
    expect(talk.locator("#cards > li").nth(1)).to_be_focused()
    talk.keyboard.press("e")
    expect(talk.locator("#cards > li").nth(1).locator(".evidence")).to_be_visible()
    talk.keyboard.press("d")
    expect(talk.locator("#cards > li")).to_have_count(2)
    assert talk.evaluate("document.activeElement.closest('#guidance') !== null"), "the focus stays in the cards"
    talk.keyboard.press("x")
    expect(talk.locator("#cards > li")).to_have_count(1)
    stage.wait_receipt("reset_light#1", "dismissed")
    stage.wait_receipt("wait#1", "wrong")
    talk.keyboard.press("t")
    expect(line(talk, "that would be great")).to_be_focused()
    talk.keyboard.press("Home")
    expect(line(talk, "Thank you for calling")).to_be_focused()
    talk.keyboard.press("End")
    expect(line(talk, "that would be great")).to_be_focused()
    talk.keyboard.press("ArrowUp")
    talk.keyboard.press("Enter")
    expect(talk.get_by_role("region", name="Timing")).to_be_visible()
    talk.keyboard.press("Escape")
    expect(talk.get_by_role("region", name="Timing")).to_be_hidden()
    talk.keyboard.press("?")
    expect(talk.get_by_role("dialog", name="Keyboard")).to_be_visible()
    talk.get_by_label("Use single-letter keys").uncheck()
    talk.keyboard.press("Escape")
    expect(talk.get_by_role("dialog")).to_be_hidden()
    talk.keyboard.press("w")
    expect(talk.get_by_role("region", name="Timing")).to_be_hidden()


def test_arrivals_never_take_the_focus(talk: Any, stage: Stage) -> None:
    talk.get_by_role("button", name="Quiet").focus()
    stage.publish(CALL, script.card("churn#1", **script.ALERT), script.stamps())
    stage.publish(CALL, script.utterance(8, line=("customer", 40_000, 41_000, "More.")))
    expect(card(talk, "thinking of leaving")).to_be_visible()
    expect(talk.get_by_role("button", name="Quiet")).to_be_focused()


def test_a_focused_card_that_expires_leaves_the_focus_near(talk: Any, stage: Stage) -> None:
    talk.keyboard.press("g")
    stage.publish(CALL, script.card("answer#1", **script.ANSWER | {"state": "expire", "revision": 2}))
    expect(card(talk, "Is it safe")).to_have_count(0)
    assert talk.evaluate("document.activeElement.closest('#guidance') !== null")


def test_screen_readers_hear_of_cards_and_finals_only(talk: Any, stage: Stage) -> None:
    heard = talk.locator("#announcer")
    expect(heard).to_have_attribute("aria-live", "polite")
    expect(heard).to_contain_text("Customer: Okay, that would be great actually.")
    stage.publish(CALL, script.utterance(8, is_final=False, line=("customer", 40_000, 41_000, "Half a")))
    stage.publish(CALL, script.card("churn#1", **script.ALERT), script.stamps())
    expect(heard).to_contain_text("Alert: The customer is thinking of leaving")
    expect(heard).not_to_contain_text("Half a")
    assert talk.locator("#lines[aria-live], #cards[aria-live]").count() == 0


def test_quiet_mode_hides_interims_and_is_remembered(talk: Any, stage: Stage) -> None:
    talk.keyboard.press("q")
    stage.publish(CALL, script.utterance(8, is_final=False, line=("customer", 40_000, 41_000, "Half a")))
    stage.publish(CALL, script.utterance(9, line=("agent", 42_000, 43_000, "Whole.")))
    expect(line(talk, "Whole.")).to_be_visible()
    expect(line(talk, "Half a")).to_be_hidden()
    talk.reload()
    expect(talk.get_by_role("button", name="Quiet")).to_have_attribute("aria-pressed", "true")


AUDIT = (Path(__file__).parent / "static" / "audit.js").read_text()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESK, PHONE_SIDE], ids=["desk", "beside_a_softphone"])
def test_names_roles_contrast_and_room(stage: Stage, open_page: OpenPage, theme: str, viewport: dict[str, int]) -> None:
    stage.health.can_ask = True
    page = open_page(viewport=viewport, color_scheme=theme, reduced_motion="reduce")
    page.get_by_text("Waiting for a call").wait_for()
    assert page.evaluate(AUDIT) == []
    begin(stage, page)
    play_talk(stage)
    stage.publish(CALL, script.card("churn#1", **script.ALERT), script.stamps())
    stage.publish(CALL, script.GAP_OPEN)
    stage.publish(CALL, script.NOTICE)
    stage.publish(CALL, script.interim(6))
    stage.publish(CALL, script.SUMMARY)
    expect(page.get_by_text("thinking of leaving").first).to_be_visible()
    expect(page.get_by_role("heading", name="Summary")).to_be_attached()
    for why in page.locator(".why").all():
        why.click()
    page.locator("#steps summary").click()
    page.get_by_text("Earlier guidance").click()
    assert page.evaluate(AUDIT) == []
    page.keyboard.press("w")
    expect(page.locator("#waterfall")).to_contain_text("Budget")
    assert page.evaluate(AUDIT) == []
    page.keyboard.press("?")
    assert page.evaluate(AUDIT) == []
    page.keyboard.press("Escape")
    stage.call("c1", "ended")
    expect(page.get_by_text("The call has ended.")).to_be_attached()
    assert page.evaluate(AUDIT) == []


def test_the_audit_finds_what_is_wrong(stage: Stage, open_page: OpenPage) -> None:
    page = open_page()
    begin(stage, page)
    page.evaluate("""() => {
        const button = document.createElement("button");
        document.getElementById("side").append(button);
        const text = Object.assign(document.createElement("p"), { textContent: "faint", id: "main" });
        text.style.color = "#bbb";
        document.getElementById("cards").append(text);
        document.body.style.minWidth = "3000px";
    }""")
    faults = " ".join(page.evaluate(AUDIT))
    for part in ("has no name", "id main is not unique", "has a contrast of", "is no item", "px wide"):
        assert part in faults


def test_nothing_moves_where_motion_is_unwanted(stage: Stage, open_page: OpenPage) -> None:
    page = open_page(reduced_motion="reduce")
    begin(stage, page)
    play_talk(stage)
    expect(page.locator("#cards > li")).to_have_count(3)
    assert page.locator("#cards > li").first.evaluate("node => getComputedStyle(node).animationName") == "none"
