"""One generation of a base on disk: everything a search needs, mapped, never changed after it was written.

manifest.json        what it is; written last
vectors.faiss        a vector a passage, in order        scan_*.faiss   for large bases (`dense`)
parts.npy            a vector a part: title, opening and whole, weighted (`scoring`)
anchors.npy          vectors of what is said in calls (`anchors`)
passages.msgpack, articles.msgpack, numbers.npz      passages with part, source, audience (`content`)
terms.msgpack, lexical_*.npy
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import msgspec
import numpy as np

from inference.request import EmbeddingArray
from retrieval.anchors import Anchors
from retrieval.content import Content
from retrieval.dense import DenseIndex, kind_for, write_dense
from retrieval.errors import DamagedIndex, ingest_command
from retrieval.lexical import LexicalIndex
from retrieval.manifest import Manifest
from retrieval.store import BaseStore
from retrieval.words import terms

_PARTS = "parts.npy"
_ANCHORS = "anchors.npy"


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
    def open(cls, store: BaseStore, number: int) -> Generation:
        """Map a generation of a base.

        Raises:
            DamagedIndex: If anything of it is missing, torn, of another format or does not fit the rest.
        """
        manifest, folder = store.manifest(number), store.path(number)
        place = f"knowledge base {store.base}, generation {number}"
        remedy = f"go back with `cueline kb rollback`, or rebuild it: {ingest_command(store.base, store.tenant)}"
        try:
            manifest.check_files(folder)
            content = Content.load(folder)
            dense = DenseIndex.load(folder, manifest.index, manifest.encoder.dims, content.audience_of)
            part_vectors = np.load(folder / _PARTS, mmap_mode="r")
            lexical = LexicalIndex.load(folder, content.num_parts)
            anchors = Anchors.of(np.load(folder / _ANCHORS))
        except (OSError, ValueError, RuntimeError, IndexError, KeyError, BadZipFile, msgspec.DecodeError) as error:
            raise DamagedIndex(f"{place} is damaged ({type(error).__name__}); {remedy}", field="kb") from error
        expected = (manifest.passages, manifest.parts, manifest.encoder.dims)
        found = (len(content.passages), len(part_vectors), dense.vectors.shape[1])
        if found != expected or len(dense.vectors) != manifest.passages or content.num_parts != manifest.parts:
            raise DamagedIndex(f"{place} holds other counts than its manifest; {remedy}", field="kb")
        return cls(manifest, content, dense, np.asarray(part_vectors), anchors, lexical)


def write_generation(
    folder: Path,
    content: Content,
    vectors: EmbeddingArray,
    part_vectors: EmbeddingArray,
    anchors: EmbeddingArray,
) -> None:
    """Write all but the manifest, which makes it whole."""
    content.save(folder)
    write_dense(folder, vectors, kind_for(len(vectors)), content.audience_of)
    np.save(folder / _PARTS, part_vectors)
    np.save(folder / _ANCHORS, anchors)
    lexical_index(content).save(folder)


def lexical_index(content: Content) -> LexicalIndex:
    """Index the terms of every part, those of title and headings apart."""
    parts = [content.part(number) for number in range(content.num_parts)]
    return LexicalIndex.build(
        [terms(" ".join((part[0].title, *dict.fromkeys(h for p in part for h in p.headings)))) for part in parts],
        [[term for passage in part for term in terms(passage.text)] for part in parts],
    )
