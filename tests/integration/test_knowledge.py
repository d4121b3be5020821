"""Knowledge assist through the real server: a spoken question, an asked one, and what the agent does with the card."""

import asyncio
import contextlib
import urllib.error

import pytest

from server.replay.feed_client import FeedClient, Received, Subscribed
from server.simulators.chat_completions import ChatCompletionsSimulator, Script
from server.wire.ids import call_channel
from tests.integration.peers import Dial, utterance
from tests.integration.running import serve, wait_until

pytestmark = pytest.mark.slow


@contextlib.asynccontextmanager
async def call(server, conversation_id, tenant_id="car_service"):
    """A call fed with text, and its feed as an agent sees it."""
    async with asyncio.timeout(30), Dial(server.ws, "/v1/ingest/transcripts") as peer:
        await peer.send({"type": "start", "conversation_id": conversation_id, "tenant_id": tenant_id})
        await peer.receive_type("started")
        async with FeedClient(server.ws, tenant_id=tenant_id) as feed:
            await feed.subscribe(call_channel(conversation_id))
            async for event in feed.events():
                if isinstance(event, Subscribed):
                    break
            yield peer, feed
        await peer.send({"type": "stop"})
        await peer.receive_type("stopped")


async def next_card(feed, **wanted):
    async for event in feed.events():
        if isinstance(event, Received) and event.publication.kind == "action":
            card = event.publication.d
            if all(card.get(name) == value for name, value in wanted.items()):
                return card
    raise AssertionError("the feed ended")


async def test_a_customers_question_is_answered_with_its_source(server):
    async with call(server, "kb-question") as (peer, feed):
        await peer.send(utterance("u1", "do you have a loaner car while mine is in the shop"))
        card = await next_card(feed, type="answer", state="new")
        assert card["cites"][0]["source"] == "loaner_car.md"
        text = card["cites"][0]["text"]
        assert all(text[start:end] in card["body"] for start, end in card["cites"][0]["highlights"])
        assert card["evidence"][0]["utterance_id"] == "u1"
        await feed.receipt(call_channel("kb-question"), card["id"], "used")
        assert (await next_card(feed, id=card["id"], state="expire"))["reason"] == "used"
        # What "that" is comes from the conversation: the question alone says nothing of a car.
        await peer.send(utterance("u2", "how old do I have to be for that", start_ms=9000, end_ms=11000))
        assert (await next_card(feed, type="answer", state="new"))["cites"][0]["source"] == "loaner_car.md"

    def receipts():
        with contextlib.suppress(urllib.error.HTTPError):  # the store follows the feed
            return [receipt["event"] for receipt in server.get("/v1/conversations/kb-question")["receipts"]]

    assert wait_until(lambda: receipts() == ["used"])


async def test_an_agent_asks_and_is_answered_or_told(server):
    async with call(server, "kb-ask") as (_, feed):
        await feed.ask(call_channel("kb-ask"), "what does a battery cost")
        assert (await next_card(feed, type="answer", state="new"))["cites"][0]["source"] == "battery_dead.md"
        await feed.ask(call_channel("kb-ask"), "who won the game last night")
        card = await next_card(feed, type="answer", state="new")
        assert (card.get("cites", []), card["body"]) == ([], "No article answers this.")


async def test_each_tenant_has_its_own_articles(server):
    async with call(server, "kb-bank", "retail_bank") as (_, feed):
        await feed.ask(call_channel("kb-bank"), "how long does a transfer to another bank take")
        assert (await next_card(feed, type="answer", state="new"))["cites"][0]["source"] == "transfer_times.md"


async def test_searches_reuse_the_pass_of_the_annotation(server):
    """The question's vector is the one that its heads were computed from."""
    assert server.metrics()['cueline_reused_total{reason="same_text"}'] > 0


async def test_a_model_writes_into_the_card_what_the_passage_supports(tmp_path):
    pieces = (
        "A loaner car is available when a repair ",
        "takes longer than four hours. [1] ",
        "It is yours for ever. [1]",
    )
    async with ChatCompletionsSimulator((Script(pieces),)) as endpoint:
        environment = {"CUELINE_GENERATION__BASE_URL": endpoint.url, "CUELINE_GENERATION__MODEL": "ocean"}
        with contextlib.ExitStack() as stack:
            server = await asyncio.to_thread(stack.enter_context, serve(tmp_path, **environment))
            async with call(server, "kb-write") as (_, feed):
                await feed.ask(call_channel("kb-write"), "do you have a loaner car")
                first = await next_card(feed, type="answer", state="new")
                written = await next_card(feed, id=first["id"], state="update")
            assert first["cites"] == written["cites"]
            assert written["body"] == "A loaner car is available when a repair takes longer than four hours. [1]"
            metrics = await asyncio.to_thread(server.metrics)
        assert metrics['cueline_knowledge_sentences_total{result="unsupported"}'] == 1
        assert metrics['cueline_llm_requests_total{outcome="done"}'] == 1
