"""Who is signed in, in one process and in several."""

from __future__ import annotations

from server.log.presence import LocalPresence, Signed
from server.log.redis_link import RedisLink, connection_to
from server.log.redis_presence import RedisPresence
from server.wire.ids import AgentId, TenantId
from tests.server.log.redis_server import redis_server

TENANT, OTHER = TenantId("a"), TenantId("b")
ANNA = AgentId("anna")


async def test_an_agent_is_there_until_its_last_tab_is_closed() -> None:
    presence = LocalPresence()
    leave = [presence.enter(TENANT, ANNA, "sales"), presence.enter(TENANT, ANNA, "sales")]
    assert await presence.signed_in(TENANT) == {ANNA: Signed(2, "sales")}
    assert await presence.signed_in(OTHER) == {}
    leave[0]()
    leave[0]()
    assert await presence.signed_in(TENANT) == {ANNA: Signed(1, "sales")}
    leave[1]()
    assert await presence.signed_in(TENANT) == {}
    assert await presence.team_of(TENANT, ANNA) == "sales", "a call that is over keeps its team"


async def test_processes_know_each_others_agents_and_forget_the_dead() -> None:
    with redis_server() as server:
        links = [RedisLink(lambda: connection_to(server.url, "", 1.0), (), timeout_s=5) for _ in range(2)]
        for link in links:
            await link.start()
        here, there = (RedisPresence(link, f"p{number}") for number, link in enumerate(links))
        leave = here.enter(TENANT, ANNA, "sales")
        there.enter(TENANT, ANNA, "")
        await here.register()
        await there.register()
        assert await there.signed_in(TENANT) == {ANNA: Signed(2, "sales")}
        leave()
        await here.register()
        assert await here.signed_in(TENANT) == {ANNA: Signed(1, "")}
        server.command("HSET", "cueline:presence/a", "bob p9", '[0,1,""]')
        assert set(await here.signed_in(TENANT)) == {ANNA}
        assert b":0" in server.command("HEXISTS", "cueline:presence/a", "bob p9")
        there.start()
        await there.stop()
        assert await here.signed_in(TENANT) == {}
        for link in links:
            await link.stop()
