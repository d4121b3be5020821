"""The time of a reader grows with the text, whatever the text: one file of brackets must not hold an ingest."""

import time
from collections.abc import Callable

import pytest

from retrieval.article import Article
from retrieval.readers.html import read_html
from retrieval.readers.markdown import read_markdown

NUM = 1500
TIMES = 8
"""Of the text; a reader that looks at it again from every mark takes 64 times as long."""
MAX_RATIO = 30
Reader = Callable[[bytes, str], list[Article]]


def cost_s(read: Reader, text: str) -> float:
    costs = []
    for _ in range(3):
        start_s = time.process_time()
        read(text.encode(), "a")
        costs.append(time.process_time() - start_s)
    return min(costs)


@pytest.mark.parametrize(
    ("read", "mark", "end"),
    [
        (read_markdown, "*a ", ""),
        (read_markdown, "_a ", ""),
        (read_markdown, "[[", ""),
        (read_markdown, "<!--", ""),
        (read_markdown, "- - ", "x"),
        (read_markdown, "|-", "x"),
        (read_html, "<a ", ""),
        (read_html, "<!--", ">"),
    ],
)
def test_the_time_grows_with_the_text(read: Reader, mark: str, end: str) -> None:
    small = cost_s(read, f"# a\n\n{mark * NUM}{end}")
    assert cost_s(read, f"# a\n\n{mark * NUM * TIMES}{end}") < MAX_RATIO * max(small, 1e-3)
