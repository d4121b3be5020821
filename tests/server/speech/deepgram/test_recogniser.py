"""The adapter against the speech server, over real sockets and through the vendor's own SDK."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from websockets.asyncio.server import ServerConnection, serve

from server.config.settings import DeepgramSettings
from server.speech.contract import (
    Closed,
    Covered,
    EndOfSpeech,
    Final,
    Interim,
    SpeechEvent,
    SpeechStarted,
    SpeechStream,
)
from server.speech.deepgram import recogniser as module
from server.speech.deepgram import transport as transport_module
from server.speech.deepgram.recogniser import DeepgramRecogniser
from server.speech.scripted import Heard, spoken
from server.speech_server.faults import Faults
from server.wire.errors import BadAudio, BadRequest, CuelineError, Forbidden, TooManyRequests, Unauthorised, Unavailable
from tests.server.speech_server.serving import SECOND, adapter, listen, serving, side

SCRIPT = [*spoken("hello there", 200, 900), Heard(2_000, Covered(2_000)), *spoken("my oil light", 2_100, 2_900)]


async def send_for_ever(stream: SpeechStream) -> None:
    while True:
        await stream.send(SECOND)
        await asyncio.sleep(0)


async def test_a_call_with_its_times_on_the_calls_clock() -> None:
    async with serving(SCRIPT) as server:
        stream = await adapter(server).open(side(start_ms=30_000))
        listener = asyncio.create_task(listen(stream))
        for _ in range(4):
            await stream.send(SECOND)
        await stream.close()
        await stream.close()
        await stream.send(SECOND)
        events = await listener
    finals = [(event.start_ms, event.end_ms, event.text) for event in events if isinstance(event, Final)]
    # What the vendor calls the window of a final reaches to the end of the silence that closed it.
    assert [(start, text) for start, _, text in finals] == [(30_200, "hello there"), (32_100, "my oil light")]
    assert [event.at_ms for event in events if isinstance(event, SpeechStarted)] == [30_200, 32_100]
    assert len([event for event in events if isinstance(event, EndOfSpeech)]) == 2
    assert [event for event in events if isinstance(event, Interim)]
    covered = [event.covered_ms for event in events if isinstance(event, Covered)]
    assert covered == sorted(covered)
    assert events[-1] == Closed(None)


async def test_what_is_asked_of_the_vendor() -> None:
    async with serving([]) as server:
        stream = await adapter(server, "secret").open(side(keyterms=("oil light", "Kia Sorento")))
        await stream.abandon()
        options, headers = server.requests[0]
    query = dict(options.query)
    assert options.keyterms == ("oil light", "Kia Sorento")
    assert headers["Authorization"] == "Token secret"
    assert headers["User-Agent"].startswith("deepgram-sdk/")
    assert "Sec-WebSocket-Extensions" not in headers  # no compression of small frames
    assert {name: query[name] for name in ("model", "encoding", "sample_rate", "channels", "language")} == {
        "model": "nova-3", "encoding": "linear16", "sample_rate": "8000", "channels": "1", "language": "en",
    }  # fmt: skip
    assert {query[name] for name in ("interim_results", "vad_events", "mip_opt_out", "punctuate")} == {"true"}
    assert (query["endpointing"], query["utterance_end_ms"]) == ("300", "1000")


async def test_older_models_take_keywords() -> None:
    async with serving([]) as server:
        stream = await adapter(server, model="nova-2-phonecall", mip_opt_out=False).open(side(keyterms=("oil light",)))
        await stream.abandon()
        query = dict(server.requests[0][0].query)
    assert query["keywords"] == "oil light"
    assert "keyterm" not in query
    assert query["mip_opt_out"] == "false"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, BadRequest),
        (401, Unauthorised),
        (402, Forbidden),
        (403, Forbidden),
        (429, TooManyRequests),
        (500, Unavailable),
        (503, Unavailable),
    ],
)
async def test_refusals_are_permanent_or_not(status: int, error: type[CuelineError]) -> None:
    async with serving([], faults=lambda: Faults(refuse=status)) as server:
        with pytest.raises(error) as refused:
            await adapter(server).open(side())
    assert refused.value.retryable == (status == 429 or status >= 500)


async def test_a_wrong_key_and_nobody_there() -> None:
    async with serving([], key="right") as server:
        with pytest.raises(Unauthorised):
            await adapter(server, "wrong").open(side())
        stream = await adapter(server, "right").open(side())
        await stream.abandon()
    with pytest.raises(Unavailable):
        await adapter(server, "right").open(side())


async def test_finalize_brings_the_text_so_far() -> None:
    async with serving(spoken("a long sentence", 0, 5_000)) as server:
        stream = await adapter(server).open(side())
        await stream.send(SECOND)
        await stream.finalize()
        async for event in stream.events():
            if isinstance(event, Final):
                assert event.text == "a long sentence"
                break
        await stream.abandon()


async def test_a_connection_that_is_cut_closes_the_stream_with_an_error_that_may_pass() -> None:
    async with serving(SCRIPT, faults=lambda: Faults(drop=1.5)) as server:
        stream = await adapter(server).open(side())
        listener = asyncio.create_task(listen(stream))
        with pytest.raises(Unavailable):
            await send_for_ever(stream)
        events = await listener
    assert isinstance(events[-1], Closed)
    assert isinstance(events[-1].error, Unavailable)
    assert events[-1].error.retryable


async def test_garbage_is_passed_over() -> None:
    async with serving(SCRIPT, faults=lambda: Faults(garbage=1)) as server:
        stream = await adapter(server).open(side())
        for _ in range(4):
            await stream.send(SECOND)
        await stream.close()
        events = await listen(stream)
    assert [event.text for event in events if isinstance(event, Final)] == ["hello there", "my oil light"]
    assert events[-1] == Closed(None)


async def test_nothing_but_garbage_ends_the_stream() -> None:
    async def nonsense(socket: ServerConnection) -> None:
        for _ in range(100):
            await socket.send("nonsense")
        await socket.wait_closed()

    async with serve(nonsense, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        stream = await DeepgramRecogniser(DeepgramSettings(url=f"ws://127.0.0.1:{port}"), "").open(side())
        events = await listen(stream)
        assert isinstance(events[0], Closed)
        assert isinstance(events[0].error, Unavailable)


async def test_a_close_without_the_last_word_is_no_end_in_order() -> None:
    async def hasty(socket: ServerConnection) -> None:
        async for frame in socket:
            if frame == '{"type": "CloseStream"}':
                return

    async with serve(hasty, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        stream = await DeepgramRecogniser(DeepgramSettings(url=f"ws://127.0.0.1:{port}"), "").open(side())
        await stream.send(SECOND)
        await stream.close()
        (closed,) = await listen(stream)
        assert isinstance(closed, Closed)
        assert isinstance(closed.error, Unavailable)


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(module, "KEEP_ALIVE_S", 0.05)
    monkeypatch.setattr(transport_module, "SEND_TIMEOUT_S", 0.2)
    return


@pytest.mark.usefixtures("_quick")
async def test_silence_is_bridged_by_keep_alive_in_text_frames() -> None:
    got: asyncio.Queue[str | bytes] = asyncio.Queue()

    async def remember(socket: ServerConnection) -> None:
        async for frame in socket:
            got.put_nowait(frame)

    async with serve(remember, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        stream = await DeepgramRecogniser(DeepgramSettings(url=f"ws://127.0.0.1:{port}"), "").open(side())
        assert await got.get() == '{"type": "KeepAlive"}'
        assert await got.get() == '{"type": "KeepAlive"}'
        await stream.finalize()
        assert '{"type": "Finalize"}' in {await got.get(), await got.get()}
        await stream.abandon()


@pytest.mark.usefixtures("_quick")
async def test_a_peer_that_takes_nothing_is_given_up() -> None:
    done = asyncio.Event()

    async def deaf(socket: ServerConnection) -> None:
        socket.transport.pause_reading()
        await done.wait()
        socket.transport.abort()

    async with serve(deaf, "127.0.0.1", 0, max_queue=1) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        stream = await DeepgramRecogniser(DeepgramSettings(url=f"ws://127.0.0.1:{port}"), "").open(side())
        with pytest.raises(Unavailable):
            await send_for_ever(stream)
        await stream.abandon()
        done.set()


async def test_half_a_sample_is_refused() -> None:
    async with serving([]) as server:
        stream = await adapter(server).open(side())
        with pytest.raises(BadAudio):
            await stream.send(b"\0")
        await stream.abandon()


async def test_both_sides_have_a_socket_each() -> None:
    async with serving(SCRIPT) as server:
        vendor = adapter(server)
        streams = [await vendor.open(side(speaker="customer")), await vendor.open(side(speaker="agent"))]
        texts: list[list[str]] = []
        for stream in streams:
            for _ in range(4):
                await stream.send(SECOND)
            await stream.close()
            events: list[SpeechEvent] = await listen(stream)
            texts.append([event.text for event in events if isinstance(event, Final)])
        assert len(server.requests) == 2
    assert texts == [["hello there", "my oil light"]] * 2
