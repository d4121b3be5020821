"""The hot path beside mosec, the fastest of the servers that serve any model, on the same encoder and texts.

Open loop, generator on the same cores. mosec answers three heads over HTTP; the hot path runs the product's graph and
writes annotations on a WebSocket, once the same three an utterance and once all six.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import pytest
import uvloop

from benchmarks.others.http_load import run_http_load
from benchmarks.peer import peer
from benchmarks.pipeline.load import LoadResult, Schedule, run_bare_load
from benchmarks.pipeline.sweep import highest, sweep
from benchmarks.texts import unique_texts
from server.config.settings import PROJECT_ROOT

pytest.importorskip("mosec", reason="needs mosec beside us: pip install mosec==0.9.8")

LIMITS_MS = (50.0, 100.0)
START_PER_S = 500.0
LONE_PER_S = 20.0
SECONDS, LEAD_S = 4.0, 2.0
READY_S = 60.0

Load = Callable[[Iterator[str], Schedule], Awaitable[LoadResult]]


@contextlib.contextmanager
def mosec() -> Iterator[int]:
    """Run it; its port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "benchmarks.others.mosec_server", "--port", str(port), "--address", "127.0.0.1"]
    process = subprocess.Popen(command, cwd=PROJECT_ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until_s = time.monotonic() + READY_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
                break
            assert process.poll() is None, "mosec did not start"
            assert time.monotonic() < until_s, "mosec does not listen"
            time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait(timeout=30)


def measured(name: str, run: Load) -> tuple[float, dict[float, float]]:
    """p50 of a request that finds the server idle, and the highest rate by promised p99."""
    texts, runs = unique_texts(12), itertools.count()

    async def measure(rate_per_s: float) -> LoadResult:
        schedule = Schedule(
            rate_per_s=rate_per_s, duration_s=SECONDS, conversations=50, prefix=f"o{next(runs)}", lead_s=LEAD_S
        )
        result = await run(texts, schedule)
        print(f"  {result}")
        return result

    print(f"\n{name}")
    uvloop.run(measure(START_PER_S / 5))  # warm
    lone_ms = uvloop.run(measure(LONE_PER_S)).percentile(50)
    found = uvloop.run(sweep(measure, LIMITS_MS, START_PER_S))
    rates = {limit_ms: highest(found, limit_ms) for limit_ms in LIMITS_MS}
    reached = ", ".join(f"{rate:.0f}/s at p99 <= {limit_ms:g} ms" for limit_ms, rate in rates.items())
    print(f"{name}: a lone request p50 {lone_ms:.1f} ms; {reached}")
    return lone_ms, rates


def test_the_hot_path_beside_mosec() -> None:
    with mosec() as port:
        theirs_ms, _ = measured("mosec, three heads", partial(run_http_load, "127.0.0.1", port, "/inference"))
    with peer("benchmarks.pipeline.annotator", "intent", "sentiment", "actions") as (url, _):
        ours_ms, _ = measured("hot path, the same three", partial(run_bare_load, url))
    with peer("benchmarks.pipeline.annotator") as (url, _):
        measured("hot path, all six", partial(run_bare_load, url))
    assert ours_ms < theirs_ms
