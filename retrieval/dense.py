"""Nearest passages by inner product: FAISS, flat while that is fast enough, a scan of 4-bit codes beyond.

vectors ─▶ kind by their number ─▶ `vectors.faiss` (flat, exact)
                                   `scan_<n>.faiss` (large bases: product-quantised codes, one file a group)

The flat file is the one place of the vectors: of a large base it is mapped, and exact scores of candidates are read
from it; a small one is read whole. A scan looks at every code, so it loses nobody the way a graph does whose questions
are unlike its passages (docs/decisions/012-scan-instead-of-graph.md). Passages of one audience are one group with a
scan of its own: a viewer's search does not touch the others.

Source: André et al., Quicker ADC (2019), as FAISS' `IndexPQFastScan`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import faiss as untyped_faiss
import numpy as np
from numpy.typing import NDArray

from inference.request import EmbeddingArray

faiss: Any = untyped_faiss
"""Its stubs lack half of what it exports."""

IndexKind = Literal["flat", "scan"]

MAX_FLAT_PASSAGES = 10_000
"""The exact product of a question, its turns and their gist takes 4 ms on one core at this size."""
MIN_SCANNED_PASSAGES = 512
"""A smaller group is all candidates."""
DIMS_A_CODE = 2
"""Dimensions that share four bits. 2 finds all of the ten nearest of 68,000 passages, 4 loses one in twenty."""
CODE_BITS = 4
MAX_TRAINING_PASSAGES = 20_000

VECTORS = "vectors.faiss"

GroupArray = NDArray[np.int32]


def kind_for(num_passages: int) -> IndexKind:
    """Choose the kind of index by size."""
    return "flat" if num_passages <= MAX_FLAT_PASSAGES else "scan"


def write_dense(folder: Path, vectors: EmbeddingArray, kind: IndexKind, group_of: GroupArray) -> None:
    """Build and write the index; seconds for 100,000 passages.

    Args:
        folder: Of the new generation.
        vectors: `[passages, dims] float32`, L2-normalised.
        kind: From `kind_for`.
        group_of: `[passages] int32`, passages that are seen by the same viewers.

    Raises:
        OSError: If a file cannot be written.
    """
    dims = vectors.shape[1]
    flat = faiss.IndexFlatIP(dims)
    flat.add(np.ascontiguousarray(vectors))
    _write(flat, folder / VECTORS)
    if kind == "flat":
        return
    trained = faiss.IndexPQFastScan(dims, dims // DIMS_A_CODE, CODE_BITS, faiss.METRIC_INNER_PRODUCT)
    some = np.random.default_rng(0).permutation(len(vectors))[:MAX_TRAINING_PASSAGES]
    trained.train(np.ascontiguousarray(vectors[some]))
    for number, inside in enumerate(_groups(group_of)):
        if len(inside) >= MIN_SCANNED_PASSAGES:
            scan = faiss.clone_index(trained)
            scan.add(np.ascontiguousarray(vectors[inside]))
            _write(scan, folder / _scan_name(number))


@dataclass(frozen=True, slots=True)
class Group:
    """Passages that are seen by the same viewers.

    Attributes:
        inside: `[passages of the group] int64`, their numbers, ascending.
        scan: FAISS object over them, in this order; None for a small group.
    """

    inside: NDArray[np.int64]
    scan: Any


@dataclass(frozen=True, slots=True)
class DenseIndex:
    """An opened index.

    Attributes:
        vectors: `[passages, dims] float32`; mapped where not all of them are searched.
        kind: Flat or scan.
        groups: Of a scan; empty for a flat one.
    """

    vectors: EmbeddingArray
    kind: IndexKind
    groups: Sequence[Group]

    @classmethod
    def load(cls, folder: Path, kind: IndexKind, dims: int, group_of: GroupArray) -> DenseIndex:
        """Map what `write_dense` wrote.

        Raises:
            OSError: If a file is missing.
            ValueError: If the vectors are torn, or a scan does not fit them.
            RuntimeError: If FAISS cannot read a scan.
        """
        # The vectors are the tail of a flat FAISS file, mapped by numpy: a view into a FAISS object dies with it.
        path, num_passages = folder / VECTORS, len(group_of)
        offset = path.stat().st_size - num_passages * dims * np.dtype(np.float32).itemsize
        if offset < 0:
            raise ValueError(f"{VECTORS} is torn")
        vectors: EmbeddingArray = np.memmap(path, np.float32, "r", offset, (num_passages, dims))
        if kind == "flat":  # they begin at an odd byte of the file, so every product would copy them all
            vectors = np.array(vectors)
        groups = []
        for number, inside in enumerate(_groups(group_of) if kind == "scan" else ()):
            scan = None
            if len(inside) >= MIN_SCANNED_PASSAGES:
                scan = faiss.read_index(os.fspath(folder / _scan_name(number)))
                if scan.ntotal != len(inside):
                    raise ValueError(f"{_scan_name(number)} fits no group")
            groups.append(Group(inside, scan))
        return cls(vectors, kind, tuple(groups))

    def candidates(self, queries: EmbeddingArray, allowed: NDArray[np.bool_] | None, k: int) -> NDArray[np.int64]:
        """Return passages worth scoring: the nearest of each query.

        Args:
            queries: `[queries, dims] float32`.
            allowed: `[passages] bool`, applied before the search; the same for all of a group. None admits all.
            k: Passages a query and group.

        Returns:
            Ascending numbers of passages without repetition; all allowed ones where exact search is cheap.
        """
        if self.kind == "flat":
            return np.arange(len(self.vectors)) if allowed is None else np.flatnonzero(allowed)
        faiss.omp_set_num_threads(1)  # of this thread: more would wait for each other behind live work
        rows = np.ascontiguousarray(queries)
        chosen = [np.zeros(0, np.int64)]
        for group in self.groups:
            if allowed is not None and not allowed[group.inside[0]]:
                continue
            if group.scan is None or len(group.inside) <= k:
                chosen.append(group.inside)
                continue
            _, found = group.scan.search(rows, k)
            chosen.append(group.inside[np.unique(found[found >= 0])])
        return np.sort(np.concatenate(chosen))


def _write(index: Any, path: Path) -> None:
    try:
        faiss.write_index(index, os.fspath(path))
    except RuntimeError as error:  # FAISS' own word for a full disk
        raise OSError(errno.EIO, f"{path.name} could not be written") from error


def _groups(group_of: GroupArray) -> list[NDArray[np.int64]]:
    return [np.flatnonzero(group_of == group) for group in np.unique(group_of)]


def _scan_name(group: int) -> str:
    return f"scan_{group}.faiss"
