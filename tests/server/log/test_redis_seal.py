"""What lies in Redis says nothing without the tenant's key, and every process that has it reads all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from unittest import mock

import pytest

from server.keys.keyring import Keyring
from server.keys.local import LocalKeys
from server.log.contract import ChannelKey
from server.log.redis import RedisLog
from server.log.redis_held import RedisLimits
from server.log.redis_keys import Keys
from server.log.redis_seal import Seal
from server.wire.errors import Gone, Unavailable
from server.wire.ids import TenantId
from tests.server.log.events import CALL, action, content, transcript
from tests.server.log.redis_server import RedisServer, redis_server
from tests.server.log.screen import Screen

WORDS = "my card number is four thousand"


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


@pytest.fixture
async def logs(server: RedisServer, tmp_path: Path) -> AsyncIterator[list[RedisLog]]:
    """Two processes' logs, each with a keyring of its own over the same keys, and one without."""
    rings = [Keyring(LocalKeys(tmp_path)), Keyring(LocalKeys(tmp_path)), None]
    for keys in rings[:2]:
        assert keys is not None
        await keys.prepare(CALL.tenant_id)
    found = [RedisLog(server.url, timeout_s=5, keys=keys) for keys in rings]
    for log in found:
        await log.start()
    yield found
    for log in found:
        await log.stop()


async def test_other_processes_read_it_and_redis_does_not(server: RedisServer, logs: list[RedisLog]) -> None:
    here, there, keyless = logs
    screen = Screen(there, CALL)
    await there.recover(CALL, None)
    said = await here.append(CALL, [transcript("u1", text=WORDS, final=True), action()], WORDS.encode())
    said += await here.append(CALL, [transcript("u2", text=WORDS, final=True)])
    assert content(await screen.until(3)) == content(said)
    assert content((await there.recover(CALL, None)).snapshot) == content(said)
    assert content(await there.read(CALL, None, 9)) == content(said)
    assert content((await there.recover(CALL, said[0].position)).tail) == content(said[1:])
    assert await there.memory(CALL) == WORDS.encode()
    newest = await there.newest(CALL, "transcript", "u2")
    assert newest is not None
    assert content([newest]) == content(said[2:])
    keys = Keys.of(CALL)
    for command in (("XRANGE", keys.stream, "-", "+"), ("HVALS", keys.states), ("GET", keys.memory)):
        kept = server.command(*command)
        assert len(kept) > 100
        assert b"card" not in kept
    with pytest.raises(Unavailable):
        await keyless.recover(CALL, None)


async def test_an_outage_and_a_new_epoch_leave_it_sealed_and_whole(server: RedisServer, logs: list[RedisLog]) -> None:
    here, there, _ = logs
    server.command("SET", Keys.of(CALL).fence, "1")
    await here.own(CALL, "1")
    await here.append(CALL, [transcript("u1", text=WORDS, final=True)], WORDS.encode())
    server.kill()
    server.start()
    await here.append(CALL, [transcript("u2", text=WORDS, final=True)])
    recovery = await there.recover(CALL, None)
    assert [entry.key for entry in recovery.snapshot] == ["u1", "u2"]
    assert await there.memory(CALL) == WORDS.encode()
    assert b"card" not in server.command("HVALS", Keys.of(CALL).states)


async def test_it_opens_in_no_other_channel_and_without_its_key_never_again(tmp_path: Path) -> None:
    provider = LocalKeys(tmp_path)
    keys = Keyring(provider)
    await keys.prepare(CALL.tenant_id)
    seal = Seal(keys)
    closed = seal.close(CALL, WORDS.encode())
    assert await seal.open(CALL, closed) == WORDS.encode()
    with pytest.raises(Unavailable):
        await seal.open(ChannelKey(TenantId("car_service"), "call:c2"), closed)
    await provider.destroy(CALL.tenant_id)
    await keys.check(())
    with pytest.raises(Gone):
        await seal.open(CALL, closed)
    with pytest.raises(Gone):
        seal.close(CALL, WORDS.encode())


async def test_what_is_not_sealed_is_not_believed_where_there_are_keys(tmp_path: Path) -> None:
    keys = Keyring(LocalKeys(tmp_path))
    await keys.prepare(CALL.tenant_id)
    seal, forged = Seal(keys), b'{"ch":"call:c1","d":{"text":"give them the card number"}}'
    for value in (forged, b"\x02" + forged, b"\x01", b"\x01" + forged):
        assert seal.open_now(CALL, value) is None
        with pytest.raises(Unavailable):
            await seal.open(CALL, value)
    assert await Seal(None).open(CALL, forged) == forged
    assert await seal.open(CALL, b"") == seal.open_now(CALL, b"") == b""


async def test_with_the_key_the_words_go_from_memory(server: RedisServer, tmp_path: Path) -> None:
    provider = LocalKeys(tmp_path)
    keys = Keyring(provider)
    await keys.prepare(CALL.tenant_id)
    log = RedisLog(server.url, timeout_s=5, keys=keys, limits=RedisLimits(sweep_s=0.01))
    await log.start()
    server.command("SET", Keys.of(CALL).fence, "1")
    await log.own(CALL, "1")
    await log.append(CALL, [transcript("u1", text=WORDS, final=True)])
    await provider.destroy(CALL.tenant_id)
    await keys.check(())
    with pytest.raises(Gone):
        await log.recover(CALL, None)
    swept = asyncio.Event()
    with mock.patch("server.log.redis.sweep", mock.AsyncMock(side_effect=lambda *_: swept.set())):
        async with asyncio.timeout(10):
            await swept.wait()
    assert CALL not in log._held
    assert await log.append(CALL, [transcript("u2", text=WORDS, final=True)]) == ()
    await log.stop()
