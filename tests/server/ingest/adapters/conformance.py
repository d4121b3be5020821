"""What every way in has to do, whatever its protocol; each adapter's test subclasses this with its own words."""

from __future__ import annotations

import asyncio
import contextlib
import json

import numpy as np
import pytest

from server.auth.origin import OriginPolicy
from server.auth.tokens import AnonymousAuthenticator, SharedKeyAuthenticator
from server.config.settings import IngestSettings
from server.ingest.adapters.endpoint import MAX_BAD_FRAMES, AdapterEndpoint, carry_on
from server.ingest.audio import AudioFormat
from server.ingest.audio_client import Refused
from server.ingest.carried_source import LEAVING_PATIENCE_S, PATIENCE_S, REFUSED_PATIENCE_S, Way
from server.ingest.door import Door
from server.ingest.relay import Relay
from server.metrics import Metrics
from server.wire.errors import Unavailable
from tests.server.ingest.fakes import AllElsewhere, Desk, Ears
from tests.virtual_time import virtual_time

KEY = "k" * 32
TIMEOUT_S = 5.0
FRAME_MS = 20


class Dialect:
    """How a peer speaks; frames are text (str) or binary (bytes)."""

    path = "/"
    encoding = "linear16"
    rate_hz = 8000
    closes_on_garbage = False
    """Whether one bad message ends the session, as the protocol wants it."""

    def adapter(self, authenticator):
        raise NotImplementedError

    def headers(self, conversation_id) -> dict[str, str]:
        return {}

    def start(self, conversation_id) -> list[str | bytes]:
        raise NotImplementedError

    def audio(self, conversation_id, index, customer: bytes, agent: bytes) -> list[str | bytes]:
        """One frame of both sides, in the peer's encoding."""
        raise NotImplementedError

    def end(self, conversation_id) -> list[str | bytes]:
        raise NotImplementedError

    garbage: tuple[str | bytes, ...] = ("{", "[1,2]", "null", '{"type":7}', "", "\0", '"text"')


class Peer:
    """An ASGI WebSocket whose other end is the test."""

    def __init__(self, endpoint, dialect, conversation_id, headers=None, query=b""):
        self.dialect, self.id = dialect, conversation_id
        self.sent, self.close_code, self.is_accepted = [], None, False
        self.answered = asyncio.Event()
        self._frames = asyncio.Queue()
        self._frames.put_nowait({"type": "websocket.connect"})
        self._index = 0
        sent_headers = {"host": "cueline.example"} | dialect.headers(conversation_id) | (headers or {})
        scope = {
            "type": "websocket",
            "scheme": "ws",
            "path": dialect.path,
            "raw_path": dialect.path.encode(),
            "query_string": query,
            "headers": [(name.encode(), value.encode()) for name, value in sent_headers.items()],
        }
        self.task = asyncio.create_task(endpoint(scope, self._frames.get, self._send))

    async def _send(self, message):
        match message["type"]:
            case "websocket.accept":
                self.is_accepted = True
            case "websocket.send":
                self.sent.append(json.loads(message["text"]))
                self.answered.set()
            case "websocket.close":
                self.close_code = message["code"]
                self._frames.put_nowait({"type": "websocket.disconnect"})

    def say(self, frames):
        for frame in frames:
            kind = "text" if isinstance(frame, str) else "bytes"
            self._frames.put_nowait({"type": "websocket.receive", kind: frame})

    def start(self):
        self.say(self.dialect.start(self.id))

    def speak(self, customer, agent):
        """Both sides' samples, `[samples] int16` that the peer's encoding can carry."""
        step = self.dialect.rate_hz * FRAME_MS // 1000
        for at in range(0, len(customer), step):
            sides = (encode(self.dialect.encoding, side[at : at + step]) for side in (customer, agent))
            self.say(self.dialect.audio(self.id, self._index, *sides))
            self._index += 1

    def end(self):
        self.say(self.dialect.end(self.id))

    async def gone(self):
        """Hang up, and wait until the other end noticed."""
        self._frames.put_nowait({"type": "websocket.disconnect"})
        await self.done()

    async def done(self, within_s=TIMEOUT_S):
        async with asyncio.timeout(within_s):
            await self.task


def encode(encoding, samples) -> bytes:
    if encoding == "linear16":
        return samples.astype("<i2").tobytes()
    table = AudioFormat("mulaw", 8000, ("customer",)).split(bytes(range(256)))[0]
    codes = {int(value): code for code, value in enumerate(table)}
    return bytes(codes[int(sample)] for sample in samples)


def speech(encoding, num_samples, seed=0):
    """Samples that the encoding carries exactly, none of them silence."""
    if encoding == "linear16":
        return np.random.default_rng(seed).integers(1, 30_000, num_samples).astype(np.int16)
    table = AudioFormat("mulaw", 8000, ("customer",)).split(bytes(range(256)))[0]
    return np.random.default_rng(seed).choice(table[table > 0], num_samples)


class Conformance:
    """Subclass as `TestX` and set `dialect`."""

    dialect: Dialect

    @pytest.fixture
    def ears(self):
        return Ears()

    @pytest.fixture
    def desk(self):
        return Desk()

    @pytest.fixture
    def metrics(self):
        return Metrics()

    def make(self, desk, ears, metrics, authenticator, relay=None):
        origins = OriginPolicy()
        return AdapterEndpoint(
            self.dialect.adapter(authenticator),
            Way(desk, ears, relay or Relay(), metrics),
            Door(authenticator, origins, desk),
            origins,
            IngestSettings(resume_grace_s=1.0),
        )

    @pytest.fixture
    async def endpoint(self, desk, ears, metrics):
        endpoint = self.make(desk, ears, metrics, AnonymousAuthenticator("car_service"))
        yield endpoint
        await endpoint.stop()

    def both(self, seconds=1, seed=0):
        size = self.dialect.rate_hz * seconds
        return speech(self.dialect.encoding, size, seed), speech(self.dialect.encoding, size, seed + 1)

    async def test_a_call_from_start_to_end(self, endpoint, desk, ears, metrics):
        peer = Peer(endpoint, self.dialect, "call-1")
        customer, agent = self.both()
        peer.start()
        peer.speak(customer, agent)
        peer.end()
        await peer.done()
        assert ears.samples("call-1", "customer") == customer.tobytes()
        assert ears.samples("call-1", "agent") == agent.tobytes()
        assert [reason for _, _, reason in desk.stops] == ["stopped"], "one of its sources ends the call"
        assert desk.open_sources == []
        name = self.dialect.adapter(AnonymousAuthenticator("car_service")).name
        assert metrics.registry.get_sample_value("cueline_ingest_sources", {"source": name}) == 0

    async def test_a_lost_socket_leaves_the_call_waiting_and_its_return_goes_on(self, endpoint, desk, ears):
        peer = Peer(endpoint, self.dialect, "call-1")
        peer.start()
        peer.speak(*self.both())
        await peer.gone()
        assert desk.stops == []
        assert {role for _, roles in desk.lost for role in roles} == {"customer", "agent"}
        again = Peer(endpoint, self.dialect, "call-1")
        again.start()
        again.end()
        await again.done()
        assert [call.start_ms >= 1000 for call in ears.calls[2:]] == [True, True]

    async def test_garbage_hurts_nobody_else(self, endpoint, ears):
        healthy = Peer(endpoint, self.dialect, "healthy")
        customer, agent = self.both(2, seed=7)
        healthy.start()
        half = len(customer) // 2
        healthy.speak(customer[:half], agent[:half])
        for frame in self.dialect.garbage:
            bad = Peer(endpoint, self.dialect, "bad")
            bad.start()
            bad.say([frame])
            await bad.gone()
            first = Peer(endpoint, self.dialect, "bad")
            first.say([frame])
            await first.gone()
        healthy.speak(customer[half:], agent[half:])
        healthy.end()
        await healthy.done()
        assert ears.samples("healthy", "customer") == customer.tobytes()
        assert ears.samples("healthy", "agent") == agent.tobytes()

    async def test_a_call_outlives_one_bad_frame_where_its_protocol_allows_it(self, endpoint, ears):
        if self.dialect.closes_on_garbage:
            pytest.skip("in this protocol every error is final")
        peer = Peer(endpoint, self.dialect, "call-1")
        customer, agent = self.both()
        peer.start()
        peer.say(["{"])
        peer.speak(customer, agent)
        peer.end()
        await peer.done()
        assert ears.samples("call-1", "customer") == customer.tobytes()

    async def test_a_peer_that_keeps_being_wrong_is_cut_off(self, endpoint, metrics):
        peer = Peer(endpoint, self.dialect, "call-1")
        peer.say(["{"] * MAX_BAD_FRAMES)
        await peer.done()
        assert peer.close_code == 1008
        counted = [
            sample.value
            for metric in metrics.registry.collect()
            for sample in metric.samples
            if sample.name == "cueline_ingest_errors_total" and sample.labels["code"] == "bad_message"
        ]
        assert sum(counted) in (1, MAX_BAD_FRAMES)

    async def test_audio_before_the_start_is_nobodys(self, endpoint, desk):
        peer = Peer(endpoint, self.dialect, "call-1")
        peer.speak(*self.both())
        await peer.gone()
        assert desk.starts == []

    async def test_a_frame_that_is_too_large_is_refused(self, endpoint, ears):
        peer = Peer(endpoint, self.dialect, "call-1")
        peer.start()
        peer.say([bytes(64 * 1024 + 4), "x" * 200_000])
        await peer.gone()
        assert all(len(heard) == 0 for heard in ears.heard.values())

    async def test_a_server_without_room_says_so_and_stays_well(self, endpoint, desk):
        desk.is_full = True
        peer = Peer(endpoint, self.dialect, "call-1")
        peer.start()
        await peer.done()
        assert peer.close_code is not None
        desk.is_full = False
        peer = Peer(endpoint, self.dialect, "call-1")
        peer.start()
        peer.end()
        await peer.done()
        assert {reason for _, _, reason in desk.stops} == {"stopped"}

    async def test_two_sockets_cannot_stream_one_call(self, endpoint, desk):
        first, second = (Peer(endpoint, self.dialect, "call-1") for _ in range(2))
        first.start()
        await asyncio.sleep(0)
        second.start()
        await second.done()
        assert second.close_code is not None
        first.end()
        await first.done()
        assert {reason for _, _, reason in desk.stops} == {"stopped"}

    async def test_a_peer_that_is_not_known_gets_nothing(self, desk, ears, metrics):
        endpoint = self.make(desk, ears, metrics, SharedKeyAuthenticator(KEY))
        peer = Peer(endpoint, self.dialect, "call-1")
        peer.start()
        peer.speak(*self.both())
        peer.end()
        await peer.done()
        assert desk.starts == []
        assert peer.close_code == 1008

    async def test_other_pages_may_not_connect(self, endpoint, desk):
        peer = Peer(endpoint, self.dialect, "call-1", headers={"origin": "https://evil.example"})
        await peer.done()
        assert not peer.is_accepted
        assert desk.starts == []

    async def test_shutting_down_hands_the_last_words_on(self, endpoint, desk, ears):
        peer = Peer(endpoint, self.dialect, "call-1")
        customer, agent = self.both()
        peer.start()
        peer.speak(customer, agent)
        async with asyncio.timeout(TIMEOUT_S):
            while len(ears.heard["call-1", "agent"]) < len(agent):
                ears.grown.clear()
                await ears.grown.wait()
        await endpoint.stop()
        await peer.done()
        assert peer.close_code == 1001
        assert {reason for _, _, reason in desk.stops} == {"shutdown"}

    def make_elsewhere(self):
        elsewhere = AllElsewhere()
        anyone = AnonymousAuthenticator("car_service")
        return elsewhere, self.make(elsewhere, Ears(), Metrics(), anyone, elsewhere)

    async def test_a_call_of_another_process_is_carried_there(self):
        elsewhere, endpoint = self.make_elsewhere()
        peer = Peer(endpoint, self.dialect, "call-1")
        customer, agent = self.both()
        peer.start()
        peer.speak(customer, agent)
        peer.end()
        await peer.done()
        assert elsewhere.heard == {"customer": customer.tobytes(), "agent": agent.tobytes()}
        assert {(one.tenant_id, one.conversation_id) for one in elsewhere.starts} == {("car_service", "call-1")}
        assert elsewhere.stops[-1:] == [True]
        assert elsewhere.stops.count(True) == 1, "one that is late would open an ended call anew"
        assert peer.close_code == 1000

    async def test_a_lost_socket_leaves_a_call_of_another_process_waiting(self):
        elsewhere, endpoint = self.make_elsewhere()
        peer = Peer(endpoint, self.dialect, "call-1")
        peer.start()
        peer.speak(*self.both())
        await peer.gone()
        assert set(elsewhere.stops) == {False}

    async def test_a_process_that_leaves_carries_its_peers_until_they_hang_up(self):
        elsewhere, endpoint = self.make_elsewhere()
        peer = Peer(endpoint, self.dialect, "call-1")
        customer, agent = self.both()
        half = len(customer) // 2
        peer.start()
        peer.speak(customer[:half], agent[:half])
        await elsewhere.grown.wait()
        await endpoint.stop()
        carrying = asyncio.create_task(carry_on([endpoint], TIMEOUT_S))
        peer.speak(customer[half:], agent[half:])
        peer.end()
        async with asyncio.timeout(TIMEOUT_S):
            await carrying
        assert peer.close_code == 1000
        assert elsewhere.heard["customer"].endswith(customer[half:].tobytes())
        assert elsewhere.heard["agent"].endswith(agent[half:].tobytes())

    async def test_a_process_that_has_no_more_time_sends_its_peers_away(self):
        elsewhere, endpoint = self.make_elsewhere()
        peer = Peer(endpoint, self.dialect, "call-1")
        peer.start()
        peer.speak(*self.both())
        await elsewhere.grown.wait()
        await endpoint.stop()
        await carry_on([endpoint], 0.0)
        await peer.done()
        assert peer.close_code == 1001
        assert set(elsewhere.stops) == {False}, "the call waits for it"

    @virtual_time
    async def test_an_owner_that_refuses_for_good_is_told_in_the_protocols_own_way(self):
        elsewhere, endpoint = self.make_elsewhere()
        elsewhere.refusal = Refused("not here")
        peer = Peer(endpoint, self.dialect, "call-1")
        peer.start()
        await peer.done(REFUSED_PATIENCE_S + 1)
        assert peer.close_code in (1000, 1008)
        assert elsewhere.starts == []

    @virtual_time
    async def test_when_all_processes_leave_the_peer_is_told_before_long(self):
        elsewhere, endpoint = self.make_elsewhere()
        peer = Peer(endpoint, self.dialect, "call-1")
        peer.start()
        peer.speak(*self.both())
        await elsewhere.grown.wait()
        elsewhere.refusal = Unavailable("nobody answers")
        await endpoint.stop()
        async with asyncio.timeout(LEAVING_PATIENCE_S + 1):
            await carry_on([endpoint], 1000.0)
        assert peer.close_code in (1000, 1013)

    @virtual_time
    async def test_an_owner_that_nobody_reaches_sends_the_peer_back(self):
        elsewhere, endpoint = self.make_elsewhere()
        elsewhere.refusal = Unavailable("nobody answers")
        peer = Peer(endpoint, self.dialect, "call-1")
        peer.start()
        await peer.done(PATIENCE_S + 1)
        assert peer.close_code in (1000, 1013)

    async def test_any_frames_at_all_leave_the_endpoint_well(self, endpoint, desk):
        source = np.random.default_rng(3)
        frames = [*self.dialect.start("call-1"), *self.dialect.end("call-1"), *self.dialect.garbage]
        for _ in range(50):
            peer = Peer(endpoint, self.dialect, "call-1")
            for _ in range(12):
                frame = frames[source.integers(len(frames))]
                if isinstance(frame, str) and source.random() < 0.5:
                    at = source.integers(len(frame) + 1)
                    frame = frame[:at] + chr(source.integers(1, 255)) + frame[at + 1 :]
                peer.say([frame])
            with contextlib.suppress(TimeoutError):
                await peer.gone()
        assert desk.open_sources == []
