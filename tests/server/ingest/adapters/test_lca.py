import json
import time

import numpy as np
import pytest

from server.auth.fleet_tickets import FleetRedeemer, FleetTickets
from server.auth.identity import Identity
from server.auth.tickets import Tickets
from server.auth.tokens import SharedKeyAuthenticator, issue_token
from server.ingest.adapters.contract import Audio, Begin, Close, End, Handshake
from server.ingest.adapters.lca import PATH, LcaAdapter, LcaSession
from server.wire.errors import BadMessage, Unauthorised
from tests.server.ingest.adapters.conformance import KEY, Conformance, Dialect, Peer

IDENTITY = Identity("acme", "anna", frozenset({"agent"}))
META = {"fromNumber": "+15550100", "toNumber": "+15550199", "agentId": "anna", "shouldRecordCall": False}


def meta(conversation_id, event, **changes):
    return json.dumps(META | {"callId": conversation_id, "samplingRate": 8000, "callEvent": event} | changes)


class LcaDialect(Dialect):
    path = PATH
    garbage = (*Dialect.garbage, meta("bad", "START", samplingRate=100), meta("../..", "START"), b"\1")

    def adapter(self, authenticator):
        return LcaAdapter(authenticator, Tickets())

    def start(self, conversation_id):
        return [meta(conversation_id, "START")]

    def audio(self, conversation_id, index, customer, agent):
        sides = (np.frombuffer(side, "<i2") for side in (customer, agent))
        return [np.stack(list(sides), axis=1).tobytes()]

    def end(self, conversation_id):
        return [meta(conversation_id, "END")]


class TestLca(Conformance):
    dialect = LcaDialect()

    async def test_a_token_in_the_query_or_a_ticket_opens_it(self, desk, ears, metrics):
        endpoint = self.make(desk, ears, metrics, SharedKeyAuthenticator(KEY))
        token = issue_token(KEY, tenant_id="acme", agent_id="anna", roles=("telephony",), ttl_s=60, wall_s=time.time())
        ticket = endpoint.adapter._tickets.issue(IDENTITY, time.monotonic())
        for query in (f"authorization=Bearer%20{token}", f"authorization=Bearer+{token}", f"ticket={ticket}"):
            peer = Peer(endpoint, self.dialect, "call-1", query=query.encode())
            peer.start()
            peer.end()
            await peer.done()
            assert peer.sent == []  # this protocol has no answers
        assert [start[:3] for start in desk.starts] == [("acme", "call-1", "anna")] * 3
        again = Peer(endpoint, self.dialect, "call-2", query=f"ticket={ticket}".encode())
        await again.done()
        assert not again.is_accepted


def test_audio_is_a_stream_that_may_be_cut_anywhere():
    session = LcaSession(IDENTITY)
    session.receive(meta("c", "START"))
    effects = [effect for frame in (b"abc", b"defgh", b"", b"ij") for effect in session.receive(frame)]
    assert effects == [Audio(0, b"abcdefgh")]


def test_what_a_client_leaves_out_is_filled_in():
    (begin,) = LcaSession(IDENTITY).receive("{}")
    assert isinstance(begin, Begin)
    assert begin.agent_id is None
    assert begin.formats[0].sample_rate_hz == 8000


@pytest.mark.parametrize("rate_hz", [8000, 16000, 44100, 48000])
def test_browsers_bring_their_own_rate(rate_hz):
    (begin,) = LcaSession(IDENTITY).receive(meta("c", "START", samplingRate=rate_hz))
    assert begin.formats[0].sample_rate_hz == rate_hz


def test_the_end_is_the_end_and_other_events_are_not():
    session = LcaSession(IDENTITY)
    session.receive(meta("c", "START"))
    assert session.receive(meta("c", "SPEAKER_CHANGE")) == []
    assert session.receive(meta("c", "END")) == [End(), Close(1000)]


def test_a_call_id_that_is_none_is_named():
    with pytest.raises(BadMessage) as caught:
        LcaSession(IDENTITY).receive(meta("a/b", "START"))
    assert caught.value.field == "callId"


async def test_a_ticket_is_good_once_in_all_processes():
    spent = set()

    async def spend(digest):
        is_new = digest not in spent
        spent.add(digest)
        return is_new

    here, there = FleetTickets(), FleetTickets()
    there.secrets = here.secrets
    ticket = here.issue(IDENTITY, time.monotonic())
    handshake = Handshake(PATH, {}, {"ticket": ticket})
    first, second = (LcaAdapter(SharedKeyAuthenticator(KEY), FleetRedeemer(one, spend)) for one in (here, there))
    await first.greet(handshake)
    with pytest.raises(Unauthorised):
        await second.greet(handshake)
