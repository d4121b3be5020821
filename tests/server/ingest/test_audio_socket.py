"""The audio door over plain ASGI messages: what becomes of a source whose socket fails."""

import asyncio
import json

from server.auth.origin import OriginPolicy
from server.auth.tokens import AnonymousAuthenticator
from server.config.settings import IngestSettings
from server.ingest.audio_socket import AudioEndpoint
from server.ingest.door import Door
from server.metrics import Metrics
from server.wire.ids import AgentId, TenantId
from tests.server.ingest.fakes import Desk, Ears
from tests.virtual_time import virtual_time

START = {
    "type": "start",
    "conversation_id": "c1",
    "encoding": "linear16",
    "sample_rate_hz": 8000,
    "layout": "mono",
    "roles": ["customer"],
}


class Wire:
    """The peer's side of one socket."""

    def __init__(self):
        self.events = asyncio.Queue()
        self.events.put_nowait({"type": "websocket.connect"})
        self.sent = []

    def say(self, frame):
        kind = "text" if isinstance(frame, str) else "bytes"
        self.events.put_nowait({"type": "websocket.receive", kind: frame})

    async def send(self, message):
        self.sent.append(message)


@virtual_time
async def test_a_source_whose_socket_failed_unforeseen_is_waited_for_and_then_ended():
    desk = Desk()
    door = Door(AnonymousAuthenticator(TenantId("t"), AgentId("a")), OriginPolicy(), desk)
    metrics = Metrics()
    endpoint = AudioEndpoint(desk, Ears(), door, IngestSettings(resume_grace_s=10.0), metrics)
    wire = Wire()
    wire.say(json.dumps(START))
    wire.events.put_nowait({"type": "websocket.receive"})  # neither text nor bytes: no server sends this
    failure = None
    try:
        await endpoint({"headers": []}, wire.events.get, wire.send)
    except KeyError as error:
        failure = error
    assert failure is not None
    assert desk.stops == []
    await desk.stopped.wait()
    assert desk.stops == [("c1", ("customer",), "source_lost")]
    assert metrics.live_streams._value.get() == 0
