"""A headless Chromium and the stage it looks at, for the tests marked `browser`."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect, sync_playwright

from tests.server.app.browser import DESK, TIMEOUT_MS, OpenPage, begin, line, play_talk
from tests.server.app.stage import Stage


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("needs a Chromium on PATH")
    with sync_playwright() as playwright:
        # Tests run as root in containers, where Chromium's sandbox cannot.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path) as stage:
        yield stage


@pytest.fixture
def open_page(browser: Any, stage: Stage) -> Iterator[OpenPage]:
    """Opens pages; afterwards none of them may have raised an error or broken the content security policy."""
    contexts: list[Any] = []
    faults: list[str] = []

    def note(text: str) -> None:
        if re.search(r"Content Security Policy|TrustedScript|Trusted Type|Uncaught", text):
            faults.append(text)

    def open_one(path: str = "/", **options: Any) -> Any:
        context = browser.new_context(**({"viewport": DESK} | options))
        context.set_default_timeout(TIMEOUT_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: note(message.text))
        page.goto(stage.url + path)
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture
def talk(stage: Stage, open_page: OpenPage) -> Any:
    """A page that has followed the scripted talk from its beginning."""
    page = open_page()
    begin(stage, page)
    play_talk(stage)
    expect(line(page, "that would be great")).to_be_visible()
    return page
