"""`cueline serve --workers 2`: a change of versions that one worker makes, the other follows, and no call notices."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from server.cli.models import models
from tests.integration.calls import Agent, Source, words_and_moments
from tests.integration.running import RunningServer, serve, wait_until
from tests.integration.shipped_model import drop, shipped_repository
from tests.server.log.redis_server import redis_server

CALLS = 4
BORN = 'cueline_stage_duration_seconds_created{stage="network"}'
"""Stamp of a process's metrics: tells one worker from the other."""
SERVING = 'cueline_model_serving_version{model="utterance"}'
CANDIDATE = 'cueline_model_candidate_version{model="utterance"}'


class Pair:
    """Two workers on one port; the kernel deals connections out, so each is asked until both have answered."""

    def __init__(self, server: RunningServer) -> None:
        self.server = server

    def metrics(self) -> list[dict[str, float]]:
        found: dict[float, dict[str, float]] = {}

        def has_both() -> bool:
            with contextlib.suppress(OSError):  # one of them was killed a moment ago
                metrics = self.server.metrics()
                found[metrics[BORN]] = metrics
            return len(found) >= 2

        assert wait_until(has_both, timeout_s=60), "one worker never answers"
        return list(found.values())

    async def agree(self, is_so: Callable[[dict[str, float]], bool]) -> None:
        def do_both() -> bool:
            return all(is_so(metrics) for metrics in self.metrics())

        assert await asyncio.to_thread(wait_until, do_both, 120), self.server.log

    async def command(self, *words: str) -> str:
        result = await asyncio.to_thread(CliRunner().invoke, models, [*words, "--url", self.server.url])
        assert result.exit_code == 0, result.output
        return result.output

    @property
    def workers(self) -> list[int]:
        listed = Path(f"/proc/{self.server.process.pid}/task/{self.server.process.pid}/children").read_text()
        return [int(pid) for pid in listed.split()]


@contextlib.asynccontextmanager
async def calls(url: str) -> AsyncIterator[list[Source]]:
    """Calls that go on until the body is done; then their agents have to have heard every word, once."""
    sources = [Source(url, f"c{number}", words_and_moments, pause_s=0.1) for number in range(CALLS)]
    agents = [Agent(url, source.call) for source in sources]
    work = [asyncio.create_task(one.run()) for one in (*sources, *agents)]
    try:
        await asyncio.gather(*(source.speaks() for source in sources))
        yield sources
        for source in sources:
            source.hanging_up.set()
        async with asyncio.timeout(60):
            await asyncio.gather(*work)
        for source, agent in zip(sources, agents, strict=True):
            assert agent.words == source.acked
            assert (agent.num_lost, agent.ends) == (0, 1)
    finally:
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)


@pytest.mark.slow
async def test_both_workers_follow_what_either_does_and_calls_do_not_notice(tmp_path: Path) -> None:
    repository = shipped_repository(tmp_path)
    with redis_server() as redis:
        settings: dict[str, Any] = {
            "CUELINE_LOG__BACKEND": "redis",
            "CUELINE_LOG__URL": redis.url,
            "CUELINE_PATHS__MODEL_REPO": str(repository),
            "CUELINE_MODELS__POLL_S": "0.2",
            "CUELINE_MODELS__SETTLE_S": "0.2",
            "CUELINE_MODELS__MAX_LATENCY_RATIO": "50",
            "CUELINE_MODELS__TRIAL": "false",  # in a process of its own it takes as long again, twice
        }
        with serve(tmp_path / "data", workers=2, **settings) as server:
            pair = Pair(server)
            async with calls(server.ws) as sources:
                drop(repository / "utterance", 2)
                await pair.agree(lambda metrics: metrics[SERVING] == 2)
                await pair.command("rollback")
                await pair.agree(lambda metrics: metrics[SERVING] == 1)
                await pair.command("promote", "--version", "2", "--canary", "0.5")
                await pair.agree(lambda metrics: metrics[CANDIDATE] == 2)
                killed = pair.workers[0]
                os.kill(killed, signal.SIGKILL)
                assert await asyncio.to_thread(wait_until, lambda: server.log.count("agent app") == 3, 120), server.log
                assert killed not in pair.workers
                await pair.agree(lambda metrics: metrics[CANDIDATE] == 2)
                await pair.command("promote", "--version", "2")
                await pair.agree(lambda metrics: (metrics[SERVING], metrics[CANDIDATE]) == (2, 0))
                await asyncio.gather(*(source.speaks() for source in sources))
            for metrics in pair.metrics():
                assert [name for name in metrics if name.startswith("cueline_dropped_total") and "failed" in name] == []
