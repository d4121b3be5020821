"""The page in a real browser: which call it follows, and what it says when something is in trouble."""

from __future__ import annotations

import struct
import time
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from server.auth.tokens import SharedKeyAuthenticator, issue_token
from server.wire.errors import BadAudio
from server.wire.feed import CloseCode
from server.wire.publication import Gap
from tests.server.app import script
from tests.server.app.browser import CALL, DESK, OpenPage, line, play_talk
from tests.server.app.stage import AGENT, TENANT, Stage

pytestmark = pytest.mark.browser


# -- following calls ---------------------------------------------------------------------------------------------------
def test_the_page_follows_the_agents_calls(stage: Stage, open_page: OpenPage) -> None:
    page = open_page()
    expect(page.get_by_text("Waiting for a call")).to_be_visible()
    stage.call("c1", "started", policy="car_service v3")
    expect(page.locator("#call")).to_contain_text("Live")
    expect(page.locator("#call")).to_contain_text("c1")
    stage.call("c1", "ended", reason="source_lost")
    expect(page.locator("#call")).to_contain_text("Ended: the audio source was lost")
    expect(page.get_by_text("The call has ended.")).to_be_visible()
    stage.call("c2", "started")
    expect(page.locator("#call")).to_contain_text("c2")


def test_a_page_that_comes_late_sees_the_whole_call(stage: Stage, open_page: OpenPage) -> None:
    stage.call("c1", "started")
    play_talk(stage)
    page = open_page()
    expect(page.locator("#lines > li")).to_have_count(len(script.LINES))
    expect(page.locator("#cards > li")).to_have_count(3)
    shown = stage.wait_shown("reset_light#1", "wait#1", "answer#1")
    assert all(receipt.painted_at_ms is None for receipt in shown), "its painting says nothing about the service"


def test_one_call_can_be_pinned(stage: Stage, open_page: OpenPage) -> None:
    stage.call("c1", "started")
    play_talk(stage)
    stage.call("c2", "started")
    page = open_page("/?conversation=c1")
    expect(line(page, "that would be great")).to_be_visible()
    stage.call("c3", "started")
    stage.publish(CALL, script.utterance(8, line=("agent", 40_000, 41_000, "Still here")))
    expect(line(page, "Still here")).to_be_visible()


def test_two_live_calls_can_be_switched(stage: Stage, open_page: OpenPage) -> None:
    page = open_page()
    stage.call("c1", "started")
    expect(page.locator("#call")).to_contain_text("c1")
    stage.call("c2", "started")
    stage.publish("call:c2", script.utterance(0))
    expect(line(page, "Thank you for calling")).to_be_visible()
    page.get_by_label("Live calls").select_option("c1")
    expect(line(page, "Thank you for calling")).to_have_count(0)


# -- trouble -----------------------------------------------------------------------------------------------------------
def test_a_gap_is_told_above_and_marked_where_it_is(talk: Any, stage: Stage) -> None:
    stage.publish(CALL, script.GAP_OPEN)
    banner = talk.get_by_role("status").filter(has_text="Customer not heard")
    expect(banner).to_be_visible()
    expect(talk.locator("#lines > li").last).to_contain_text("Still interrupted.")
    stage.publish(CALL, script.GAP_BACKFILLED)
    expect(banner).to_have_count(0)
    expect(talk.locator("#lines > li.gap")).to_contain_text("Recovered since.")


def test_after_a_short_cut_nothing_is_missing_and_nothing_is_said(talk: Any, stage: Stage) -> None:
    stage.cut(CloseCode.SLOW)
    for number in range(8, 12):
        words = ("agent", 30_000 + number * 1000, 31_000 + number * 1000, f"While you were away {number}.")
        stage.publish(CALL, script.utterance(number, line=words))
    expect(line(talk, "While you were away")).to_have_count(4)
    expect(talk.get_by_text("Connection lost")).to_have_count(0)


def never_by_itself(page: Any) -> None:
    """Have the page wait an hour before it comes back: it may not be faster than the click."""
    page.evaluate("Math.random = () => 3600")


@pytest.mark.slow
def test_a_long_loss_is_told_and_so_is_its_end(talk: Any, stage: Stage) -> None:
    never_by_itself(talk)
    stage.down()
    expect(talk.get_by_text("Connection lost. Reconnecting…")).to_be_visible()
    stage.publish(CALL, script.utterance(8, line=("agent", 40_000, 41_000, "Spoken meanwhile.")))
    stage.up()
    talk.get_by_role("button", name="Try now").click()
    expect(talk.get_by_text("Reconnected. Nothing was lost.")).to_be_visible()
    expect(talk.get_by_text("Connection lost")).to_have_count(0)
    expect(line(talk, "Spoken meanwhile.")).to_be_visible()


@pytest.mark.slow
def test_a_channel_that_was_forgotten_is_replaced_and_the_reader_told(talk: Any, stage: Stage) -> None:
    never_by_itself(talk)
    stage.down()
    expect(talk.get_by_text("Connection lost")).to_be_visible()
    stage.forget(CALL)
    stage.publish(CALL, script.utterance(0, text="A new life."))
    stage.up()
    talk.get_by_role("button", name="Try now").click()
    expect(talk.get_by_text("The screen was refreshed from the server.")).to_be_visible()
    expect(talk.locator("#lines > li")).to_have_count(1)


def test_a_terminal_code_stops_it_until_the_reader_asks(talk: Any, stage: Stage) -> None:
    stage.cut(CloseCode.BAD_TOKEN)
    expect(talk.get_by_role("alert")).to_contain_text("Disconnected by the server (3500).")
    talk.get_by_role("button", name="Reconnect").click()
    expect(talk.get_by_role("alert")).to_have_count(0)


def test_notices_can_be_dismissed(talk: Any, stage: Stage) -> None:
    stage.publish(CALL, script.NOTICE)
    notice = talk.get_by_role("status").filter(has_text="the server is busy")
    notice.get_by_role("button", name="Dismiss").click()
    expect(notice).to_have_count(0)
    stage.publish(CALL, Gap(from_ms=1, to_ms=2, cause="audio_missing", state="closed", speaker="agent"))
    expect(talk.locator("#lines > li.gap")).to_be_visible()
    expect(notice).to_have_count(0)


@pytest.mark.slow
def test_a_server_that_warms_up_says_so(stage: Stage, open_page: OpenPage) -> None:
    stage.health.is_ready = False
    page = open_page()
    expect(page.get_by_text("Getting ready…")).to_be_visible()
    stage.health.is_ready = True
    expect(page.get_by_text("Waiting for a call")).to_be_visible()


def test_where_sign_in_is_needed_a_token_opens_the_feed(browser: Any, tmp_path: Path) -> None:
    key = "0123456789abcdef0123456789abcdef"
    token = issue_token(key, tenant_id=TENANT, agent_id=AGENT, roles=["agent"], ttl_s=600, wall_s=time.time())
    with Stage(tmp_path, authenticator=SharedKeyAuthenticator(key)) as stage:
        page = browser.new_context(viewport=DESK).new_page()
        page.goto(stage.url)
        page.get_by_label("Access token").fill("wrong")
        page.get_by_role("button", name="Sign in").click()
        page.get_by_label("Access token").fill(token)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_text("Waiting for a call")).to_be_visible()
        assert token not in page.url
        assert page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])").find(token) < 0
        page.context.close()


# -- demo --------------------------------------------------------------------------------------------------------------
def test_the_demo_call_can_be_played_and_played_again(stage: Stage, open_page: OpenPage) -> None:
    page = open_page()
    page.get_by_role("button", name="Play demo call").click()
    expect(page.locator("#call")).to_contain_text("demo-1")
    assert stage.demo.recordings == [None]
    stage.call("demo-1", "started")
    expect(page.get_by_role("button", name="Play demo call")).to_be_hidden()
    stage.call("demo-1", "ended")
    page.get_by_role("button", name="Play demo call again").click()
    expect(page.get_by_role("button", name="Play demo call again")).to_be_enabled()
    assert len(stage.demo.recordings) == 2


def test_a_recording_is_sent_and_a_refusal_shown(stage: Stage, open_page: OpenPage) -> None:
    page = open_page()
    page.get_by_role("button", name="Play demo call").wait_for()
    stage.demo.error = BadAudio("has 1 channel(s); two are needed, customer left and agent right", field="file")
    wav = b"RIFF" + struct.pack("<I", 36) + b"WAVE" + bytes(32)
    page.locator("#wav").set_input_files({"name": "mine.wav", "mimeType": "audio/wav", "buffer": wav})
    expect(
        page.get_by_text("The recording has 1 channel(s); two are needed, customer left and agent right.")
    ).to_be_visible()
    assert stage.demo.recordings == [wav]
