"""The speech server as its clients see it: the vendor's SDK unchanged, and bare sockets."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from server.speech.contract import Covered
from server.speech.scripted import Heard, spoken
from server.speech_server import session
from server.speech_server.faults import Faults
from server.wire.errors import BadRequest, ConfigError
from tests.server.speech_server.serving import SECOND, serving

SCRIPT = [*spoken("hello there", 200, 900), Heard(2_500, Covered(2_500)), *spoken("my oil light", 3_000, 3_900)]
QUERY = "model=nova-3&encoding=linear16&sample_rate=8000&interim_results=true&vad_events=true&utterance_end_ms=1000"


async def run_sdk(url: str, key: str = "k", channels: int = 1) -> list[dict[str, Any]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(Path(__file__).with_name("sdk_client.py")),
        url,
        key,
        str(channels),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    return json.loads(output)


def texts(messages: list[dict[str, Any]], channel: int = 0) -> list[str]:
    return [
        message["channel"]["alternatives"][0]["transcript"]
        for message in messages
        if message["type"] == "Results" and message["is_final"] and message["channel_index"][0] == channel
        if message["channel"]["alternatives"][0]["transcript"]
    ]


async def test_the_vendors_sdk_unchanged() -> None:
    async with serving(SCRIPT) as server:
        messages = await run_sdk(server.url)
    assert texts(messages) == ["hello there", "my oil light"]
    kinds = [message["type"] for message in messages]
    assert kinds[0] == "SpeechStarted"
    assert kinds[-1] == "Metadata"
    assert kinds.count("UtteranceEnd") == 1
    assert messages[-1]["duration"] == pytest.approx(5.0)
    assert any(message["type"] == "Results" and not message["is_final"] for message in messages)
    ends = [message for message in messages if message["type"] == "Results" and message["speech_final"]]
    assert [end["channel"]["alternatives"][0]["transcript"] for end in ends] == ["hello there", "my oil light"]
    assert all(end["is_final"] for end in ends)
    finals = [message for message in messages if message["type"] == "Results" and message["is_final"]]
    assert any(final["from_finalize"] for final in finals)
    ids = {message["metadata"]["request_id"] for message in finals} | {messages[-1]["request_id"]}
    assert len(ids) == 1


async def test_the_vendors_sdk_with_two_channels_and_with_a_wrong_key() -> None:
    async with serving(SCRIPT, key="right") as server:
        messages, refused = await asyncio.gather(run_sdk(server.url, "right", 2), run_sdk(server.url, "wrong"))
    assert texts(messages, 0) == texts(messages, 1) == ["hello there", "my oil light"]
    assert {tuple(message["channel_index"]) for message in messages if message["type"] == "Results"} == {(0, 2), (1, 2)}
    assert messages[-1]["channels"] == 2
    assert refused == [{"type": "ApiError", "status": 401}]


async def until_closed(socket: ClientConnection) -> list[dict[str, Any]]:
    return [json.loads(frame) async for frame in socket]


async def test_windows_of_finals_tile_the_audio() -> None:
    async with serving(SCRIPT) as server, connect(f"{server.url}/v1/listen?{QUERY}") as socket:
        for _ in range(5):
            await socket.send(SECOND)
        await socket.send('{"type": "CloseStream"}')
        messages = await until_closed(socket)
    finals = [message for message in messages if message["type"] == "Results" and message["is_final"]]
    for message, following in itertools.pairwise(finals):
        assert message["start"] + message["duration"] <= following["start"] + 1e-9
    for message in finals:
        for word in message["channel"]["alternatives"][0]["words"]:
            assert message["start"] <= word["start"] <= word["end"] <= message["start"] + message["duration"]


async def test_two_channels_that_are_not_kept_apart_are_mixed() -> None:
    async with serving(SCRIPT) as server, connect(f"{server.url}/v1/listen?{QUERY}&channels=2") as socket:
        for _ in range(5):
            await socket.send(SECOND * 2)
        await socket.send(b"")  # the old way of ending
        messages = await until_closed(socket)
    assert texts(messages) == ["hello there", "my oil light"]
    assert {tuple(message["channel_index"]) for message in messages if message["type"] == "Results"} == {(0, 1)}


async def test_an_empty_finalize_is_answered() -> None:
    async with serving([]) as server, connect(f"{server.url}/v1/listen?{QUERY}") as socket:
        await socket.send('{"type": "Finalize"}')
        answer = json.loads(await socket.recv())
        assert (answer["is_final"], answer["from_finalize"]) == (True, True)
        assert answer["channel"]["alternatives"][0]["transcript"] == ""


async def test_without_audio_or_keep_alive_it_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "IDLE_LIMIT_S", 0.2)
    async with serving([]) as server, connect(f"{server.url}/v1/listen?{QUERY}") as socket:
        for _ in range(5):
            await asyncio.wait((asyncio.ensure_future(socket.wait_closed()),), timeout=0.08)
            await socket.send('{"type": "KeepAlive"}')
        with pytest.raises(ConnectionClosedError) as closed:
            await socket.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1011
    assert closed.value.rcvd.reason.startswith("NET-0001")


@pytest.mark.parametrize("frame", ["no json", b"\0"])
async def test_what_is_neither_audio_nor_control_closes(frame: str | bytes) -> None:
    async with serving([]) as server, connect(f"{server.url}/v1/listen?{QUERY}") as socket:
        await socket.send(frame)
        await socket.wait_closed()
        assert socket.close_code == 1008


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("sample_rate=8000", "encoding"),
        ("encoding=opus&sample_rate=8000", "encoding"),
        ("encoding=linear16", "sample_rate"),
        ("encoding=linear16&sample_rate=4000", "sample_rate"),
        ("encoding=linear16&sample_rate=8000&channels=3", "channels"),
        ("encoding=linear16&sample_rate=8000&multichannel=True", "multichannel"),
        ("encoding=linear16&sample_rate=8000&utterance_end_ms=1000", "utterance_end_ms"),
        ("encoding=linear16&sample_rate=8000&interim_results=true&utterance_end_ms=10", "utterance_end_ms"),
    ],
)
async def test_a_wrong_parameter_is_named(query: str, field: str) -> None:
    async with serving([]) as server:
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"{server.url}/v1/listen?{query}")
    assert refused.value.response.status_code == 400
    body = json.loads(refused.value.response.body)
    assert body["err_code"] == "INVALID_QUERY_PARAMETER"
    assert body["err_msg"].startswith(field)
    assert body["request_id"]


async def test_credentials_of_every_kind() -> None:
    async with serving([], key="secret") as server:
        url = f"{server.url}/v1/listen?{QUERY}"
        for header in ("Token secret", "bearer secret"):
            async with connect(url, additional_headers={"Authorization": header}) as socket:
                assert socket.response is not None
                assert socket.response.headers["dg-request-id"]
        async with connect(url, subprotocols=["token", "secret"]) as socket:
            assert socket.subprotocol == "token"
        for headers in ({}, {"Authorization": "Token other"}, {"Authorization": "Basic secret"}):
            with pytest.raises(InvalidStatus):
                await connect(url, additional_headers=headers)


async def test_other_paths() -> None:
    async with serving([]) as server:
        with pytest.raises(InvalidStatus) as answered:
            await connect(f"{server.url}/healthz")
        assert answered.value.response.status_code == 200
        with pytest.raises(InvalidStatus) as missing:
            await connect(f"{server.url}/v2/listen")
        assert missing.value.response.status_code == 404
        port = int(server.url.rpartition(":")[2])
        with pytest.raises(ConfigError):
            await type(server)(None).start("127.0.0.1", port)


async def test_a_stall_keeps_the_connection_and_says_nothing() -> None:
    async with (
        serving(SCRIPT, faults=lambda: Faults(stall=1.5)) as server,
        connect(f"{server.url}/v1/listen?{QUERY}") as socket,
    ):
        for _ in range(5):
            await socket.send(SECOND)
        await socket.send('{"type": "CloseStream"}')
        got: list[dict[str, Any]] = []
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.3):
                async for frame in socket:
                    got.append(json.loads(frame))
        await (await socket.ping())
    assert texts(got) in ([], ["hello there"])
    assert "Metadata" not in {message["type"] for message in got}


def test_faults_are_read_and_wrong_ones_named() -> None:
    assert Faults.parse("drop=2.5,garbage=3") == Faults(drop=2.5, garbage=3)
    assert Faults.parse("") == Faults()
    with pytest.raises(BadRequest) as unknown:
        Faults.parse("explode=1")
    assert unknown.value.field == "explode"
    with pytest.raises(BadRequest):
        Faults.parse("drop=soon")
