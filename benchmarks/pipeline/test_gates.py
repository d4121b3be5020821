"""The requirement's budget table and the throughput promise, on a real server in its own process.

What is asserted: the p95 of each stage against `graphs/budget.toml`, which is the requirement's own table, and the
promises of the service level; everything else is printed. Generator, clients and server share the machine.
"""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.pipeline.load import run_load
from benchmarks.texts import unique_texts
from server.config.budget import load_budget
from server.config.settings import PROJECT_ROOT
from server.replay.recording import read_stereo
from server.replay.replay import Replay
from tests.integration.running import RunningServer, rss_bytes, serve

pytestmark = pytest.mark.gate

DEMO = PROJECT_ROOT / "data" / "demo" / "car_service.wav"
SECONDS = 40


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serve(tmp_path_factory.mktemp("data")) as running:
        yield running


def replay(server: RunningServer, calls: int) -> list[dict]:
    recording = read_stereo(DEMO)

    async def run() -> list[dict]:
        return await asyncio.gather(*(Replay(server.ws, recording, seconds=SECONDS).run() for _ in range(calls)))

    return asyncio.run(run())


def check_budget(reports: list[dict]) -> None:
    budget = load_budget(PROJECT_ROOT / "graphs")
    over = []
    for stage, limit_ms in budget.stages.items():
        rows = [report["stages_ms"][stage] for report in reports if report["stages_ms"][stage]["n"]]
        if not rows:
            continue
        worst = max(row["p95"] for row in rows)
        print(f"  {stage:14} p95 {worst:8.1f} ms of {limit_ms:g}")
        if worst > limit_ms:
            over.append(f"{stage}: p95 {worst} ms, budget {limit_ms:g}")
    assert not over, over


def print_latencies(title: str, reports: list[dict]) -> None:
    print(f"\n{title}")
    for name in reports[0]["latency_ms"]:
        cells = [report["latency_ms"][name] for report in reports if report["latency_ms"][name]["n"]]
        if cells:
            p50, p95 = (max(cell[key] for cell in cells) for key in ("p50", "p95"))
            print(f"  {name:30} n {sum(cell['n'] for cell in cells):4} worst p50 {p50:7.1f} p95 {p95:7.1f} ms")


def test_one_call_in_real_time(server):
    (report,) = replay(server, 1)
    print_latencies("one call", [report])
    check_budget([report])
    assert (report["gaps"], report["feed_lost"]) == (0, 0)
    latency = report["latency_ms"]
    assert latency["final_to_action"]["p95"] <= 50
    assert latency["speech_to_interim"]["p95"] <= 900
    assert latency["speech_end_to_action"]["p95"] <= 1500


def test_four_calls_at_once(server):
    reports = replay(server, 4)
    print_latencies("four calls, eight audio channels", reports)
    check_budget(reports)
    assert sum(report["gaps"] + report["feed_lost"] for report in reports) == 0
    print(f"  memory of the server and its workers {rss_bytes(server.process.pid) / 1e6:.0f} MB")


def test_two_hundred_updates_a_second_over_fifty_calls(server):
    result = asyncio.run(
        run_load(server.ws, unique_texts(seed=1), rate_per_s=200, duration_s=15, conversations=50, prefix="gate")
    )
    print(f"\nopen loop, {result}")
    assert result.answered == result.sent
    assert result.percentile(99) <= 100
