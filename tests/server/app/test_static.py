"""The page's files: its pure modules under Node, what they may not contain, the names they share with the server."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from server.app.page import STATIC_FOLDER
from server.wire.clock import STAGES
from server.wire.feed import SUBPROTOCOL_JSON

TESTS_FOLDER = Path(__file__).parent / "static"


def node_program() -> str:
    """Node of the system, else the one that Playwright brings."""
    if found := shutil.which("node"):
        return found
    driver = pytest.importorskip("playwright._impl._driver", reason="needs Node 20: `node`, or Playwright's own")
    return str(driver.compute_driver_executable()[0])


def evaluate(expression: str, module: str) -> object:
    """Value of an expression over a module of the page, by way of JSON."""
    code = (
        f"import * as m from {json.dumps((STATIC_FOLDER / module).as_uri())};console.log(JSON.stringify({expression}))"
    )
    done = subprocess.run(
        [node_program(), "--input-type=module", "-e", code], capture_output=True, text=True, timeout=60, check=True
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("path", sorted(TESTS_FOLDER.glob("*.test.js")), ids=lambda path: path.name)
def test_modules(path: Path) -> None:
    done = subprocess.run([node_program(), "--test", str(path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert re.search(r"^\D*pass [1-9]", done.stdout, re.MULTILINE), "no test ran"


def test_the_page_and_the_server_name_the_same_stages() -> None:
    assert evaluate("m.STAGES", "stages.js") == list(STAGES)


def test_the_page_and_the_server_speak_the_same_subprotocol() -> None:
    assert evaluate("m.SUBPROTOCOL", "feed.js") == SUBPROTOCOL_JSON


def test_every_stage_has_words() -> None:
    assert evaluate("Object.keys(m.STAGE_TEXTS)", "words.js") == list(STAGES)


@pytest.mark.parametrize("path", sorted(STATIC_FOLDER.rglob("*.js")), ids=lambda path: path.name)
def test_text_is_only_ever_set_as_text(path: Path) -> None:
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|DOMParser|\.cssText"
    assert re.search(forbidden, path.read_text()) is None


def test_nothing_comes_from_elsewhere() -> None:
    for path in STATIC_FOLDER.rglob("*"):
        if path.is_file():
            text = path.read_text().replace("http://www.w3.org/2000/svg", "")
            assert re.search(r"https?://|@import|url\(", text) is None, path.name


def test_the_markup_holds_no_script_or_style_of_its_own() -> None:
    html = (STATIC_FOLDER / "index.html").read_text()
    assert re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", html) is None


def test_every_module_imports_only_what_is_there() -> None:
    for path in STATIC_FOLDER.rglob("*.js"):
        for name in re.findall(r'(?:from |import\()"(\.[^"]+)"', path.read_text()):
            assert (path.parent / name).is_file(), f"{path.name} imports {name}"


def relative_luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Source: WCAG 2.2, contrast ratio."""
    darker, lighter = sorted((relative_luminance(one), relative_luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


TEXT_PAIRS = [
    *((text, ground) for text in ("text", "muted", "accent") for ground in ("page", "surface", "raised", "tint")),
    ("on-accent", "accent"),
    ("warning", "warning-tint"),
    ("warning", "surface"),
    ("error", "error-tint"),
    ("error", "surface"),
    ("good", "surface"),
]
GRAPHIC_PAIRS = [("edge", "surface"), ("edge", "page"), ("bar", "surface"), ("bar-over", "surface"), ("focus", "page")]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_can_be_read(theme: str) -> None:
    css = (STATIC_FOLDER / "app.css").read_text()
    light, dark = re.findall(r":root \{([^}]+)\}", css)[:2]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", light))
    if theme == "dark":
        colours |= dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", dark))
    poor = [
        f"{one} on {other}: {contrast(colours[one], colours[other]):.2f}"
        for pairs, least in ((TEXT_PAIRS, 4.5), (GRAPHIC_PAIRS, 3.0))
        for one, other in pairs
        if contrast(colours[one], colours[other]) < least
    ]
    assert poor == []
