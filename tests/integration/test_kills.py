"""A process killed at fifty random moments of a call: log, store, transcript and agent's screen agree afterwards."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server.cli.workers import free_port
from server.keys.keyring import Keyring
from server.keys.local import LocalKeys
from server.log.contract import ChannelKey
from server.log.embedded import EmbeddedLog
from server.store.sql import SqlStore
from server.wire.ids import TenantId
from tests.integration.calls import Agent, Source, words_and_moments
from tests.integration.fleet_process import Life
from tests.integration.lives import Lives
from tests.server.log.events import decoded, offsets

pytestmark = pytest.mark.slow

NUM_KILLS = 50
MAX_LIFE_S = 0.2
STARTING, RESUMING = 0.15, 0.4
"""Shares of the kills before it listens, and before the call goes on; the others come after its first words."""
CALL = ChannelKey(TenantId("test"), "call:c1")


@pytest.fixture
async def lives(tmp_path: Path) -> AsyncIterator[Lives]:
    lives = Lives(Life(port=free_port("127.0.0.1"), data=str(tmp_path), keys=str(tmp_path / "keys")))
    yield lives
    if lives.process is not None and lives.process.exitcode is None:
        await lives.end(is_killed=True)


async def test_killed_at_fifty_random_moments_of_a_call_everything_agrees(lives: Lives, tmp_path: Path) -> None:
    chance, num_spoken = random.Random(7), 0
    url = f"ws://127.0.0.1:{lives.life.port}"
    source, agent = Source(url, "c1", words_and_moments, pause_s=0.002), Agent(url, "c1")
    work = [asyncio.create_task(one.run()) for one in (source, agent)]
    async with asyncio.timeout(240):
        for _ in range(NUM_KILLS):
            listening = await lives.begin()
            phase = chance.random()
            if phase >= STARTING:
                await listening
            if phase >= RESUMING:
                await source.speaks(1)
                num_spoken += 1
            await asyncio.sleep(chance.uniform(0, MAX_LIFE_S))  # the random moment, not a wait for anything
            await lives.end(is_killed=True)
            await listening
        await (await lives.begin())
        await source.speaks()
        source.hanging_up.set()
        await asyncio.gather(*work)
    await lives.end(is_killed=False)
    print(f"\n{NUM_KILLS} kills, {num_spoken} of them in the midst of {len(source.acked)} utterances")

    assert num_spoken > NUM_KILLS / 3
    assert agent.words == source.acked
    assert agent.ends == 1
    keys = Keyring(LocalKeys(tmp_path / "keys"))
    log = EmbeddedLog(tmp_path / "log", keys=keys)
    await log.start()
    entries = await log.read(CALL, None, 10**6)
    assert offsets(entries) == list(range(1, len(entries) + 1))
    states = [decoded(entry)["d"] for entry in (await log.recover(CALL, None)).snapshot if entry.kind == "transcript"]
    assert {state["utterance_id"]: state["text"] for state in states} == source.acked
    await log.stop()
    store = SqlStore(f"sqlite+aiosqlite:///{tmp_path / 'cueline.db'}", keys=keys)
    await store.start()
    stored = await store.conversation(CALL.tenant_id, "c1")
    await store.stop()
    assert stored is not None
    assert {said["utterance_id"]: said["text"] for said in stored["utterances"]} == source.acked
    assert all(said["is_final"] for said in stored["utterances"])
    assert stored["state"] == "ended"
    # Once per call, whatever dies: the words for it are said in every tenth sentence.
    assert [card["action_id"] for card in stored["actions"]] == ["keep-1"]
    assert agent.cards.keys() <= {"keep-1"}
