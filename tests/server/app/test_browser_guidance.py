"""The page in a real browser: cards, signals, steps, summary, questions."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect

from tests.server.app import script
from tests.server.app.browser import CALL, DESK, PHONE_SIDE, OpenPage, begin, card, line
from tests.server.app.stage import Stage

pytestmark = pytest.mark.browser


def test_cards_stand_by_priority_with_their_body_and_sources(talk: Any) -> None:
    assert [h.inner_text() for h in talk.locator("#cards h3").all()] == [
        "Is it safe to drive with the oil light on?",
        "Offer the reset walk-through",
        "Acknowledge the wait",
    ]
    expect(card(talk, "Offer the reset").locator("ol li")).to_have_count(2)
    expect(card(talk, "Offer the reset").locator("strong")).to_have_text("on")
    card(talk, "Is it safe").locator(".cites summary").click()
    expect(card(talk, "Is it safe")).to_contain_text("every 5,000 miles")
    expect(card(talk, "Is it safe").locator(".cites mark")).to_have_text("every 5,000")


def test_shown_cards_are_reported_once_with_the_time_of_painting(talk: Any, stage: Stage) -> None:
    shown = stage.wait_shown("reset_light#1", "wait#1", "answer#1")
    assert len({receipt.id for receipt in shown}) == len(shown)
    assert all(receipt.event == "shown" and receipt.ch == CALL for receipt in shown)
    now_ms = script.wall_ms()
    assert all(receipt.painted_at_ms and 0 < now_ms - receipt.painted_at_ms < 60_000 for receipt in shown)


def test_evidence_is_shown_on_demand_and_leads_to_the_words(talk: Any) -> None:
    hint = card(talk, "Offer the reset")
    why = hint.get_by_role("button", name="Why is this shown")
    expect(why).to_have_attribute("aria-expanded", "false")
    why.click()
    expect(why).to_have_attribute("aria-expanded", "true")
    for text in ("moments.warning_light.any[0]", "87 %", "utterance v3", "the oil light is still on"):
        expect(hint.locator(".evidence")).to_contain_text(text)
    hint.locator(".quote").click()
    expect(line(talk, "I had my oil changed")).to_be_focused()


@pytest.mark.parametrize(
    ("button", "event"), [("Mark as used", "used"), ("Dismiss", "dismissed"), ("Report as wrong", "wrong")]
)
def test_what_the_agent_does_with_a_card_is_told_and_survives_a_reload(
    talk: Any, stage: Stage, button: str, event: str
) -> None:
    stage.wait_shown("reset_light#1", "wait#1", "answer#1")
    card(talk, "Offer the reset").get_by_role("button", name=button).click()
    expect(card(talk, "Offer the reset")).to_have_count(0)
    stage.wait_receipt("reset_light#1", event)
    talk.reload()
    expect(talk.locator("#cards > li")).to_have_count(2)
    expect(card(talk, "Offer the reset")).to_have_count(0)


def test_cards_expire_into_the_past_and_are_withdrawn_with_a_note(talk: Any, stage: Stage) -> None:
    stage.publish(CALL, script.card("reset_light#1", state="expire", revision=2))
    expect(card(talk, "Offer the reset")).to_have_count(0)
    stage.publish(
        CALL, script.card("wait#1", **script.REPLY | {"state": "retract", "revision": 2, "reason": "contradicted"})
    )
    expect(talk.get_by_text("Withdrawn, the words were corrected: Acknowledge the wait").first).to_be_visible()
    talk.get_by_text("Earlier guidance").click()
    past = talk.locator("#past-cards")
    expect(past.locator("li", has_text="Offer the reset")).to_contain_text("Expired")
    expect(past.locator("li", has_text="Acknowledge")).to_contain_text("Withdrawn")


def test_an_update_changes_the_card_in_place_and_keeps_it_open(talk: Any, stage: Stage) -> None:
    hint = card(talk, "Offer the reset")
    hint.get_by_role("button", name="Why").click()
    stage.publish(CALL, script.card("reset_light#1", state="update", revision=2, body="Now with **pictures**."))
    expect(hint).to_contain_text("Now with pictures.")
    expect(hint.get_by_role("button", name="Why")).to_have_attribute("aria-expanded", "true")
    expect(hint.get_by_role("button", name="Why")).to_be_focused()


def test_no_button_moves_under_the_pointer(talk: Any, stage: Stage) -> None:
    first = talk.locator("#cards > li").first
    first.get_by_role("button", name="Dismiss").hover()
    stage.publish(CALL, script.card("churn#1", **script.ALERT), script.stamps())
    expect(card(talk, "thinking of leaving")).to_be_visible()
    expect(talk.locator("#cards > li").last).to_contain_text("thinking of leaving")
    expect(first).to_contain_text("Is it safe to drive")
    talk.mouse.move(5, 400)
    expect(talk.locator("#cards > li").first).to_contain_text("thinking of leaving")


def test_mood_intent_and_steps_are_told_in_words(talk: Any) -> None:
    signals = talk.get_by_label("Call at a glance")
    expect(signals).to_contain_text("getting better")
    expect(signals).to_contain_text("Car safety")
    expect(signals).to_contain_text("83 % sure")
    expect(signals).to_contain_text("Next: Offer an appointment")
    expect(signals).to_contain_text("3 of 4")


def test_a_summary_is_shown_with_its_parts(talk: Any, stage: Stage) -> None:
    stage.publish(CALL, script.SUMMARY)
    expect(talk.get_by_role("heading", name="Summary")).to_be_visible()
    expect(talk.locator("#summary li")).to_have_count(2)


def test_asking_waits_until_the_server_can(talk: Any, stage: Stage, open_page: OpenPage) -> None:
    expect(talk.get_by_label("Ask the knowledge base").first).to_be_hidden()
    stage.health.can_ask = True
    page = open_page()
    page.locator("#ask-text").fill("How long is the warranty?")
    page.get_by_role("button", name="Ask").click()
    assert stage.wait_questions(1) == ["How long is the warranty?"]
    expect(page.locator("#ask-text")).to_have_value("")


@pytest.mark.parametrize("viewport", [DESK, PHONE_SIDE], ids=["desk", "phone_side"])
def test_asking_stays_in_reach_and_covers_nothing_that_has_the_focus(
    stage: Stage, open_page: OpenPage, viewport: dict[str, int]
) -> None:
    stage.health.can_ask = True
    page = open_page(viewport=viewport)
    begin(stage, page)
    for number in range(12):
        stage.publish(CALL, script.card(f"card-{number}", title=f"Card {number}"))
    expect(page.locator("#cards > li")).to_have_count(12)
    field = page.locator("#ask-text")
    expect(field).to_be_in_viewport(ratio=1)
    page.keyboard.press("g")
    for key in ("Home", *["ArrowDown"] * 5, *["Tab"] * 4):  # cards below the pane's end, and the buttons of one
        page.keyboard.press(key)
        focus_px = page.evaluate("document.activeElement.getBoundingClientRect().bottom")
        assert focus_px <= page.locator("#ask").bounding_box()["y"]
    page.keyboard.press("a")
    page.keyboard.type("a warranty")
    page.keyboard.press("Enter")
    assert stage.wait_questions(1) == ["a warranty"]
    stage.call("c1", "ended")
    expect(field).to_be_hidden()
    expect(page.locator("#guidance")).to_be_focused()
