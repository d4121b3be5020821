"""Nearest passages by inner product: FAISS, flat while that is fast enough, a graph (HNSW) beyond.

vectors ─▶ kind by their number ─▶ `vectors.faiss` (flat, memory-mapped, exact) and `graph.faiss` (HNSW, large bases)

A flat FAISS file is the one place of the vectors: it is mapped, and exact scores of candidates are read from it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import faiss as untyped_faiss
import numpy as np
from numpy.typing import NDArray

from inference.request import EmbeddingArray

faiss: Any = untyped_faiss
"""Its stubs lack half of what it exports."""

IndexKind = Literal["flat", "hnsw"]

MAX_FLAT_PASSAGES = 30_000
"""Up to here the exact product of a query of six turns takes less than 5 ms on one core."""
MAX_EXACT_SHARE_PASSAGES = 30_000
"""A filter that leaves fewer passages than this is searched exactly: a graph loses its way among forbidden nodes."""
HNSW_LINKS = 24
HNSW_BUILD_BREADTH = 80
HNSW_SEARCH_BREADTH = 192

VECTORS = "vectors.faiss"
GRAPH = "graph.faiss"


def kind_for(num_passages: int) -> IndexKind:
    """Choose the kind of index by size."""
    return "flat" if num_passages <= MAX_FLAT_PASSAGES else "hnsw"


def write_dense(folder: Path, vectors: EmbeddingArray, kind: IndexKind) -> None:
    """Build and write the index.

    Args:
        folder: Of the new generation.
        vectors: `[passages, dims] float32`, L2-normalised.
        kind: From `kind_for`.
    """
    flat = faiss.IndexFlatIP(vectors.shape[1])
    flat.add(np.ascontiguousarray(vectors))
    faiss.write_index(flat, os.fspath(folder / VECTORS))
    if kind == "hnsw":
        graph = faiss.IndexHNSWSQ(
            vectors.shape[1], faiss.ScalarQuantizer.QT_fp16, HNSW_LINKS, faiss.METRIC_INNER_PRODUCT
        )
        graph.hnsw.efConstruction = HNSW_BUILD_BREADTH
        graph.train(vectors)
        graph.add(vectors)
        faiss.write_index(graph, os.fspath(folder / GRAPH))


@dataclass(frozen=True, slots=True)
class DenseIndex:
    """An opened index.

    Attributes:
        vectors: `[passages, dims] float32`, mapped.
        kind: Flat or graph.
        graph: FAISS object of a large base, None for a flat one.
    """

    vectors: EmbeddingArray
    kind: IndexKind
    graph: Any

    @classmethod
    def load(cls, folder: Path, kind: IndexKind, num_passages: int, dims: int) -> DenseIndex:
        """Map what `write_dense` wrote.

        Raises:
            OSError: If a file is missing.
            ValueError: If the vectors are torn.
            RuntimeError: If FAISS cannot read the graph.
        """
        # The vectors are the tail of a flat FAISS file, mapped by numpy: a view into a FAISS object dies with it.
        path = folder / VECTORS
        offset = path.stat().st_size - num_passages * dims * np.dtype(np.float32).itemsize
        if offset < 0:
            raise ValueError(f"{VECTORS} is torn")
        vectors = np.memmap(path, np.float32, "r", offset, (num_passages, dims))
        graph = faiss.read_index(os.fspath(folder / GRAPH)) if kind == "hnsw" else None
        return cls(vectors, kind, graph)

    def candidates(self, queries: EmbeddingArray, allowed: NDArray[np.bool_] | None, k: int) -> NDArray[np.int64]:
        """Return passages worth scoring: the nearest of each query.

        Args:
            queries: `[queries, dims] float32`.
            allowed: `[passages] bool`, applied before the search; None admits all.
            k: Passages a query.

        Returns:
            Ascending numbers of passages without repetition; all allowed ones where exact search is cheap.
        """
        if allowed is not None:
            inside = np.flatnonzero(allowed)
            if self.graph is None or len(inside) <= MAX_EXACT_SHARE_PASSAGES:
                return inside
        elif self.graph is None:
            return np.arange(len(self.vectors))
        selector = None if allowed is None else faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        parameters = faiss.SearchParametersHNSW(efSearch=max(HNSW_SEARCH_BREADTH, k), sel=selector)
        faiss.omp_set_num_threads(1)  # of this thread: more would wait for each other behind live work
        _, found = self.graph.search(np.ascontiguousarray(queries), k, params=parameters)
        return np.unique(found[found >= 0])
