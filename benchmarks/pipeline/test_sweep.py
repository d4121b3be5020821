"""How much a server takes: the highest rates at p99 of 50 and 100 ms, beside bare onnxruntime in the same run.

Writes `reports/load/`; on a quiet machine each search takes two minutes. Bias: generator and fifty readers take about a
twentieth of the machine from the server; bare onnxruntime has all of it.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import uvloop

from benchmarks.engine.harness import ROWS, Bare, Side, shipped_version
from benchmarks.machine import usage_of
from benchmarks.peer import peer
from benchmarks.pipeline.load import LoadResult, Schedule, run_bare_load, run_load
from benchmarks.pipeline.sweep import highest, holds, sweep, write_report
from benchmarks.texts import unique_texts
from server.config.settings import PROJECT_ROOT
from tests.integration.running import serve

LIMITS_MS = (50.0, 100.0)
START_PER_S = 100.0
LONE_PER_S = 4.0
LONE_UPDATES = 24
SECONDS = 6.0
LEAD_S = 5.0
"""Fifty calls begin in one instant and get their first cards, which the server takes up to four seconds to get through
at the highest rates: a rate that it holds is asked for, not how it takes a rush."""
SUBJECTS = {
    "server": "`/v1/ingest/transcripts`, answered on the feed",
    "hot_path": "the hot path alone: socket, graph and engine, without calls, policy, log and store",
}


def bare_rows_per_s(bare: Bare, texts: Iterator[str]) -> float:
    """Best of three rounds of bare onnxruntime on all cores."""
    side = Side()
    for _ in range(3):
        batches = bare.batches(list(itertools.islice(texts, ROWS)), 16)
        with side.round():
            bare.run(batches)
    return ROWS / min(side.wall_s)


def bare_lone_ms(bare: Bare, texts: Iterator[str]) -> float:
    """p50 of tokenising and running one text after another, as far apart as the lone updates of the sweep."""
    took_ms = list[float]()
    for _ in range(LONE_UPDATES):
        time.sleep(1.0 / LONE_PER_S)
        started_s = time.perf_counter()
        bare.run_here(bare.batches([next(texts)], 1))
        took_ms.append((time.perf_counter() - started_s) * 1000.0)
    return float(np.median(took_ms))


def highest_rates(name: str, run: Callable[..., Awaitable[LoadResult]], url: str, pid: int) -> dict[float, float]:
    """Sweep, report, and return the share of bare onnxruntime's rate by promised p99.

    A search takes minutes, in which a shared machine may change by a third: a rate is compared with what bare
    onnxruntime does right before and right after it.
    """
    bare, bare_texts = Bare(shipped_version()), unique_texts(7)
    bare_rows_per_s(bare, bare_texts)  # warm
    texts = unique_texts(11)
    runs = itertools.count()
    beside: dict[float, list[float]] = defaultdict(list)

    async def measure(rate_per_s: float) -> LoadResult:
        schedule = Schedule(
            rate_per_s=rate_per_s, duration_s=SECONDS, conversations=50, prefix=f"n{next(runs)}", lead_s=LEAD_S
        )
        before = bare_rows_per_s(bare, bare_texts)
        result = await run(url, texts, schedule)
        beside[rate_per_s] += [before, bare_rows_per_s(bare, bare_texts)]
        print(f"  {result}; bare onnxruntime {beside[rate_per_s][-2]:.0f} and {beside[rate_per_s][-1]:.0f} rows/s")
        return result

    print(f"\n{name}")
    uvloop.run(measure(START_PER_S))  # warm
    lone = uvloop.run(measure(LONE_PER_S))
    bare_lone = bare_lone_ms(bare, bare_texts)
    with usage_of(pid) as usage:
        found = uvloop.run(sweep(measure, LIMITS_MS, START_PER_S))
    rates = {limit_ms: highest(found, limit_ms) for limit_ms in LIMITS_MS}
    limits = {limit_ms: float(np.mean(beside[rate])) if rate else math.inf for limit_ms, rate in rates.items()}
    folder = PROJECT_ROOT / "reports" / "load" / name
    write_report(folder, SUBJECTS[name], found, LIMITS_MS, limits, lone.percentile(50), bare_lone, str(usage))
    print(f"a lone update p50 {lone.percentile(50):.1f} ms, tokenised and run alone {bare_lone:.1f} ms")
    print(f"{usage}; {folder / 'report.md'}")
    for limit_ms, rate in rates.items():
        of_bare = f"{rate / limits[limit_ms]:.2f} of bare onnxruntime's {limits[limit_ms]:.0f} beside it"
        print(f"p99 <= {limit_ms:g} ms up to {rate:.0f}/s, {of_bare}")
    return {limit_ms: rate / limits[limit_ms] for limit_ms, rate in rates.items()}


def test_highest_rate_of_the_whole_server(tmp_path: Path):
    with serve(tmp_path) as server:
        assert highest_rates("server", run_load, server.ws, server.process.pid)[100.0]


def test_highest_rate_of_the_hot_path_alone():
    """From socket to annotations, without calls, policy, log and store."""
    with peer("benchmarks.pipeline.annotator") as (url, pid):
        assert highest_rates("hot_path", run_bare_load, url, pid)[100.0]


@pytest.mark.parametrize("capacity_per_s", [30.0, 150.0, 410.0, 999.0])
def test_the_search_finds_a_known_limit(capacity_per_s: float, tmp_path: Path):
    async def measure(rate_per_s: float) -> LoadResult:
        latency_ms = 20.0 if rate_per_s <= capacity_per_s else 1000.0
        return LoadResult(rate_per_s, 100, 100, 7, np.full(100, latency_ms), np.zeros(100))

    found = asyncio.run(sweep(measure, LIMITS_MS, START_PER_S))
    assert capacity_per_s / 1.06 <= highest(found, 50.0) <= capacity_per_s
    assert not holds(found[-1], 50.0)
    write_report(
        tmp_path,
        "a model of a server",
        found,
        LIMITS_MS,
        dict.fromkeys(LIMITS_MS, 1000.0),
        5.0,
        4.0,
        "others took 0.0 of 2 cores",
    )
    assert (tmp_path / "report.md").read_text().startswith("# Load on a model of a server\n")
    assert f"| 50 ms | {highest(found, 50.0):.0f}/s | 1000/s |" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "latency.svg").read_text().startswith("<?xml")
