"""A version gets its search head: fitted, judged on trades it has not seen, built into every file, recorded, verified.

tasks ─▶ states of the version's encoder ─▶ fit ─▶ `retrieval.safetensors` ─▶ build ─▶ golden answers ─▶ verify

The encoder and every other head stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from inference.export.build import RETRIEVAL_FILE, Sources, build_version, read_sources
from inference.export.retrieval import save_retrieval
from inference.training.features import open_tokenizer
from inference.training.folder import declare_retrieval, prove
from inference.training.retrieval_head import PackedTask, Settings, fit_retrieval
from inference.training.search_task import SearchTask
from inference.training.states import StateRunner
from inference.training.tasks import FloatArray

FOLDS = 4
REPORTED_STEPS = 20

Report = Callable[[str], None]


def add_search_head(
    version: Path,
    tasks: Sequence[SearchTask],
    settings: Settings,
    num_threads: int = 1,
    *,
    judged: bool = False,
    report: Report = lambda _: None,
) -> None:
    """Fit the head on all tasks and make it part of the version. See the module.

    Args:
        version: Folder such as `model_repo/utterance/1`, trained.
        tasks: Bases of many trades.
        settings: Of the fit.
        num_threads: Of torch and onnxruntime.
        judged: Leave a quarter of the trades out in turn first, and report what is found in them.
        report: Called with what is under way and what was found.

    Raises:
        ExportError: If weights are missing, or the result does not pass its own verification.
    """
    torch.set_num_threads(num_threads)
    sources = read_sources(version)
    tokenizer = open_tokenizer(version.parent / "tokenizer.json")
    last = sources.encoder.num_layers
    runner = StateRunner(sources.encoder, range(last, last - settings.layers, -1), tokenizer, num_threads)

    def states_of(texts: Sequence[str]) -> list[FloatArray]:
        found = runner.run(texts)
        return [found.values[begin:end] for begin, end in pairwise(found.starts)]

    report(f"states of {len(tasks)} bases")
    packed = [PackedTask(task, states_of) for task in tasks]
    start = _start(sources)
    if judged:
        for line in judge(packed, start, settings):
            report(line)

    def progress(step: int, loss: float) -> None:
        if step % REPORTED_STEPS == 0:
            report(f"step {step}: loss {loss:.3f}")

    head = fit_retrieval(packed, start, settings, progress)
    save_retrieval(head.export(), version / RETRIEVAL_FILE)
    declare_retrieval(version.parent, sources.encoder.dims)
    build_version(version, report)
    prove(version, tokenizer, sources.encoder.num_layers, report)


def judge(tasks: Sequence[PackedTask], start: FloatArray, settings: Settings) -> Iterator[str]:
    """Search each trade by a head that has not seen it, and by the embedding."""
    untrained = fit_retrieval(tasks[:1], start, replace(settings, epochs=0))
    places = np.random.default_rng(settings.seed).permutation(len(tasks)) % FOLDS
    ranks: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {"embedding": [], "head": []}
    for fold in range(FOLDS):
        head = fit_retrieval(
            [task for task, place in zip(tasks, places, strict=True) if place != fold], start, settings
        )
        for task in (task for task, place in zip(tasks, places, strict=True) if place == fold):
            ranks["embedding"].append((task.task.is_direct, task.rank(untrained)))
            ranks["head"].append((task.task.is_direct, task.rank(head)))
    for name, found in ranks.items():
        is_direct, rank = (np.concatenate(column) for column in zip(*found, strict=True))
        for kind, chosen in (("direct", is_direct), ("in conversation", ~is_direct)):
            recalls = ", ".join(f"recall@{k} {(rank[chosen] < k).mean():.3f}" for k in (1, 3, 5))
            yield f"{name}, {kind} ({chosen.sum()}): {recalls}, MRR {(1 / (rank[chosen] + 1)).mean():.3f}"


def _start(sources: Sources) -> FloatArray:
    projection = sources.heads.projection
    return np.eye(sources.encoder.dims, dtype=np.float32) if projection is None else projection
