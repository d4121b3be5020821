"""The requirement's budget table and the service level, on a real server in its own process.

Asserted are the p95 of each stage against `graphs/budget.toml`, which is the requirement's own table, and the promises
of the service level; everything else is printed. Generator, clients and server share the machine, whose noise only ever
adds: a gate that fails is tried again, and the best of three attempts counts. Where others took a tenth of a core or
more, a tail says how long a core was waited for; then the median is held against the same figure.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

import pytest
import uvloop

from benchmarks.engine.harness import ROWS, Bare, Side, shipped_version
from benchmarks.machine import Usage, usage_of
from benchmarks.pipeline.load import Schedule, run_load
from benchmarks.texts import unique_texts
from server.config.budget import load_budget
from server.config.settings import PROJECT_ROOT
from server.replay.recording import read_stereo
from server.replay.replay import Replay
from tests.integration.running import RunningServer, rss_bytes, serve

pytestmark = pytest.mark.gate

DEMO = PROJECT_ROOT / "data" / "demo" / "car_service.wav"
SECONDS = 20
MAX_ROWS_PER_UPDATE = 12.0
"""CPU of an update through the whole server, seven publications and all, in rows of bare onnxruntime's best batches.
Five to nine were seen at 100 to 200 a second on a machine that others used."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serve(tmp_path_factory.mktemp("data")) as running:
        yield running


def replay(server: RunningServer, calls: int) -> list[dict]:
    recording = read_stereo(DEMO)

    async def run() -> list[dict]:
        return await asyncio.gather(*(Replay(server.ws, recording, seconds=SECONDS).run() for _ in range(calls)))

    return asyncio.run(run())


def over_budget(reports: list[dict], share: str, *, without: tuple[str, ...] = ()) -> list[str]:
    """Print each stage's worst p95 over the calls; return those over their budget.

    Args:
        reports: One a call.
        share: `p95`, or `p50` where others used the machine.
        without: Stages that are printed only.
    """
    budget = load_budget(PROJECT_ROOT / "graphs")
    over = []
    for stage, limit_ms in budget.stages.items():
        rows = [report["stages_ms"][stage] for report in reports if report["stages_ms"][stage]["n"]]
        if not rows:
            continue
        worst = max(row[share] for row in rows)
        print(f"  {stage:14} p95 {max(row['p95'] for row in rows):8.1f} ms of {limit_ms:g}")
        if worst > limit_ms and stage not in without:
            over.append(f"{stage}: {share} {worst} ms, budget {limit_ms:g}")
    return over


def judged_by(usage: Usage) -> str:
    """Print who used the machine; return the share of each stage that is judged."""
    print(f"  {usage}")
    return "p95" if usage.is_quiet else "p50"


def best_of_three(attempt: Callable[[], list[str]]) -> None:
    """Fail with the last attempt's faults if none was without."""
    faults: list[str] = []
    for _ in range(3):
        faults = attempt()
        if not faults:
            return
    pytest.fail("; ".join(faults))


def promises(reports: list[dict], share: str, limits_ms: dict[str, float]) -> list[str]:
    """Broken promises of the service level, and anything that was lost."""
    broken = [
        f"{report['gaps']} gaps, {report['feed_lost']} lost"
        for report in reports
        if report["gaps"] or report["feed_lost"]
    ]
    for name, limit_ms in limits_ms.items():
        worst = max((report["latency_ms"][name][share] or 0.0 for report in reports), default=0.0)
        if worst > limit_ms:
            broken.append(f"{name}: {share} {worst} ms, promised {limit_ms:g}")
    return broken


def print_latencies(title: str, reports: list[dict]) -> None:
    print(f"\n{title}")
    for name in reports[0]["latency_ms"]:
        cells = [report["latency_ms"][name] for report in reports if report["latency_ms"][name]["n"]]
        if cells:
            p50, p95 = (max(cell[key] for cell in cells) for key in ("p50", "p95"))
            print(f"  {name:30} n {sum(cell['n'] for cell in cells):4} worst p50 {p50:7.1f} p95 {p95:7.1f} ms")


def test_one_call_in_real_time(server):
    def attempt() -> list[str]:
        with usage_of(server.process.pid) as usage:
            reports = replay(server, 1)
        print_latencies("one call", reports)
        share = judged_by(usage)
        limits = {"final_to_action": 50, "speech_to_interim": 900, "speech_end_to_action": 1500}
        return over_budget(reports, share) + promises(reports, share, limits)

    best_of_three(attempt)


def test_four_calls_at_once(server):
    """Recognition of eight channels shares two cores with everything else here, so its stage is printed, not gated."""

    def attempt() -> list[str]:
        with usage_of(server.process.pid) as usage:
            reports = replay(server, 4)
        print_latencies("four calls, eight audio channels", reports)
        print(f"  memory of the server and its workers {rss_bytes(server.process.pid) / 1e6:.0f} MB")
        share = judged_by(usage)
        over = over_budget(reports, share, without=("asr", "network"))
        return over + promises(reports, share, {"speech_end_to_action": 1500})

    best_of_three(attempt)


def test_a_steady_stream_of_updates_over_fifty_calls(server):
    """Open loop: what an update costs, and p99 where the cores are ours. 200 a second is the aim and is printed."""
    texts = unique_texts(seed=1)
    attempts = itertools.count()
    bare_ms = bare_ms_per_row()

    def attempt() -> list[str]:
        number = next(attempts)
        with usage_of(server.process.pid) as usage:
            schedule = Schedule(rate_per_s=100, duration_s=8, conversations=50, prefix=f"held-{number}")
            held = uvloop.run(run_load(server.ws, texts, schedule))
        rows = usage.tested_s * 1000 / held.sent / bare_ms
        print(f"\nopen loop, {held}\n  {usage}; an update costs {rows:.1f} rows of bare onnxruntime")
        faults = [f"{held.sent - held.answered} unanswered"] if held.answered != held.sent else []
        if rows > MAX_ROWS_PER_UPDATE:
            faults.append(f"an update costs {rows:.1f} rows of bare onnxruntime, allowed {MAX_ROWS_PER_UPDATE:g}")
        if usage.is_quiet and held.percentile(99) > 100:
            faults.append(f"p99 {held.percentile(99):.0f} ms at 100/s, promised 100")
        return faults

    best_of_three(attempt)
    aim = uvloop.run(run_load(server.ws, texts, Schedule(rate_per_s=200, duration_s=8, conversations=50, prefix="aim")))
    print(f"open loop, {aim}")


def bare_ms_per_row() -> float:
    """CPU of bare onnxruntime for a row of a perfect batch: the best of three rounds."""
    bare, side, texts = Bare(shipped_version()), Side(), unique_texts(7)
    for _ in range(4):
        batches = bare.batches(list(itertools.islice(texts, ROWS)), 16)
        with side.round():
            bare.run(batches)
    return min(side.cpu_s) / ROWS * 1000
