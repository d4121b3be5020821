"""A source that another process let in: its pass opens one call, and its audio waits for nobody's return."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest

from server.auth.origin import OriginPolicy
from server.auth.passes import HEADER, Pass
from server.auth.tokens import SharedKeyAuthenticator
from server.config.settings import IngestSettings
from server.ingest.audio_socket import RELAYED_IDLE_S, TAKE_OVER_AFTER_S, AudioEndpoint
from server.ingest.door import Door
from server.metrics import Metrics
from server.wire.errors import Unauthorised, Unavailable
from server.wire.ids import ConversationId, TenantId
from tests.server.ingest.fakes import Desk, Ears
from tests.virtual_time import virtual_time

START = {
    "type": "start",
    "tenant_id": "t",
    "conversation_id": "c1",
    "agent_id": "anna",
    "encoding": "linear16",
    "sample_rate_hz": 8000,
    "layout": "mono",
    "roles": ["customer"],
}
SECOND = np.arange(1, 8001, dtype="<i2").tobytes()


class Passes:
    """Knows one pass, which may be spent."""

    def __init__(self):
        self.is_away = False

    async def redeem(self, text):
        if self.is_away:
            raise Unavailable("away")
        if text != "good":
            raise Unauthorised("the pass is unknown, used or expired")
        return Pass(TenantId("t"), ConversationId("c1"))


class Rig:
    def __init__(self, passes=None):
        self.desk, self.ears, self.passes = Desk(), Ears(), passes
        door = Door(SharedKeyAuthenticator("k" * 32), OriginPolicy(), self.desk, passes)
        self.endpoint = AudioEndpoint(self.desk, self.ears, door, IngestSettings(), Metrics())

    def dial(self, text="good"):
        return Wire(self.endpoint, text)


class Wire:
    """The relaying process's side of one socket."""

    def __init__(self, endpoint, text):
        self.sent, self.close_code = [], None
        self._events = asyncio.Queue()
        self._events.put_nowait({"type": "websocket.connect"})
        scope = {"headers": [(HEADER.encode(), text.encode())]}
        self.task = asyncio.create_task(endpoint(scope, self._events.get, self._send))

    async def _send(self, message):
        if message["type"] == "websocket.send":
            self.sent.append(json.loads(message["text"]))
        if message["type"] == "websocket.close":
            self.close_code = message["code"]
            self._events.put_nowait({"type": "websocket.disconnect"})

    def say(self, frame):
        kind = "bytes" if isinstance(frame, bytes) else "text"
        self._events.put_nowait(
            {"type": "websocket.receive", kind: json.dumps(frame) if isinstance(frame, dict) else frame}
        )

    async def gone(self):
        """Break off, and wait until what follows from it is done."""
        self._events.put_nowait({"type": "websocket.disconnect"})
        await self.task
        await asyncio.sleep(0.1)

    @property
    def kinds(self):
        return [(one["type"], one.get("code", one.get("resume_from_ms"))) for one in self.sent if one["type"] != "ack"]


@virtual_time
async def test_a_pass_is_all_that_a_relayed_source_needs():
    rig = Rig(Passes())
    wire = rig.dial()
    wire.say(START)
    wire.say(SECOND)
    wire.say({"type": "stop"})
    await wire.task
    assert wire.kinds == [("started", 0), ("stopped", None)]
    assert rig.desk.starts == [("t", "c1", "anna", None, ("customer",))]
    assert rig.ears.samples("c1", "customer") == SECOND


@virtual_time
@pytest.mark.parametrize(
    ("passes", "text", "code", "close_code"),
    [(Passes(), "used", "unauthorised", 1008), (None, "good", "unauthorised", 1008)],
)
async def test_without_a_good_one_it_gets_nothing(passes, text, code, close_code):
    rig = Rig(passes)
    wire = rig.dial(text)
    wire.say(START)
    await wire.task
    assert (wire.kinds, wire.close_code) == ([("error", code)], close_code)
    assert rig.desk.starts == []


@virtual_time
async def test_while_nobody_knows_what_was_spent_it_is_asked_to_come_again():
    rig = Rig(Passes())
    rig.passes.is_away = True
    wire = rig.dial()
    await wire.task
    assert (wire.kinds, wire.close_code) == ([("error", "unavailable")], 1013)


@virtual_time
@pytest.mark.parametrize("other", [{"conversation_id": "c2"}, {"tenant_id": "u"}, {"tenant_id": None}])
async def test_a_pass_opens_no_other_call(other):
    rig = Rig(Passes())
    wire = rig.dial()
    wire.say(START | other)
    await asyncio.sleep(1)
    assert wire.kinds == [("error", "forbidden")]
    assert rig.desk.starts == []
    await wire.gone()


@virtual_time
async def test_a_pass_gives_no_call_to_another_agent():
    rig = Rig(Passes())
    wire = rig.dial()
    wire.say(START)
    wire.say({"type": "assign", "agent_id": "ben"})
    await asyncio.sleep(1)
    assert wire.kinds == [("started", 0), ("error", "forbidden")]
    assert rig.desk.assigned == []
    await wire.gone()


@virtual_time
async def test_a_lost_one_is_not_kept_for_its_return_so_that_its_system_may_come_back_by_any_way():
    rig = Rig(Passes())
    wire = rig.dial()
    wire.say(START)
    wire.say(SECOND)
    await asyncio.sleep(1)
    await wire.gone()
    assert rig.desk.lost == [("c1", ("customer",))]
    again = rig.dial()
    again.say(START | {"start_ms": 1500})
    await asyncio.sleep(1)
    assert again.kinds == [("started", 1500)], "its sender says from where it has the audio"
    await again.gone()


@virtual_time
async def test_a_silent_one_is_replaced_and_a_dead_one_let_go():
    rig = Rig(Passes())
    first = rig.dial()
    first.say(START)
    await asyncio.sleep(0.1)
    second = rig.dial()
    second.say(START)
    await asyncio.sleep(0.1)
    assert second.kinds == [("error", "conflict")]
    assert second.close_code == 1013
    await asyncio.sleep(TAKE_OVER_AFTER_S)
    third = rig.dial()
    third.say(START)
    await asyncio.sleep(0.1)
    assert (third.kinds, first.close_code) == ([("started", 0)], 1008)
    await asyncio.sleep(RELAYED_IDLE_S + 1)
    assert third.close_code == 1013
    assert rig.desk.open_sources == []
