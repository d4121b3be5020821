"""Fifty calls through one door, and one of them misbehaves: the other forty-nine say what they say without it."""

from __future__ import annotations

import asyncio
import json
import os
import random

import pytest

from server.auth.origin import OriginPolicy
from server.auth.tokens import AnonymousAuthenticator
from server.config.settings import IngestSettings
from server.ingest.audio_socket import MAX_BAD_FRAMES, AudioEndpoint
from server.ingest.door import Door
from server.metrics import Metrics
from server.speech.recovery.recogniser import RecoveringRecogniser
from server.speech.recovery.settings import RecoverySettings
from server.speech.scripted import ScriptedRecogniser, spoken
from server.wire.ids import AgentId, TenantId
from tests.server.ingest.fakes import Desk
from tests.server.ingest.test_audio_socket import START, Wire
from tests.virtual_time import run_virtual, virtual_time

CALLS = 50
SECONDS = 8
BAD = "call-7"
FRAME = bytes(320)
SCRIPT = [*spoken("my oil light is on", 500, 2_000), *spoken("since this morning", 3_500, 5_000)]


class Listening(Desk):
    """Notes what each call hears, and when."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: dict[str, list[tuple[float, object]]] = {}

    async def open(self, tenant_id, conversation_id, **details):
        source = await super().open(tenant_id, conversation_id, **details)
        heard = self.heard.setdefault(conversation_id, [])

        async def on_speech(speaker, event, stamps):
            heard.append((round(asyncio.get_running_loop().time(), 3), event))

        source.on_speech = on_speech
        return source


class Stalling(ScriptedRecogniser):
    """Takes nothing and says nothing for one call, as a vendor's half-open socket."""

    def __init__(self, stalled: str | None) -> None:
        super().__init__({"customer": SCRIPT})
        self._stalled = stalled

    async def open(self, call):
        stream = await super().open(call)
        if call.conversation_id == self._stalled:
            stream.send = lambda pcm: asyncio.sleep(2.0)
        return stream


async def play(bad: str) -> dict[str, list[tuple[float, object]]]:
    desk, metrics = Listening(), Metrics()
    recogniser = RecoveringRecogniser(
        [Stalling(BAD if bad == "stall" else None)], RecoverySettings(spool_s=0), metrics, random.Random(1).random
    )
    door = Door(AnonymousAuthenticator(TenantId("t"), AgentId("a")), OriginPolicy(), desk)
    endpoint = AudioEndpoint(desk, recogniser, door, IngestSettings(), metrics)
    wires = {f"call-{number}": Wire() for number in range(CALLS)}
    serving = []
    for name, wire in wires.items():
        wire.say(json.dumps({**START, "conversation_id": name}))
        serving.append(asyncio.create_task(endpoint({"headers": []}, wire.events.get, wire.send)))
    draw = random.Random(2)
    for number in range(SECONDS * 50):
        await asyncio.sleep(0.02)
        for name, wire in wires.items():
            if name != BAD or bad in ("nothing", "stall"):
                wire.say(FRAME)
            elif bad == "flood" and number == 50:
                for _ in range(20_000):
                    wire.say(FRAME)
            elif bad == "garbage" and number < MAX_BAD_FRAMES:
                wire.say(draw.choice(["{", '{"type":"?"}', "null", "[" * 500, os.urandom(7), "\x00" * 40]))
    for wire in wires.values():
        wire.say('{"type":"stop"}')
    await asyncio.gather(*serving)
    await endpoint.stop()
    await recogniser.stop()
    return desk.heard


@pytest.fixture(scope="module")
def undisturbed():
    heard = run_virtual(play("nothing"))
    assert len(heard) == CALLS
    return heard


@pytest.mark.slow
@pytest.mark.parametrize("bad", ["garbage", "flood", "stall"])
def test_one_bad_call_leaves_the_others_as_they_were(undisturbed, bad: str) -> None:
    heard = run_virtual(play(bad))
    assert set(heard) == set(undisturbed)
    for name in set(heard) - {BAD}:
        assert heard[name] == undisturbed[name], name
    if bad != "flood":
        assert heard[BAD] != undisturbed[BAD], "the bad call was none"


class Noting(ScriptedRecogniser):
    """Notes how much of the flood was heard when the other call's first frame was."""

    def __init__(self) -> None:
        super().__init__({})
        self.is_open = asyncio.Event()
        self.flooded_ms: int | None = None

    async def open(self, call):
        stream = await super().open(call)
        if len(self.streams) == 2:
            flood, send = self.streams[0], stream.send

            async def note(pcm):
                self.flooded_ms = flood.now_ms
                await send(pcm)

            stream.send = note
            self.is_open.set()
        return stream


@virtual_time
async def test_a_flood_is_not_worked_to_its_end_before_others_have_their_turn() -> None:
    """By order, not by the clock: the frame of another call that arrives within a flood is heard within it."""
    desk, recogniser = Desk(), Noting()
    door = Door(AnonymousAuthenticator(TenantId("t"), AgentId("a")), OriginPolicy(), desk)
    endpoint = AudioEndpoint(desk, recogniser, door, IngestSettings(), Metrics())
    flood, other = Wire(), Wire()
    serving = []
    for name, wire in (("flood", flood), ("other", other)):
        wire.say(json.dumps({**START, "conversation_id": name}))
        serving.append(asyncio.create_task(endpoint({"headers": []}, wire.events.get, wire.send)))
    await recogniser.is_open.wait()
    for _ in range(5_000):
        flood.say(FRAME)
    other.say(FRAME)
    for wire in (flood, other):
        wire.say('{"type":"stop"}')
    await asyncio.gather(*serving)
    assert recogniser.streams[0].now_ms == 100_000
    assert recogniser.flooded_ms is not None
    assert recogniser.flooded_ms < 1_000, "20 ms a frame: no more than half a second of it and some turns"
    await endpoint.stop()
