"""Each bad input has a typed error or a defined behaviour, and a healthy call beside it never notices."""

import json
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest

from tests.integration.peers import Dial, Peer, audio_start, collect, is_ended, utterance

pytestmark = pytest.mark.slow

AUDIO = "/v1/ingest/audio"
TRANSCRIPTS = "/v1/ingest/transcripts"
FRAME = b"\0" * 640


async def started(peer: Peer, message: dict) -> dict:
    await peer.send(message)
    return await peer.receive_type("started")


@pytest.fixture
async def healthy(server, request):
    """A call that goes on while the test misbehaves, and must have its annotations at the end."""
    conversation_id = f"healthy-{abs(hash(request.node.name))}"
    async with Dial(server.ws, TRANSCRIPTS) as peer:
        await started(peer, {"type": "start", "conversation_id": conversation_id})
        yield
        await peer.send(
            utterance("u1", f"I want to cancel my appointment number {abs(hash(request.node.name)) % 1000}")
        )
        assert (await peer.receive_type("ack"))["utterance_id"] == "u1"
        await peer.send({"type": "stop"})
        assert (await peer.receive_type("stopped"))["type"] == "stopped"
    publications = await collect(server.ws, conversation_id, is_ended)
    assert any(p.kind == "annotation" and p.d["output"] == "intent" for p in publications)


@pytest.mark.parametrize(
    ("path", "frame", "code", "field"),
    [
        (AUDIO, "{", "bad_message", None),
        (AUDIO, "[1,2]", "bad_message", None),
        (AUDIO, '{"type":"nope"}', "bad_message", "type"),
        (AUDIO, FRAME, "bad_audio", None),
        (AUDIO, '{"type":"stop"}', "bad_message", "type"),
        (AUDIO, json.dumps(audio_start("x", sample_rate_hz=4000)), "bad_message", "sample_rate_hz"),
        (AUDIO, json.dumps(audio_start("x", sample_rate_hz="8000")), "bad_message", "sample_rate_hz"),
        (AUDIO, json.dumps(audio_start("x", encoding="opus")), "bad_message", "encoding"),
        (AUDIO, json.dumps(audio_start("x", roles=["customer"])), "bad_audio", "roles"),
        (AUDIO, json.dumps(audio_start("../../etc")), "bad_message", "conversation_id"),
        (AUDIO, json.dumps(audio_start("line\n")), "bad_message", "conversation_id"),
        (AUDIO, json.dumps(audio_start("x", tenant_id="nobody")), "forbidden", "tenant_id"),
        (TRANSCRIPTS, "{", "bad_message", None),
        (TRANSCRIPTS, '{"type":"start","x":' + "[" * 30_000 + "]" * 30_000 + "}", "bad_message", None),
        (TRANSCRIPTS, b"\1\2\3", "bad_message", None),
        (TRANSCRIPTS, '{"type":"utterance"}', "bad_message", "utterance_id"),
        (TRANSCRIPTS, json.dumps(utterance("u", "hi")), "bad_message", "type"),
    ],
)
async def test_a_wrong_first_frame_is_answered_and_forgiven(server, healthy, path, frame, code, field):
    async with Dial(server.ws, path) as peer:
        await peer.send(frame)
        error = await peer.receive_type("error")
        assert (error["code"], error.get("field")) == (code, field)
        start = audio_start("forgiven") if path == AUDIO else {"type": "start", "conversation_id": "forgiven"}
        await started(peer, start)
        await peer.send({"type": "stop"})
        await peer.receive_type("stopped")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"speaker": "ivr"}, "speaker"),
        ({"revision": "one"}, "revision"),
        ({"start_ms": -5}, "start_ms"),
        ({"start_ms": 2000, "end_ms": 1000}, "end_ms"),
        ({"text": 7}, "text"),
        ({"text": "x" * 100_001}, "text"),
        ({"utterance_id": ""}, "utterance_id"),
        ({"is_final": None}, "is_final"),
        ({"words": [{"text": "hello", "start_ms": 0, "end_ms": 10**25}]}, "words[0].end_ms"),
    ],
)
async def test_a_wrong_utterance_is_answered_and_the_next_one_taken(server, healthy, changes, field):
    async with Dial(server.ws, TRANSCRIPTS) as peer:
        await started(peer, {"type": "start", "conversation_id": f"bad-{field.partition('[')[0]}"})
        await peer.send(utterance("u1", "hello") | changes)
        error = await peer.receive_type("error")
        assert (error["code"], error["field"]) == ("bad_message", field)
        await peer.send(utterance("u2", "hello"))
        assert (await peer.receive_type("ack"))["utterance_id"] == "u2"


async def test_oversize_frames_are_refused_by_size(server, healthy):
    async with Dial(server.ws, AUDIO) as peer:
        await started(peer, audio_start("oversize"))
        await peer.send(b"\0" * (64 * 1024 + 4))
        assert (await peer.receive_type("error"))["code"] == "bad_audio"
        await peer.send(FRAME)
        await peer.send({"type": "stop"})
        await peer.receive_type("stopped")


async def test_an_odd_byte_count_is_refused_and_audio_goes_on(server, healthy):
    async with Dial(server.ws, AUDIO) as peer:
        await started(peer, audio_start("odd"))
        await peer.send(FRAME[:-1])
        error = await peer.receive_type("error")
        assert error["code"] == "bad_audio"
        assert "multiple of 4" in error["message"]
        await peer.send({"type": "stop"})
        await peer.receive_type("stopped")


async def test_two_starts_with_one_id_collide_and_the_first_goes_on(server, healthy):
    async with Dial(server.ws, AUDIO) as first:
        await started(first, audio_start("twice"))
        await first.send(FRAME)
        for again in (audio_start("twice"), audio_start("twice", layout="mono", roles=["agent"])):
            async with Dial(server.ws, AUDIO) as second:
                await second.send(again)
                error = await second.receive_type("error")
                assert (error["code"], error["retryable"]) == ("conflict", True)
                assert await second.closed() == 1013
        await first.send(audio_start("twice"))
        assert (await first.receive_type("error"))["code"] == "conflict"
        await first.send(FRAME)
        await first.send({"type": "stop"})
        await first.receive_type("stopped")


async def test_one_socket_a_role_makes_one_call(server, healthy):
    async with Dial(server.ws, AUDIO) as customer, Dial(server.ws, AUDIO) as agent:
        await started(customer, audio_start("mono", layout="mono", roles=["customer"]))
        await started(agent, audio_start("mono", layout="mono", roles=["agent"], encoding="mulaw"))
        await customer.send(b"\0" * 320)
        await agent.send(b"\xff" * 160)
        await customer.send({"type": "stop"})
        await customer.receive_type("stopped")
        await agent.send(b"\xff" * 160)
        await agent.send({"type": "stop"})
        await agent.receive_type("stopped")
    publications = await collect(server.ws, "mono", is_ended)
    assert [p.d["state"] for p in publications if p.kind == "call"] == ["ended"]  # the snapshot's latest state


async def test_a_source_that_keeps_being_wrong_is_cut_off(server, healthy):
    async with Dial(server.ws, AUDIO) as peer:
        await started(peer, audio_start("nonsense"))
        for _ in range(20):
            await peer.send("nonsense")
        assert await peer.closed() == 1008


@pytest.mark.parametrize("signal", ["silence", "hum", "noise", "music"])
async def test_audio_without_speech_says_nothing(server, healthy, signal):
    rate, seconds = 8000, 60 if signal == "silence" else 12
    time_s = np.arange(rate * seconds) / rate
    wave = {
        "silence": np.zeros_like(time_s),
        "hum": 0.2 * np.sin(2 * np.pi * 50 * time_s),
        "noise": np.random.default_rng(7).normal(0, 0.05, len(time_s)),
        "music": 0.2 * sum(np.sin(2 * np.pi * f * time_s) * (time_s % 0.5 < 0.4) for f in (262, 330, 392)),
    }[signal]
    samples = (np.clip(np.stack([wave, wave], 1), -1, 1) * 32767).astype("<i2")
    conversation_id = f"quiet-{signal}"
    async with Dial(server.ws, AUDIO) as peer:
        await started(peer, audio_start(conversation_id))
        for start in range(0, len(samples), 800):
            await peer.send(samples[start : start + 800].tobytes())
        await peer.send({"type": "stop"})
        while (message := await peer.receive(60))["type"] != "stopped":
            assert message["type"] == "ack"
    publications = await collect(server.ws, conversation_id, is_ended)
    assert [p.d["text"] for p in publications if p.kind == "transcript" and p.d["text"]] == []


async def test_ten_thousand_words_are_annotated(server, healthy):
    text = " ".join(f"word{i}" for i in range(10_000))
    async with Dial(server.ws, TRANSCRIPTS) as peer:
        await started(peer, {"type": "start", "conversation_id": "long"})
        await peer.send(utterance("u1", text))
        await peer.receive_type("ack")
        await peer.send({"type": "stop"})
        await peer.receive_type("stopped")
    publications = await collect(server.ws, "long", is_ended)
    assert next(p for p in publications if p.kind == "transcript").d["text"] == text
    assert any(p.kind == "annotation" for p in publications)


async def test_every_unicode_plane_passes_through(server, healthy):
    text = (
        " ".join(chr(plane * 0x10000 + 0x100 + i) for plane in range(17) for i in (0, 7))
        + " \u0000 \u200f\u202e e\u0301"
    )
    async with Dial(server.ws, TRANSCRIPTS) as peer:
        await started(peer, {"type": "start", "conversation_id": "planes"})
        await peer.send(utterance("u1", text))
        await peer.receive_type("ack")
        await peer.send({"type": "stop"})
        await peer.receive_type("stopped")
    publications = await collect(server.ws, "planes", is_ended)
    assert next(p for p in publications if p.kind == "transcript").d["text"].split() == text.replace("\0", " ").split()


async def test_a_source_that_vanishes_may_come_back_to_the_same_call(server, healthy):
    async with Dial(server.ws, AUDIO) as peer:
        await started(peer, audio_start("vanish"))
        for _ in range(50):
            await peer.send(FRAME)
        peer.socket.transport.abort()
    for _ in range(40):  # until the server has noticed; `retryable` says to try again
        async with Dial(server.ws, AUDIO) as peer:
            await peer.send(audio_start("vanish"))
            answer = await peer.receive()
            if answer["type"] == "started":
                await peer.send({"type": "stop"})
                await peer.receive_type("stopped")
                break
            assert (answer["code"], answer["retryable"]) == ("conflict", True)
            await peer.closed()
    assert answer["type"] == "started"
    assert 0 < answer["resume_from_ms"] <= 1000


@pytest.mark.parametrize("path", [AUDIO, TRANSCRIPTS])
async def test_a_foreign_page_brings_no_calls_in(server, healthy, path):
    async with Dial(server.ws, path, origin="http://evil.example") as peer:
        assert (await peer.receive_type("error"))["field"] == "Origin"
        assert await peer.closed() == 1008


@pytest.mark.parametrize("headers", [{"Host": "rebound.example"}, {"Origin": "http://evil.example"}])
def test_a_foreign_page_reads_no_conversations(server, headers):
    with pytest.raises(HTTPError) as refused:
        urlopen(Request(f"{server.url}/v1/conversations", headers=headers), timeout=10)
    with refused.value:
        assert refused.value.code == 403


async def test_words_never_reach_the_log(server):
    secret = "xylophonequartz"
    async with Dial(server.ws, TRANSCRIPTS) as peer:
        await started(peer, {"type": "start", "conversation_id": "secret"})
        await peer.send(utterance("u1", f"my password is {secret}"))
        await peer.send(utterance("u2", f"my password is {secret}") | {"speaker": secret})
        error = await peer.receive_type("error")
        assert secret not in error["message"]
        await peer.send({"type": "stop"})
        await peer.receive_type("stopped")
    assert secret not in server.log
    assert not [name for name in server.metrics() if secret in name]


async def test_a_source_on_hold_says_so_and_a_side_may_join_late(server):
    async with Dial(server.ws, AUDIO) as customer, Dial(server.ws, AUDIO) as agent:
        await started(customer, audio_start("hold", layout="mono", roles=["customer"]))
        await customer.send({"type": "keepalive"})
        late = await started(agent, audio_start("hold", layout="mono", roles=["agent"], start_ms=4000))
        assert late["resume_from_ms"] == 4000
        for peer in (agent, customer):
            await peer.send({"type": "stop"})
            await peer.receive_type("stopped")
