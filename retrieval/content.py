"""What a generation holds to read: passages, numbered, each read from its file when it is shown.

passages.msgpack   one record a passage, one after the other, mapped: opening 100,000 of them takes as long as one
articles.msgpack   articles and audiences, few
numbers.npz        where each record begins; part, article and audience of each passage
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import msgspec
import numpy as np
from numpy.typing import NDArray

from retrieval.article import Audience, Viewer
from retrieval.chunking import Passage

_PASSAGES = "passages.msgpack"
_ARTICLES = "articles.msgpack"
_NUMBERS = "numbers.npz"

ArticleRow = tuple[str, str, int]
"""Source, title, audience."""
AudienceRow = tuple[list[str], list[str]]
PassageRow = tuple[str, int, tuple[str, ...], str, int]
"""Id, article, headings, text, part within the article."""
_record = msgspec.msgpack.Decoder(PassageRow)


class _Articles(msgspec.Struct, array_like=True):
    audiences: list[AudienceRow]
    articles: list[ArticleRow]


class StoredPassages(Sequence[Passage]):
    """Passages of a mapped file; each is decoded when it is asked for. Any thread."""

    def __init__(
        self, records: memoryview, begins: NDArray[np.int64], articles: _Articles, audiences: tuple[Audience, ...]
    ) -> None:
        """Read nothing yet.

        Args:
            records: The file.
            begins: `[passages + 1] int64`, where each record begins, and where the last one ends.
            articles: Whose passages they are.
            audiences: Distinct audiences.
        """
        self._records = records
        self._begins = begins
        self._articles = articles
        self._audiences = audiences

    def __len__(self) -> int:
        return len(self._begins) - 1

    @overload
    def __getitem__(self, index: int) -> Passage: ...
    @overload
    def __getitem__(self, index: slice) -> list[Passage]: ...
    def __getitem__(self, index: int | slice) -> Passage | list[Passage]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        record = self._records[self._begins[number] : self._begins[number + 1]]
        id, article, headings, text, part = _record.decode(record)
        source, title, audience = self._articles.articles[article]
        return Passage(id, source, title, headings, text, part, self._audiences[audience])

    def __iter__(self) -> Iterator[Passage]:
        return (self[number] for number in range(len(self)))


@dataclass(frozen=True, slots=True)
class Content:
    """Passages of a base with the numbers that search works on.

    Attributes:
        passages: In order; the passages of a part are neighbours, and so are the parts of an article.
        part_of: `[passages] int32`.
        first_of: `[parts + 1] int64`, first passage of each part.
        article_of: `[parts] int32`.
        audience_of: `[passages] int32`, index into `audiences`.
        audiences: Distinct audiences; few.
    """

    passages: Sequence[Passage]
    part_of: NDArray[np.int32]
    first_of: NDArray[np.int64]
    article_of: NDArray[np.int32]
    audience_of: NDArray[np.int32]
    audiences: tuple[Audience, ...]

    @classmethod
    def of(cls, passages: Sequence[Passage]) -> Content:
        """Number passages; those of one article must be neighbours."""
        part_of, first_of, article_of, audience_of = [], [], [], []
        audiences: dict[Audience, int] = {}
        articles: dict[str, int] = {}
        last: tuple[str, int] | None = None
        for number, passage in enumerate(passages):
            article = articles.setdefault(passage.source, len(articles))
            if (passage.source, passage.part) != last:
                last = (passage.source, passage.part)
                first_of.append(number)
                article_of.append(article)
            part_of.append(len(first_of) - 1)
            audience_of.append(audiences.setdefault(passage.audience, len(audiences)))
        return cls(
            passages,
            np.array(part_of, np.int32),
            np.array([*first_of, len(passages)], np.int64),
            np.array(article_of, np.int32),
            np.array(audience_of, np.int32),
            tuple(audiences),
        )

    @property
    def num_parts(self) -> int:
        """Parts in it."""
        return len(self.article_of)

    def sources(self, viewer: Viewer | None = None) -> frozenset[str]:
        """Return the articles that a viewer may see; None: all of them."""
        firsts = (self.passages[number] for number in self.first_of[:-1].tolist())
        return frozenset(first.source for first in firsts if viewer is None or first.audience.admits(viewer))

    def part(self, number: int) -> Sequence[Passage]:
        """Return the passages of a part."""
        return self.passages[self.first_of[number] : self.first_of[number + 1]]

    def allowed(self, viewer: Viewer) -> NDArray[np.bool_] | None:
        """Return `[passages] bool`, what the viewer may see; None where that is all."""
        admitted = np.array([audience.admits(viewer) for audience in self.audiences], np.bool_)
        return None if admitted.all() else admitted[self.audience_of]

    def save(self, folder: Path) -> None:
        """Write it."""
        audiences = {audience: number for number, audience in enumerate(self.audiences)}
        numbers: dict[str, int] = {}
        articles = _Articles([(sorted(a.rights), sorted(a.queues)) for a in self.audiences], [])
        begins = np.zeros(len(self.passages) + 1, np.int64)
        with open(folder / _PASSAGES, "wb") as file:
            for number, passage in enumerate(self.passages):
                article = numbers.setdefault(passage.source, len(numbers))
                if article == len(articles.articles):
                    articles.articles.append((passage.source, passage.title, audiences[passage.audience]))
                row: PassageRow = (passage.id, article, passage.headings, passage.text, passage.part)
                begins[number + 1] = begins[number] + file.write(msgspec.msgpack.encode(row))
        (folder / _ARTICLES).write_bytes(msgspec.msgpack.encode(articles))
        np.savez(
            folder / _NUMBERS,
            begins=begins,
            part_of=self.part_of,
            first_of=self.first_of,
            article_of=self.article_of,
            audience_of=self.audience_of,
        )

    @classmethod
    def load(cls, folder: Path) -> Content:
        """Map what `save` wrote.

        Raises:
            OSError: If a file is missing.
            ValueError: If one is torn, or does not fit the others.
            msgspec.DecodeError: If the articles are torn.
        """
        articles = msgspec.msgpack.decode((folder / _ARTICLES).read_bytes(), type=_Articles)
        audiences = tuple(Audience(frozenset(rights), frozenset(queues)) for rights, queues in articles.audiences)
        with np.load(folder / _NUMBERS) as numbers:
            begins, part_of, first_of = numbers["begins"], numbers["part_of"], numbers["first_of"]
            article_of, audience_of = numbers["article_of"], numbers["audience_of"]
        with open(folder / _PASSAGES, "rb") as file:
            records = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        if begins[-1] != len(records) or len(part_of) != len(begins) - 1:
            raise ValueError(f"{_PASSAGES} is torn")
        passages = StoredPassages(records, begins, articles, audiences)
        return cls(passages, part_of, first_of, article_of, audience_of, audiences)
