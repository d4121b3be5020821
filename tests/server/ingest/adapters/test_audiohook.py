import asyncio
import json
import uuid

import numpy as np
import pytest

from server.auth.identity import Identity
from server.auth.tokens import AnonymousAuthenticator, SharedKeyAuthenticator
from server.config.settings import AudioHookAccount, AudioHookSettings
from server.ingest.adapters.audiohook import NO_CONVERSATION, PATH, AudioHookAdapter, AudioHookSession
from server.ingest.adapters.contract import Audio, Begin
from server.wire.errors import BadMessage, Unauthorised
from tests.server.ingest.adapters.conformance import KEY, Conformance, Dialect, Peer

IDENTITY = Identity("acme", None, frozenset({"telephony"}))
SESSION = "30b0e395-84d3-4570-ac13-9a62d8f514c0"
ORGANIZATION = "d7934305-0972-4844-938e-9060eef73d05"
STEREO = {"type": "audio", "format": "PCMU", "channels": ["external", "internal"], "rate": 8000}
MONO = {"type": "audio", "format": "PCMU", "channels": ["external"], "rate": 8000}


def message(kind, seq, parameters=None, session=SESSION):
    body = {"version": "2", "id": session, "type": kind, "seq": seq, "serverseq": 0, "position": "PT0S"}
    return json.dumps(body | {"parameters": parameters or {}})


def open_message(conversation_id, seq=1, media=(STEREO, MONO), **changes):
    parameters = {
        "organizationId": ORGANIZATION,
        "conversationId": conversation_id,
        "participant": {"id": str(uuid.uuid4()), "ani": "+15550100", "aniName": "", "dnis": "+15550199"},
        "media": list(media),
        "language": "en-US",
    }
    return message("open", seq, parameters | changes)


class AudioHookDialect(Dialect):
    path = PATH
    encoding = "mulaw"
    closes_on_garbage = True
    garbage = (
        *Dialect.garbage,
        b"\1",
        message("open", 9),
        message("nope", 2),
        message("ping", 2, session="another"),
        open_message("bad", media=[]),
    )

    def __init__(self, accounts=()):
        self._settings = AudioHookSettings(accounts=accounts)

    def adapter(self, authenticator):
        return AudioHookAdapter(self._settings, authenticator, wall_s=lambda: 1641013205.0)

    def start(self, conversation_id):
        return [open_message(conversation_id)]

    def audio(self, conversation_id, index, customer, agent):
        return [np.stack([np.frombuffer(side, np.uint8) for side in (customer, agent)], axis=1).tobytes()]

    def end(self, conversation_id):
        return [message("close", 2, {"reason": "end"})]


class TestAudioHook(Conformance):
    dialect = AudioHookDialect()

    async def test_a_peer_that_keeps_being_wrong_is_cut_off(self, endpoint):
        peer = Peer(endpoint, self.dialect, "call-1")
        peer.say(["{"])
        await peer.done()
        assert (peer.sent[0]["type"], peer.close_code) == ("disconnect", 1008)

    async def test_it_is_answered_before_any_work(self, desk, ears, metrics):
        """`opened` leaves while the desk still thinks; Genesys drops a call that waits."""
        endpoint = self.make(desk, ears, metrics, AnonymousAuthenticator("car_service"))
        thinking = asyncio.Event()
        slow, desk.open = desk.open, None

        async def think(*args, **options):
            await thinking.wait()
            return await slow(*args, **options)

        desk.open = think
        peer = Peer(endpoint, self.dialect, "call-1")
        started_s = asyncio.get_running_loop().time()
        peer.start()
        async with asyncio.timeout(0.2):
            await peer.answered.wait()
        assert asyncio.get_running_loop().time() - started_s < 0.2
        assert peer.sent[0]["type"] == "opened"
        assert peer.sent[0]["parameters"] == {"media": [STEREO]}
        thinking.set()
        peer.end()
        await peer.done()
        assert [answer["type"] for answer in peer.sent] == ["opened", "closed"]
        assert [(answer["seq"], answer["clientseq"]) for answer in peer.sent] == [(1, 1), (2, 2)]

    async def test_genesys_own_example_of_a_signature_opens_it(self, desk, ears, metrics):
        """Headers of the protocol reference's example, whose secret and signature are public."""
        account = AudioHookAccount(
            api_key="SGVsbG8sIEkgYW0gdGhlIEFQSSBrZXkh",
            client_secret="TXlTdXBlclNlY3JldEtleVRlbGxOby0xITJAMyM0JDU=",
            tenant_id="acme",
        )
        covered = " ".join(
            f'"{name}"'
            for name in (
                "@request-target",
                "@authority",
                "audiohook-organization-id",
                "audiohook-session-id",
                "audiohook-correlation-id",
                "x-api-key",
            )
        )
        headers = {
            "host": "audiohook.example.com",
            "audiohook-organization-id": ORGANIZATION,
            "audiohook-session-id": SESSION,
            "audiohook-correlation-id": "e160e428-53e2-487c-977d-96989bf5c99d",
            "x-api-key": "SGVsbG8sIEkgYW0gdGhlIEFQSSBrZXkh",
            "signature": "sig1=:NZBwyBHRRyRoeLqy1IzOa9VYBuI8TgMFt2GRDkDuJh4=:",
            "signature-input": f"sig1=({covered});"
            'keyid="SGVsbG8sIEkgYW0gdGhlIEFQSSBrZXkh";nonce="VGhpc0lzQVVuaXF1ZU5vbmNl";alg="hmac-sha256";'
            "created=1641013200;expires=3282026430",
        }
        self.dialect = AudioHookDialect((account,))
        self.dialect.path = "/api/v1/voicebiometrics/ws"  # the example's
        endpoint = self.make(desk, ears, metrics, SharedKeyAuthenticator(KEY))
        peer = Peer(endpoint, self.dialect, "call-1", headers=headers)
        peer.start()
        peer.end()
        await peer.done()
        assert [start[:2] for start in desk.starts] == [("acme", "call-1")]
        for changed in ({"audiohook-session-id": "x"}, {"signature": "sig1=:AAAA:"}, {"signature": ""}):
            peer = Peer(endpoint, self.dialect, "call-1", headers=headers | changed)
            await peer.done()
            assert not peer.is_accepted


def opened(**changes):
    session = AudioHookSession(IDENTITY, None, None)
    return session, session.receive(open_message("c1", **changes))


def test_the_widest_audio_that_we_take_is_chosen():
    wide = {"type": "audio", "format": "L16", "channels": ["external", "internal"], "rate": 8000}
    _, (reply, begin) = opened(media=[{"type": "video"}, MONO, wide, STEREO | {"rate": 16000}])
    assert json.loads(reply.text)["parameters"]["media"] == [wide]
    assert isinstance(begin, Begin)
    assert begin.formats[0].roles == ("customer", "agent")
    assert begin.language == "en-US"


def test_a_probe_is_answered_and_is_no_call():
    session = AudioHookSession(IDENTITY, None, None)
    (reply,) = session.receive(open_message(NO_CONVERSATION))
    assert json.loads(reply.text)["type"] == "opened"
    assert session.receive(b"\xff\xff") == []


def test_ping_and_update_are_answered():
    session, _ = opened()
    assert json.loads(session.receive(message("ping", 2))[0].text)["type"] == "pong"
    assert json.loads(session.receive(message("update", 3, {"language": "es-US"}))[0].text)["type"] == "updated"


def test_discarded_audio_has_passed():
    session, _ = opened()
    effects = session.receive(message("discarded", 2, {"start": "PT1S", "discarded": "PT1.5S"}))
    assert [(e.source, len(e.frame)) for e in effects if isinstance(e, Audio)] == [(0, 16000), (0, 8000)]


@pytest.mark.parametrize(
    ("frame", "field"),
    [
        (message("ping", 3), "seq"),
        (message("ping", 2, session="other"), "id"),
        (message("open", 2, {}), "organizationId"),
    ],
)
def test_what_breaks_the_protocol_is_named(frame, field):
    session = AudioHookSession(IDENTITY, None, None)
    session.receive(message("ping", 1))
    with pytest.raises(BadMessage) as caught:
        session.receive(frame)
    assert caught.value.field == field


def test_the_signed_organization_is_the_one_that_opens():
    session = AudioHookSession(IDENTITY, "another", None)
    with pytest.raises(Unauthorised):
        session.receive(open_message("c1"))
