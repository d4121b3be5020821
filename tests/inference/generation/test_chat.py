"""The client against an endpoint that misbehaves on command, over real sockets."""

import asyncio
import contextlib

import pytest

from inference.generation import Ask, ChatClient, ChatSettings, Message, Usage
from inference.generation.contract import BadAnswer, EndpointBusy, EndpointGone, NoTokenInTime, StreamCut
from server.simulators.chat_completions import ChatCompletionsSimulator, Script

ASK = Ask((Message("system", "Be brief."), Message("user", "How long?")), "shop", 50)
GOOD = Script(("Five ", "days. ", "[1]"))


class Watcher:
    def __init__(self):
        self.outcomes, self.usages, self.num_hedged, self.first_s = [], [], 0, []

    def first_token(self, duration_s):
        self.first_s.append(duration_s)

    def ended(self, outcome, usage):
        self.outcomes.append(outcome)
        self.usages.append(usage)

    def hedged(self):
        self.num_hedged += 1


@contextlib.asynccontextmanager
async def asking(*scripts, **settings):
    async with ChatCompletionsSimulator(scripts) as endpoint:
        watcher = Watcher()
        limits = {"first_token_s": 5.0, "hedge_after_s": 5.0} | settings
        client = ChatClient(ChatSettings(endpoint.url, "ocean", "secret", **limits), watcher)
        try:
            yield client, watcher, endpoint
        finally:
            await client.close()
            for _ in range(8):  # a stream that was given up is a pile of httpx's generators, ended one a turn
                await asyncio.sleep(0)


async def text(client):
    async with asyncio.timeout(20):
        return "".join([piece async for piece in client.stream(ASK)])


async def test_an_answer_comes_in_pieces_and_is_counted():
    async with asking(GOOD) as (client, watcher, endpoint):
        assert [piece async for piece in client.stream(ASK)] == ["Five ", "days. ", "[1]"]
        assert (watcher.outcomes, watcher.usages) == (["done"], [Usage(100, 20)])
    (body,) = endpoint.requests
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (body["stream"], body["max_tokens"], body["prompt_cache_isolation_key"]) == (True, 50, "shop")


async def test_the_simulator_can_answer_what_it_is_asked():
    def echo(body):
        return Script((body["messages"][-1]["content"],))

    async with ChatCompletionsSimulator(echo) as endpoint:
        client = ChatClient(ChatSettings(endpoint.url, "ocean"), Watcher())
        assert await text(client) == "How long?"
        await client.close()


async def test_a_slow_first_token_is_hedged_and_the_loser_closed():
    async with asking(Script(("late",), first_token_s=30), GOOD, hedge_after_s=0.02) as (client, watcher, endpoint):
        assert await text(client) == "Five days. [1]"
        assert (watcher.num_hedged, watcher.outcomes) == (1, ["done"])
        await endpoint.aborted.wait()


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_failure_before_the_first_token_is_tried_once_more(status):
    async with asking(Script(status=status), GOOD) as (client, watcher, _):
        assert await text(client) == "Five days. [1]"
        assert watcher.num_hedged == 1


@pytest.mark.parametrize(
    ("script", "error", "num_requests"),
    [
        (Script(status=429), EndpointBusy, 2),
        (Script(status=502), EndpointGone, 2),
        (Script(status=401), BadAnswer, 1),
        (Script(garbage=b"<html>Bad gateway</html>\n"), StreamCut, 1),
        (Script(garbage=b"data: {not json}\n\n"), BadAnswer, 1),
        (Script(garbage=b"data: " + b"x" * 200_000), BadAnswer, 1),
        (Script(("a",), first_token_s=30), NoTokenInTime, 2),
    ],
)
async def test_what_cannot_be_had_is_a_typed_error(script, error, num_requests):
    async with asking(script, first_token_s=0.3, hedge_after_s=0.05) as (client, watcher, endpoint):
        with pytest.raises(error):
            await text(client)
        assert watcher.outcomes == [error.outcome]
        assert len(endpoint.requests) == num_requests


async def test_a_cut_in_the_middle_keeps_what_came():
    async with asking(Script(("One. ", "Two"), cut_after=1)) as (client, _, _):
        stream = client.stream(ASK)
        assert await anext(stream) == "One. "
        with pytest.raises(StreamCut):
            await anext(stream)


async def test_a_stream_that_falls_silent_ends():
    async with asking(Script(("One. ", "Two"), between_s=30), silence_s=0.05) as (client, _, _):
        with pytest.raises(NoTokenInTime):
            await text(client)


async def test_an_endpoint_that_is_gone_is_soon_not_asked_any_more():
    watcher = Watcher()
    client = ChatClient(ChatSettings("http://127.0.0.1:9", "ocean"), watcher)
    for _ in range(3):
        with pytest.raises(EndpointGone):
            await text(client)
    with pytest.raises(EndpointBusy, match="not asked"):
        await text(client)
    assert watcher.outcomes == ["gone"] * 3 + ["refused"]
    await client.close()


async def test_who_stops_listening_stops_the_endpoint():
    async with asking(Script(("One. ", "Two"), between_s=30)) as (client, watcher, endpoint):
        stream = client.stream(ASK)
        assert await anext(stream) == "One. "
        await stream.aclose()
        assert watcher.outcomes == ["cancelled"]
        await endpoint.aborted.wait()


async def test_more_than_the_bulkhead_holds_is_refused_at_once():
    async with asking(Script(("One",), first_token_s=30), max_concurrent=1) as (client, _, _):
        first = asyncio.create_task(text(client))
        await asyncio.sleep(0)
        with pytest.raises(EndpointBusy):
            await text(client)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
