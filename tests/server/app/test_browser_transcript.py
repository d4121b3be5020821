"""The page in a real browser: the transcript and its timing, also of a long call."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.server.app import script
from tests.server.app.browser import CALL, OpenPage, begin, card, line, publish_sentences
from tests.server.app.stage import Stage

pytestmark = pytest.mark.browser


# -- transcript --------------------------------------------------------------------------------------------------------
def test_interims_settle_in_place(stage: Stage, open_page: OpenPage) -> None:
    page = open_page()
    stage.call("c1", "started")
    stage.publish(CALL, script.interim(1))
    words = line(page, "Hi, yes, I had my oil")
    expect(words).to_have_class(re.compile("interim"))
    words.evaluate("node => { node.isTheSame = true; }")
    stage.publish(CALL, script.utterance(1))
    expect(line(page, "the oil light is still on.")).not_to_have_class(re.compile("interim"))
    assert line(page, "the oil light is still on.").evaluate("node => node.isTheSame"), "a new element would flicker"
    expect(page.locator("#lines > li")).to_have_count(1)


def test_an_empty_final_takes_the_bubble_away(stage: Stage, open_page: OpenPage) -> None:
    page = open_page()
    stage.call("c1", "started")
    stage.publish(CALL, script.interim(1))
    expect(page.locator("#lines > li")).to_have_count(1)
    stage.publish(CALL, script.utterance(1, text=""))
    expect(page.locator("#lines > li")).to_have_count(0)


def test_one_speakers_turn_names_the_speaker_once(talk: Any) -> None:
    expect(line(talk, "I really don't have time")).to_have_class(re.compile("continued"))
    expect(line(talk, "Which car is it?")).not_to_have_class(re.compile("continued"))


def test_customer_words_are_data(stage: Stage, open_page: OpenPage) -> None:
    page = open_page()
    stage.call("c1", "started")
    attack = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    stage.publish(CALL, script.utterance(1, text=attack))
    stage.publish(CALL, script.card("x#1", title=attack, body=f"**{attack}** [a](javascript:1)"), script.stamps())
    expect(line(page, attack)).to_be_visible()
    expect(card(page, attack)).to_be_visible()
    assert page.locator("main img, main script, main a").count() == 0
    assert page.title() == "Cueline"


def test_reading_back_is_not_disturbed_and_a_button_leads_to_live(stage: Stage, open_page: OpenPage) -> None:
    page = open_page()
    begin(stage, page)
    for number in range(60):
        words = ("agent", number * 5000, number * 5000 + 900, f"Sentence number {number}.")
        stage.publish(CALL, script.utterance(number, line=words))
    expect(line(page, "Sentence number 59.")).to_be_in_viewport()
    page.locator("#scroll").hover()
    page.mouse.wheel(0, -1200)
    to_live = page.get_by_role("button", name="Jump to live")
    expect(to_live).to_be_visible()
    before = page.locator("#scroll").evaluate("node => node.scrollTop")
    stage.publish(CALL, script.utterance(60, line=("agent", 301_000, 302_000, "The newest.")))
    expect(line(page, "The newest.")).to_have_count(1)
    assert page.locator("#scroll").evaluate("node => node.scrollTop") == before
    to_live.click()
    expect(line(page, "The newest.")).to_be_in_viewport()
    expect(to_live).to_be_hidden()


def test_a_long_call_keeps_few_elements_and_gives_the_rest_on_request(stage: Stage, open_page: OpenPage) -> None:
    page = open_page()
    stage.call("c1", "started")
    for number in range(450):
        words = ("agent", number * 5000, number * 5000 + 900, f"Sentence number {number}.")
        stage.publish(CALL, script.utterance(number, line=words))
    expect(line(page, "Sentence number 449.")).to_be_in_viewport()
    expect(page.locator("#lines > li")).to_have_count(200)
    page.locator("#scroll").evaluate("node => { node.scrollTop = 0; }")
    page.get_by_role("button", name="Show earlier").click()
    expect(page.locator("#lines > li")).to_have_count(400)
    page.get_by_role("button", name="Show earlier").click()
    expect(line(page, "Sentence number 0.")).to_have_count(1)
    expect(page.get_by_role("button", name="Show earlier")).to_be_hidden()
    page.get_by_role("button", name="Jump to live").click()
    expect(page.locator("#lines > li")).to_have_count(200)


# -- timing ------------------------------------------------------------------------------------------------------------
def test_the_waterfall_shows_each_stage_against_the_budget(talk: Any, stage: Stage) -> None:
    stage.publish(CALL, script.utterance(9, line=("customer", 40_000, 42_000, "Slow one.")), script.stamps(asr_ms=900))
    line(talk, "Slow one.").click()
    panel = talk.get_by_role("region", name="Timing")
    expect(panel).to_contain_text("Customer at 0:40")
    recognition = panel.locator("tr[data-stage=asr]")
    expect(recognition).to_contain_text("900, 600 over")
    expect(recognition.locator("td").nth(2)).to_have_text("300")
    expect(panel.locator("tr[data-stage=socket] td").first).not_to_have_text("–")
    expect(panel.locator("tr[data-stage=render] td").first).not_to_have_text("–")
    panel.get_by_role("button", name="Follow newest").click()
    expect(panel).not_to_contain_text("Customer at 0:40")
    panel.get_by_role("button", name="Close").click()
    expect(panel).to_be_hidden()
    expect(talk.get_by_role("button", name="Timing")).to_be_focused()


# -- speed -------------------------------------------------------------------------------------------------------------
def cost_ms(stage: Stage, page: Any, first: int, count: int = 60) -> dict[str, float]:
    """What a publication costs the page's thread when each is drawn by itself, by kind of work.

    Thread time, so that what else runs on the machine does not count.
    """
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def read() -> dict[str, float]:
        metrics = session.send("Performance.getMetrics")["metrics"]
        return {each["name"]: each["value"] for each in metrics if each["name"].endswith("Duration")}

    before = read()
    for number in range(first, first + count):
        publish_sentences(stage, number, 1)
        line(page, f"Sentence {number}.").wait_for()
    after = read()
    session.detach()
    costs = {name.removesuffix("Duration"): 1000 * (after[name] - before[name]) / count for name in after}
    costs["Task"] -= costs.pop("DevToolsCommand")  # that is this test's own watching
    return costs


@pytest.mark.slow
def test_a_two_hour_call_stays_smooth_on_a_slow_laptop(stage: Stage, open_page: OpenPage) -> None:
    page = open_page()
    begin(stage, page)
    publish_sentences(stage, 0, 250)
    expect(line(page, "Sentence 249.")).to_be_visible()
    early = cost_ms(stage, page, 250)
    publish_sentences(stage, 310, 4700)
    expect(line(page, "Sentence 5009.")).to_be_visible(timeout=60_000)
    late = cost_ms(stage, page, 5010)
    for name, costs in (("early", early), ("late", late)):
        print(f"\n{name}: " + ", ".join(f"{kind} {ms:.2f} ms" for kind, ms in costs.items() if ms))
    assert page.locator("#lines > li").count() == 200
    assert late["Task"] < 3 * early["Task"], "the length of the call must not show"
    # The budget's 50 ms of rendering, on a machine four times slower, at ten publications a second.
    assert 4 * late["Task"] < 50
