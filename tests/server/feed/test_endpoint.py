import asyncio
import json
import time

import msgspec
import pytest
from websockets.exceptions import InvalidStatus

from server.auth.identity import Identity
from server.auth.origin import OriginPolicy
from server.auth.tokens import SharedKeyAuthenticator
from server.feed.access import Owner
from server.feed.session import Limits
from server.feed.socket import Commands
from server.log.contract import ChannelKey
from server.wire.errors import NotFound
from server.wire.feed import Ask, CloseCode, Receipt
from server.wire.ids import AgentId
from tests.server.feed.harness import CALL, TENANT, MemoryLog, action, call, feed_server, raw_client, transcript

BOTH_SERVERS = pytest.mark.parametrize(
    "is_direct", [pytest.param(True, id="direct"), pytest.param(False, id="asgi", marks=pytest.mark.slow)]
)


@BOTH_SERVERS
async def test_a_snapshot_then_live(is_direct: bool) -> None:
    log = MemoryLog()
    for payload in [transcript(1, is_final=False), transcript(1), action(1)]:
        log.append_now(CALL, payload)
    async with feed_server(log=log, is_direct=is_direct) as server, raw_client(server) as client:
        hello = await client.auth(server)
        assert (hello["type"], hello["tenant_id"], hello["agent_id"]) == ("authenticated", TENANT, "agent")
        answer = await client.sub()
        assert (answer["type"], answer["ch"], answer["recovered"], answer["off"]) == ("subscribed", "call:1", False, 3)
        assert [publication["off"] for publication in answer["snapshot"]] == [2, 3]
        assert answer["tail"] == []
        log.append_now(CALL, transcript(2))
        publication = await client.receive()
        assert (publication["off"], publication["kind"], publication["d"]["text"]) == (4, "transcript", "hello")


@BOTH_SERVERS
async def test_a_known_position_is_answered_with_the_complete_tail(is_direct: bool) -> None:
    log = MemoryLog()
    for number in range(5):
        log.append_now(CALL, transcript(number))
    async with feed_server(log=log, is_direct=is_direct) as server, raw_client(server) as client:
        await client.auth(server)
        answer = await client.sub(ep=log.epochs[CALL], off=2)
        assert answer["recovered"]
        assert [publication["off"] for publication in answer["tail"]] == [3, 4, 5]
        assert "snapshot" not in answer


@pytest.mark.parametrize(("ep", "off"), [("other", 2), ("e1", 99)])
async def test_an_unknown_position_is_told(ep: str, off: int) -> None:
    log = MemoryLog()
    log.append_now(CALL, transcript(1))
    async with feed_server(log=log) as server, raw_client(server) as client:
        await client.auth(server)
        answer = await client.sub(ep=ep, off=off)
        assert (answer["recovered"], answer["off"]) == (False, 1)
        assert b'feed_recoveries_total{result="snapshot"} 1.0' in server.metrics.render()


async def test_what_is_published_while_a_recovery_is_read_comes_once() -> None:
    log = MemoryLog()
    log.append_now(CALL, transcript(1))
    log.before_recover = lambda: log.append_now(CALL, transcript(2))
    async with feed_server(log=log) as server, raw_client(server) as client:
        await client.auth(server)
        assert (await client.sub())["off"] == 1
        assert (await client.receive())["off"] == 2
        log.append_now(CALL, transcript(3))
        assert (await client.receive())["off"] == 3


async def test_an_answer_too_large_for_a_frame_continues_as_publications() -> None:
    log = MemoryLog()
    for number in range(40):
        log.append_now(CALL, transcript(number, text="x" * 20_000))
    async with feed_server(log=log) as server, raw_client(server) as client:
        await client.auth(server)
        answer = await client.sub()
        log.append_now(CALL, transcript(99))
        head = answer["snapshot"]
        assert len(json.dumps(answer)) < 256 * 1024
        assert (answer["off"], answer["num_more"]) == (len(head), 40 - len(head))
        rest = [(await client.receive())["off"] for _ in range(answer["num_more"] + 1)]
        assert rest == list(range(len(head) + 1, 42))


async def test_a_publication_too_large_for_a_frame_is_not_lost_silently() -> None:
    log = MemoryLog()
    async with feed_server(log=log) as server, raw_client(server) as client:
        await client.auth(server)
        await client.sub()
        log.append_now(CALL, transcript(1, text="\U0001f600" * 100_000))
        publication = await client.receive()
        assert (publication["off"], publication["kind"]) == (1, "notice")
        assert publication["d"]["code"] == "publication_too_large"


@BOTH_SERVERS
async def test_msgpack_readers_get_the_same(is_direct: bool) -> None:
    log = MemoryLog()
    log.append_now(CALL, transcript(1))
    async with (
        feed_server(log=log, is_direct=is_direct) as server,
        raw_client(server, subprotocols=["cueline.v1+msgpack"]) as client,
        raw_client(server, subprotocols=["cueline.v2+json", "cueline.v1+json"]) as other,
    ):
        assert client.socket.subprotocol == "cueline.v1+msgpack"
        assert other.socket.subprotocol == "cueline.v1+json"
        await other.auth(server)
        await other.sub()
        await client.send(msgspec.msgpack.encode({"type": "auth", "ticket": server.ticket()}))
        assert msgspec.msgpack.decode(await client.socket.recv())["type"] == "authenticated"
        await client.send(msgspec.msgpack.encode({"type": "sub", "ch": "call:1"}))
        answer = msgspec.msgpack.decode(await client.socket.recv())
        assert answer["snapshot"][0]["d"]["text"] == "hello"
        log.append_now(CALL, transcript(2))
        assert msgspec.msgpack.decode(await client.socket.recv()) == await other.receive()


@BOTH_SERVERS
@pytest.mark.parametrize("num_chars", [10, 20_000], ids=["small", "large"])
async def test_what_is_appended_together_comes_in_order(is_direct: bool, num_chars: int) -> None:
    log = MemoryLog()
    log.append_now(CALL, transcript(1))
    # The last two publications of this append are news to a reader whose recovery was read just before.
    log.before_recover = lambda: log.append_now(CALL, transcript(2), transcript(3))
    async with feed_server(log=log, is_direct=is_direct) as server, raw_client(server) as client:
        await client.auth(server)
        assert (await client.sub())["off"] == 1
        log.append_now(CALL, *[transcript(number, text="x" * num_chars) for number in range(4, 9)])
        log.append_now(CALL, transcript(9))
        assert [(await client.receive())["off"] for _ in range(8)] == list(range(2, 10))


async def test_an_unknown_subprotocol_is_refused() -> None:
    async with feed_server() as server:
        with pytest.raises(InvalidStatus) as caught:
            async with raw_client(server, subprotocols=["cueline.v2+json"]):
                pass
        assert caught.value.response.status_code == 400


async def test_more_sockets_than_allowed_are_refused() -> None:
    async with feed_server(max_sockets=1) as server, raw_client(server) as client:
        await client.auth(server)
        with pytest.raises(InvalidStatus) as caught:
            async with raw_client(server):
                pass
        assert caught.value.response.status_code == 503


@BOTH_SERVERS
@pytest.mark.parametrize(
    "bad", ["{", "\x00", '{"type":"dance"}', '{"type":"sub"}', '{"type":"sub","ch":"disk:1"}', b"\x00\x01"]
)
async def test_a_bad_frame_is_answered_and_others_do_not_notice(bad: str | bytes, is_direct: bool) -> None:
    async with feed_server(is_direct=is_direct) as server, raw_client(server) as client, raw_client(server) as healthy:
        await client.auth(server)
        await healthy.auth(server)
        await client.send(bad)
        answer = await client.receive()
        assert (answer["type"], answer["code"]) == ("error", "bad_message")
        await client.sub()
        await healthy.sub()
        server.log.append_now(CALL, transcript(1))
        assert (await client.receive())["off"] == (await healthy.receive())["off"] == 1


async def test_an_oversize_frame_is_answered() -> None:
    async with feed_server() as server, raw_client(server) as client:
        await client.auth(server)
        await client.send({"type": "ping", "pad": "x" * 65_536})
        assert (await client.receive())["code"] == "too_large"
        await client.send({"type": "ping"})
        assert (await client.receive())["type"] == "pong"


# every close code


@BOTH_SERVERS
async def test_3001_on_drain_and_new_sockets_are_refused(is_direct: bool) -> None:
    async with feed_server(is_direct=is_direct) as server, raw_client(server) as client:
        await client.auth(server)
        drained = asyncio.create_task(server.endpoint.drain())
        assert (await client.closed())[0] == CloseCode.SHUTDOWN
        await drained
        assert server.endpoint.num_sockets == 0
        with pytest.raises(InvalidStatus):
            async with raw_client(server):
                pass


async def test_3001_when_the_server_shuts_down_without_a_drain() -> None:
    async with feed_server() as server, raw_client(server) as client:
        await client.auth(server)
        assert server.server is not None
        server.server.should_exit = True
        assert (await client.closed())[0] == CloseCode.SHUTDOWN


@BOTH_SERVERS
async def test_3005_when_the_identity_ends(is_direct: bool) -> None:
    async with feed_server(is_direct=is_direct) as server, raw_client(server) as client:
        now_s = time.monotonic()
        soon = Identity(TENANT, AgentId("a1"), frozenset({"agent"}), expires_s=now_s + 0.05)
        await client.send({"type": "auth", "ticket": server.tickets.issue(soon, now_s)})
        assert (await client.closed())[0] == CloseCode.EXPIRED


@BOTH_SERVERS
async def test_3010_when_publications_are_missing(is_direct: bool) -> None:
    async with feed_server(is_direct=is_direct) as server, raw_client(server) as client:
        await client.auth(server)
        await client.sub()
        sinks = server.log.sinks.pop(CALL)
        server.log.append_now(CALL, transcript(1))
        server.log.sinks[CALL] = sinks
        server.log.append_now(CALL, transcript(2))
        assert (await client.closed())[0] == CloseCode.INSUFFICIENT_STATE


@BOTH_SERVERS
async def test_3012_without_a_pong(is_direct: bool) -> None:
    limits = Limits(ping_interval_s=0.02, pong_timeout_s=0.02)
    async with feed_server(limits=limits, is_direct=is_direct) as server, raw_client(server) as client:
        await client.auth(server)
        ping = await client.receive()
        assert ping["type"] == "ping"
        assert ping["server_ms"] > 1.7e12
        await client.send({"type": "pong"})
        assert (await client.receive())["type"] == "ping"
        assert (await client.closed())[0] == CloseCode.NO_PONG


@BOTH_SERVERS
async def test_3014_when_the_channel_began_anew(is_direct: bool) -> None:
    async with feed_server(is_direct=is_direct) as server, raw_client(server) as client:
        await client.auth(server)
        await client.sub()
        server.log.append_now(CALL, transcript(1))
        await server.log.trim(CALL)
        server.log.append_now(CALL, transcript(2))
        assert (await client.closed())[0] == CloseCode.STATE_INVALIDATED


@BOTH_SERVERS
async def test_3500_for_a_bad_ticket_and_one_used_before(is_direct: bool) -> None:
    async with feed_server(is_direct=is_direct) as server:
        used = server.ticket()
        async with raw_client(server) as client:
            await client.send({"type": "auth", "ticket": used})
            assert (await client.receive())["type"] == "authenticated"
        for ticket in ["nonsense", used]:
            async with raw_client(server) as client:
                await client.send({"type": "auth", "ticket": ticket})
                assert (await client.closed())[0] == CloseCode.BAD_TOKEN


@BOTH_SERVERS
async def test_3500_without_a_ticket_in_time(is_direct: bool) -> None:
    limits = Limits(auth_timeout_s=0.02)
    async with feed_server(limits=limits, is_direct=is_direct) as server, raw_client(server) as client:
        assert (await client.closed())[0] == CloseCode.BAD_TOKEN


@BOTH_SERVERS
async def test_3501_for_a_first_frame_that_is_not_auth(is_direct: bool) -> None:
    async with feed_server(is_direct=is_direct) as server, raw_client(server) as client:
        await client.send({"type": "sub", "ch": "call:1"})
        assert (await client.closed())[0] == CloseCode.BAD_REQUEST


@BOTH_SERVERS
async def test_3501_for_too_many_bad_frames(is_direct: bool) -> None:
    async with feed_server(is_direct=is_direct) as server, raw_client(server) as client:
        await client.auth(server)
        for _ in range(40):
            await client.send("{")
        assert await client.closed() == (CloseCode.BAD_REQUEST, "too many bad messages")


@BOTH_SERVERS
async def test_3503_for_a_foreign_page(is_direct: bool) -> None:
    origins = OriginPolicy(["https://desktop.example"], is_loopback_only=True)
    async with feed_server(origins=origins, is_direct=is_direct) as server:
        async with raw_client(server, origin="https://evil.example") as client:
            assert (await client.closed())[0] == CloseCode.FORBIDDEN_ORIGIN
        for origin in ["https://desktop.example", f"http://127.0.0.1:{server.port}"]:
            async with raw_client(server, origin=origin) as client:
                assert (await client.auth(server))["type"] == "authenticated"


# rights


class Calls:
    """A directory with one call."""

    def __init__(self, agent_id: str) -> None:
        self.agent_id = agent_id

    async def owner(self, key: ChannelKey) -> Owner | None:
        return Owner(AgentId(self.agent_id)) if key == CALL else None


async def test_an_agent_hears_own_calls_only_and_loses_them_at_a_transfer() -> None:
    key = "k" * 32
    directory = Calls("a1")
    async with (
        feed_server(authenticator=SharedKeyAuthenticator(key), directory=directory) as server,
        raw_client(server) as client,
    ):
        me = Identity(TENANT, AgentId("a1"), frozenset({"agent"}))
        await client.send({"type": "auth", "ticket": server.tickets.issue(me, time.monotonic())})
        await client.receive()
        assert (await client.sub("agent:a1"))["type"] == "subscribed"
        assert (await client.sub("agent:a2"))["code"] == "forbidden"
        assert (await client.sub("call:2"))["code"] == "forbidden"
        assert (await client.sub("call:1"))["type"] == "subscribed"
        server.log.append_now(CALL, call("held", "a1"))
        assert (await client.receive())["kind"] == "call"
        directory.agent_id = "a2"
        server.log.append_now(CALL, call("started", "a2"))
        assert (await client.receive())["kind"] == "call"
        told = await client.receive()
        assert (told["type"], told["ch"]) == ("unsubscribed", "call:1")
        assert told["reason"]
        server.log.append_now(CALL, transcript(1))
        await client.send({"type": "ping"})
        assert (await client.receive())["type"] == "pong"


async def test_a_renewed_identity_keeps_only_what_it_still_may() -> None:
    async with feed_server() as server, raw_client(server) as client:
        for roles in [{"agent", "admin"}, {"agent"}]:
            me = Identity(TENANT, AgentId("a1"), frozenset(roles))  # type: ignore[arg-type]
            await client.send({"type": "auth", "ticket": server.tickets.issue(me, time.monotonic())})
            assert (await client.receive())["type"] == "authenticated"
            if "admin" in roles:
                assert (await client.sub("call:1"))["type"] == "subscribed"
                assert (await client.sub("agent:a1"))["type"] == "subscribed"
        told = await client.receive()
        assert (told["type"], told["ch"]) == ("unsubscribed", "call:1")
        await client.send({"type": "unsub", "ch": "agent:a1"})
        assert (await client.receive())["ch"] == "agent:a1"


async def test_another_tenants_call_of_the_same_name_is_another_channel() -> None:
    async with feed_server() as server, raw_client(server) as client:
        await client.auth(server)
        await client.sub()
        server.log.append_now(ChannelKey("retail_bank", "call:1"), transcript(1, text="theirs"))  # type: ignore[arg-type]
        server.log.append_now(CALL, transcript(1, text="ours"))
        assert (await client.receive())["d"]["text"] == "ours"


# commands


async def test_receipts_and_questions_reach_their_rooms() -> None:
    heard: list[object] = []

    async def on_receipt(who: Identity, key: ChannelKey, receipt: Receipt) -> None:
        heard.append((who.agent_id, key, receipt.id, receipt.event))

    async def on_ask(who: Identity, key: ChannelKey, ask: Ask) -> None:
        if ask.text == "boom":
            raise RuntimeError("secret words")
        raise NotFound("nothing is known of this")

    commands = Commands(on_receipt=on_receipt, on_ask=on_ask)
    async with feed_server(commands=commands) as server, raw_client(server) as client:
        await client.auth(server)
        await client.sub()
        await client.send({"type": "receipt", "id": "x", "event": "used", "ch": "call:1"})
        await client.send({"type": "ask", "ch": "call:1", "text": "how?"})
        assert (await client.receive())["code"] == "not_found"
        await client.send({"type": "ask", "ch": "call:1", "text": "boom"})
        answer = await client.receive()
        assert (answer["code"], "secret" in json.dumps(answer)) == ("internal", False)
        await client.send({"type": "say", "ch": "call:1", "text": "hello"})
        assert (await client.receive())["code"] == "not_found"
        assert heard == [("agent", CALL, "x", "used")]


async def test_nothing_is_left_of_a_client_that_vanishes() -> None:
    async with feed_server() as server:
        async with raw_client(server) as client:
            await client.auth(server)
            await client.sub()
            client.socket.transport.abort()
            async with asyncio.timeout(5):
                await server.endpoint._none_left.wait()
        assert not server.log.sinks[CALL]
