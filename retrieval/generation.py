"""One generation of a base on disk: everything a search needs, mapped, never changed after it was written.

manifest.json        what it is; written last
vectors.faiss        a vector a passage, in order        graph.faiss   for large bases
parts.npy            a vector a part: title, opening and whole, weighted (`scoring`)
anchors.npy          vectors of what is said in calls (`anchors`)
passages.msgpack     passages with part, source, audience
terms.msgpack, lexical_*.npy
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from inference.request import EmbeddingArray
from retrieval.anchors import Anchors
from retrieval.article import Audience, Viewer
from retrieval.chunking import Passage
from retrieval.dense import DenseIndex, kind_for, write_dense
from retrieval.errors import DamagedIndex
from retrieval.lexical import LexicalIndex
from retrieval.manifest import Manifest
from retrieval.words import terms

_PASSAGES = "passages.msgpack"
_PARTS = "parts.npy"
_ANCHORS = "anchors.npy"

PassageRow = tuple[str, int, tuple[str, ...], str, int]
"""Id, article, headings, text, part within the article."""
ArticleRow = tuple[str, str, int]
"""Source, title, audience."""
AudienceRow = tuple[list[str], list[str]]


class _Table(msgspec.Struct, array_like=True):
    audiences: list[AudienceRow]
    articles: list[ArticleRow]
    passages: list[PassageRow]


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

    def part(self, number: int) -> Sequence[Passage]:
        """Return the passages of a part."""
        return self.passages[self.first_of[number] : self.first_of[number + 1]]

    def allowed(self, viewer: Viewer) -> NDArray[np.bool_] | None:
        """Return `[passages] bool`, what the viewer may see; None where that is all."""
        admitted = np.array([audience.admits(viewer) for audience in self.audiences], np.bool_)
        return None if admitted.all() else admitted[self.audience_of]


@dataclass(frozen=True, slots=True)
class Generation:
    """An opened generation.

    Attributes:
        manifest: What it says of itself.
        content: Passages.
        dense: Vectors of passages.
        part_vectors: `[parts, dims] float32`, weighted sums.
        anchors: What is said in calls, as this encoder sees it.
        lexical: Terms of parts.
    """

    manifest: Manifest
    content: Content
    dense: DenseIndex
    part_vectors: EmbeddingArray
    anchors: Anchors
    lexical: LexicalIndex

    @classmethod
    def open(cls, folder: Path) -> Generation:
        """Map a generation.

        Raises:
            DamagedIndex: If anything of it is missing, torn or does not fit the rest.
        """
        manifest = Manifest.read(folder)
        try:
            manifest.check_files(folder)
            content = Content.of(read_passages(folder))
            dense = DenseIndex.load(folder, manifest.index, manifest.passages, manifest.encoder.dims)
            part_vectors = np.load(folder / _PARTS, mmap_mode="r")
            lexical = LexicalIndex.load(folder, content.num_parts)
            anchors = Anchors.of(np.load(folder / _ANCHORS))
        except (OSError, ValueError, RuntimeError, IndexError, msgspec.DecodeError) as error:
            raise DamagedIndex(
                f"generation {folder.name} of {manifest.base} is damaged ({type(error).__name__});"
                " go back with `cueline kb rollback`, or run `cueline kb ingest DIR` again"
            ) from error
        expected = (manifest.passages, manifest.parts, manifest.encoder.dims)
        found = (len(content.passages), len(part_vectors), dense.vectors.shape[1])
        if found != expected or len(dense.vectors) != manifest.passages or content.num_parts != manifest.parts:
            raise DamagedIndex(f"generation {folder.name} of {manifest.base} holds other counts than its manifest")
        return cls(manifest, content, dense, np.asarray(part_vectors), anchors, lexical)


def write_generation(
    folder: Path,
    content: Content,
    vectors: EmbeddingArray,
    part_vectors: EmbeddingArray,
    anchors: EmbeddingArray,
) -> None:
    """Write all but the manifest, which makes it whole."""
    audiences = {audience: number for number, audience in enumerate(content.audiences)}
    articles: dict[str, int] = {}
    table = _Table([(sorted(a.rights), sorted(a.queues)) for a in content.audiences], [], [])
    for passage in content.passages:
        article = articles.setdefault(passage.source, len(articles))
        if article == len(table.articles):
            table.articles.append((passage.source, passage.title, audiences[passage.audience]))
        table.passages.append((passage.id, article, passage.headings, passage.text, passage.part))
    (folder / _PASSAGES).write_bytes(msgspec.msgpack.encode(table))
    write_dense(folder, vectors, kind_for(len(vectors)))
    np.save(folder / _PARTS, part_vectors)
    np.save(folder / _ANCHORS, anchors)
    parts = [content.part(number) for number in range(content.num_parts)]
    LexicalIndex.build(
        [terms(" ".join((part[0].title, *dict.fromkeys(h for p in part for h in p.headings)))) for part in parts],
        [[term for passage in part for term in terms(passage.text)] for part in parts],
    ).save(folder)


def read_passages(folder: Path) -> list[Passage]:
    """Read the passages of a generation, in order.

    Raises:
        OSError: If the file is missing.
        msgspec.DecodeError: If it is torn.
        IndexError: If it does not fit itself.
    """
    table = msgspec.msgpack.decode((folder / _PASSAGES).read_bytes(), type=_Table)
    audiences = [Audience(frozenset(rights), frozenset(queues)) for rights, queues in table.audiences]
    passages = []
    for id, article, headings, text, part in table.passages:
        source, title, audience = table.articles[article]
        passages.append(Passage(id, source, title, tuple(headings), text, part, audiences[audience]))
    return passages
