"""Article → passages of a few sentences, each under its title path, grouped by the part of the article they come from.

article ─▶ sentences and list items ─▶ passages (≤ 40 words, never across a heading) ─▶ parts (≤ 300 words)

Passages are what an agent reads and the finer vector; a part is what the coarser vector and the lexical index see.
Paragraphs, list items and table rows stand on lines of their own in a passage: most items and rows end without a full
stop, and run together they could neither be read nor told apart when one of them answers.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from retrieval.article import Article, Audience

MAX_PASSAGE_WORDS = 40
"""On customer-service guidelines 25 and 40 words find as well as single sentences and better than 80; 40 makes the
fewest vectors and is what an agent reads at a glance (benchmarks/retrieval)."""
MAX_PART_WORDS = 300
OPENING_PASSAGES = 2
SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9ÄÖÜÉÀ])|\n")
_ID_DIGITS = 16
_NEW_LINE = "\n"


@dataclass(frozen=True, slots=True)
class Passage:
    """A few sentences of one section.

    Attributes:
        id: Stable: the same as long as source, headings and text are.
        source: Article it belongs to.
        title: Title of the article.
        headings: Headings above it, below the title.
        text: As shown; a block a line.
        part: Number of its part within the article.
        audience: Of the article.
    """

    id: str
    source: str
    title: str
    headings: tuple[str, ...]
    text: str
    part: int
    audience: Audience

    @property
    def title_path(self) -> str:
        """Title and headings, as shown."""
        return " › ".join((self.title, *self.headings))

    @property
    def embedded(self) -> str:
        """What its vector is made of: a passage alone rarely says what it is about."""
        return f"{', '.join((self.title, *self.headings))}: {self.flat}"

    @property
    def flat(self) -> str:
        """The text on one line, as vectors are made of it: lines are for readers."""
        return self.text.replace("\n", " ")


def chunk(article: Article) -> list[Passage]:
    """Cut an article into passages, in order. Pure: equal articles give equal passages."""
    passages: list[Passage] = []
    seen: Counter[str] = Counter()
    part, part_words = 0, 0
    for section in article.sections:
        words = sum(len(block.split()) for block in section.blocks)
        if part_words and part_words + words > MAX_PART_WORDS:
            part, part_words = part + 1, 0
        for text in _group(section.blocks):
            count = len(text.split())
            if part_words and part_words + count > MAX_PART_WORDS:
                part, part_words = part + 1, 0
            part_words += count
            identity = "\0".join((article.source, article.title, *section.headings, "", text))
            seen[identity] += 1  # the same sentence twice under one heading
            digest = hashlib.sha256(f"{identity}\0{seen[identity]}".encode()).hexdigest()[:_ID_DIGITS]
            passages.append(
                Passage(digest, article.source, article.title, section.headings, text, part, article.audience)
            )
    return passages


def part_texts(passages: Sequence[Passage]) -> tuple[str, str, str]:
    """Return what a part's vector is made of: its title, its opening, which says what it is for, and its whole.

    The encoder reads the beginning of a long text.
    """
    title = passages[0].title
    said = [passage.flat for passage in passages]
    return title, f"{title}. {' '.join(said[:OPENING_PASSAGES])}", f"{title}. {' '.join(said)}"


def _group(blocks: tuple[str, ...]) -> Iterator[str]:
    current = ""
    words = 0
    for sentence, is_first in _sentences(blocks):
        count = len(sentence.split())
        if current and words + count > MAX_PASSAGE_WORDS:
            yield current
            current, words = "", 0
        current += f"{_NEW_LINE if is_first else ' '}{sentence}" if current else sentence
        words += count
    if current:
        yield current


def _sentences(blocks: tuple[str, ...]) -> Iterator[tuple[str, bool]]:
    """Give sentences, and whether each begins a block; what has no end for a very long stretch (a log, a table) is cut
    by words.
    """
    for block in blocks:
        is_first = True
        for sentence in SENTENCE_END.split(block):
            words = sentence.split()
            for start in range(0, len(words), 2 * MAX_PASSAGE_WORDS):
                yield " ".join(words[start : start + 2 * MAX_PASSAGE_WORDS]), is_first
                is_first = False
