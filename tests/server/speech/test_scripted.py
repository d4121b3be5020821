from __future__ import annotations

import asyncio

import pytest

from server.speech.contract import (
    Closed,
    EndOfSpeech,
    Final,
    Interim,
    Recogniser,
    SpeechCall,
    SpeechEvent,
    SpeechStarted,
    SpeechStream,
)
from server.speech.scripted import Heard, ScriptedRecogniser, spoken
from server.wire.errors import Overloaded, Unavailable
from server.wire.ids import ConversationId, TenantId
from tests.virtual_time import virtual_time

CALL = SpeechCall(
    tenant_id=TenantId("t"), conversation_id=ConversationId("c"), speaker="customer", sample_rate_hz=8_000
)
SECOND = bytes(16_000)


async def listen(stream: SpeechStream) -> list[tuple[float, SpeechEvent]]:
    loop = asyncio.get_running_loop()
    return [(loop.time(), event) async for event in stream.events()]


@virtual_time
async def test_events_come_as_their_audio_is_sent_and_a_delay_later() -> None:
    recogniser: Recogniser = ScriptedRecogniser({"customer": spoken("hello there", 500, 1_500)}, delay_s=0.25)
    stream = await recogniser.open(CALL)
    listener = asyncio.create_task(listen(stream))
    for _ in range(3):
        await asyncio.sleep(1)
        await stream.send(SECOND)
    await stream.close()
    heard = await listener
    kinds = [type(event) for _, event in heard]
    assert kinds == [SpeechStarted, Interim, Interim, Interim, Final, EndOfSpeech, Closed]
    assert [time_s for time_s, _ in heard] == pytest.approx([1.25, 1.25, 2.25, 2.25, 2.25, 2.25, 3.25])


@virtual_time
async def test_a_resumed_call_hears_only_what_lies_ahead() -> None:
    script = [*spoken("first", 0, 500), *spoken("second", 2_000, 2_500)]
    recogniser = ScriptedRecogniser({"customer": script})
    call = SpeechCall(
        tenant_id=CALL.tenant_id,
        conversation_id=CALL.conversation_id,
        speaker="customer",
        sample_rate_hz=8_000,
        start_ms=1_000,
    )
    stream = await recogniser.open(call)
    for _ in range(3):
        await stream.send(SECOND)
    await stream.close()
    finals = [event.text for _, event in await listen(stream) if isinstance(event, Final)]
    assert finals == ["second"]


@virtual_time
async def test_close_in_the_middle_of_an_utterance_still_gives_its_final() -> None:
    recogniser = ScriptedRecogniser({"customer": [*spoken("first", 0, 1_500), *spoken("never", 3_000, 4_000)]})
    stream = await recogniser.open(CALL)
    await stream.send(SECOND)
    await stream.close()
    await stream.close()
    events = [event for _, event in await listen(stream)]
    assert [event.text for event in events if isinstance(event, Final)] == ["first"]
    assert isinstance(events[-1], Closed)


@virtual_time
async def test_a_lost_recogniser_closes_with_its_error() -> None:
    error = Unavailable("gone")
    recogniser = ScriptedRecogniser({"agent": [], "customer": [Heard(500, Closed(error))]})
    stream = await recogniser.open(CALL)
    await stream.send(SECOND)
    assert [event for _, event in await listen(stream)] == [Closed(error)]
    await stream.send(SECOND)


@virtual_time
async def test_overload_is_scripted_too() -> None:
    recogniser = ScriptedRecogniser({}, max_streams=1, overloaded_from_ms=1_000)
    stream = await recogniser.open(CALL)
    await stream.send(SECOND)
    with pytest.raises(Overloaded):
        await stream.send(SECOND)
    with pytest.raises(Overloaded):
        await recogniser.open(CALL)
    await recogniser.stop()
