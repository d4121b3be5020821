import base64
import json
import time

import pytest

from server.auth.tokens import AnonymousAuthenticator, SharedKeyAuthenticator, issue_token
from server.config.settings import TwilioAccount, TwilioSettings
from server.ingest.adapters.contract import Audio, Begin
from server.ingest.adapters.twilio import PATH, SILENCE, TwilioAdapter, TwilioSession, signature
from server.wire.errors import BadAudio
from tests.server.ingest.adapters.conformance import KEY, Conformance, Dialect, Peer

ACCOUNT = TwilioAccount(auth_token="12345678901234567890", tenant_id="acme")


def start(conversation_id, tracks=("inbound", "outbound"), /, **parameters):
    body = {
        "accountSid": "AC0",
        "streamSid": "MZ0",
        "callSid": conversation_id,
        "tracks": list(tracks),
        "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1},
        "customParameters": parameters,
    }
    return json.dumps({"event": "start", "sequenceNumber": "1", "start": body, "streamSid": "MZ0"})


def media(track, at_ms, payload):
    body = {"track": track, "chunk": "2", "timestamp": str(at_ms), "payload": base64.b64encode(payload).decode()}
    return json.dumps({"event": "media", "sequenceNumber": "3", "media": body, "streamSid": "MZ0"})


class TwilioDialect(Dialect):
    path = PATH
    encoding = "mulaw"
    garbage = (
        *Dialect.garbage,
        b"\1\2",
        '{"event":"media","media":{"track":"inbound","timestamp":"x","payload":"AAAA"}}',
        '{"event":"media","media":{"track":"inbound","timestamp":"0","payload":"!"}}',
        media("inbound", 10**9, b"\1"),
        start("bad", ["sideways"]),
    )

    def __init__(self, accounts=()):
        self._settings = TwilioSettings(accounts=accounts)

    def adapter(self, authenticator):
        return TwilioAdapter(self._settings, authenticator)

    def start(self, conversation_id):
        return ['{"event":"connected","protocol":"Call","version":"1.0.0"}', start(conversation_id)]

    def audio(self, conversation_id, index, customer, agent):
        return [media("inbound", index * 20, customer), media("outbound", index * 20, agent)]

    def end(self, conversation_id):
        return [json.dumps({"event": "stop", "sequenceNumber": "5", "stop": {"callSid": conversation_id}})]


class TestTwilio(Conformance):
    dialect = TwilioDialect()

    async def test_a_signed_request_is_its_accounts(self, desk, ears, metrics):
        self.dialect = TwilioDialect((ACCOUNT,))
        endpoint = self.make(desk, ears, metrics, SharedKeyAuthenticator(KEY))
        good = signature(ACCOUNT.auth_token, f"wss://cueline.example{PATH}")
        for sent, is_accepted in ((good, True), (good[:-4] + "AAA=", False), ("", False)):
            peer = Peer(endpoint, self.dialect, "call-1", headers={"x-twilio-signature": sent})
            peer.start()
            peer.end()
            await peer.done()
            assert peer.is_accepted == is_accepted
        assert {start[:2] for start in desk.starts} == {("acme", "call-1")}

    async def test_a_token_as_parameter_opens_it(self, desk, ears, metrics):
        endpoint = self.make(desk, ears, metrics, SharedKeyAuthenticator(KEY))
        token = issue_token(KEY, tenant_id="acme", agent_id=None, roles=("telephony",), ttl_s=60, wall_s=time.time())
        peer = Peer(endpoint, self.dialect, "call-1")
        peer.say([start("CA1", token=token, conversation_id="mine", agent_id="anna", language="es")])
        peer.end()
        await peer.done()
        assert {begun[:4] for begun in desk.starts} == {("acme", "mine", "anna", "es")}


def session(*tracks, **parameters):
    begun = TwilioSession(None, AnonymousAuthenticator("car_service"))
    (begin,) = begun.receive(start("CA1", tracks or ("inbound", "outbound"), **parameters))
    assert isinstance(begin, Begin)
    return begun, begin


def test_a_signature_is_the_urls_hmac():
    # RFC 2202, test case 2 of HMAC-SHA1, in Twilio's base64.
    expected = base64.b64encode(bytes.fromhex("effcdf6ae5eb2fa2d27416d5f184df9c259a7c79")).decode()
    assert signature("Jefe", "what do ya want for nothing?") == expected


def test_the_inbound_track_may_be_the_agents():
    assert [f.roles for f in session()[1].formats] == [("customer",), ("agent",)]
    assert [f.roles for f in session(inbound_role="agent")[1].formats] == [("agent",), ("customer",)]
    assert [f.roles for f in session("inbound")[1].formats] == [("customer",)]


def test_a_hole_is_silence():
    begun, _ = session()
    begun.receive(media("inbound", 0, b"\1" * 160))
    assert begun.receive(media("inbound", 1520, b"\2" * 160)) == [
        Audio(0, SILENCE * 8000),
        Audio(0, SILENCE * 4000),
        Audio(0, b"\2" * 160),
    ]


def test_inexact_times_are_no_hole():
    begun, _ = session()
    for at_ms in (0, 35, 22, 80):
        assert len(begun.receive(media("inbound", at_ms, b"\1" * 160))) == 1


def test_a_silent_track_keeps_up():
    begun, _ = session()
    effects = [e for index in range(200) for e in begun.receive(media("inbound", index * 20, b"\1" * 160))]
    assert sum(len(e.frame) for e in effects if e.source == 1) == (200 * 20 - 2000) * 8


def test_a_track_that_was_not_announced_is_refused():
    begun, _ = session("inbound")
    with pytest.raises(BadAudio):
        begun.receive(media("outbound", 0, b"\1"))
