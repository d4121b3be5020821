import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.auth.identity import Identity
from server.feed.session import Close, Command, Effect, Limits, Redeem, Send, Session, Subscribe, Unsubscribe
from server.wire import feed
from server.wire.errors import Forbidden, NotFound, Unauthorised
from server.wire.feed import CloseCode
from server.wire.ids import AgentId, TenantId
from server.wire.ingest import ErrorMessage

AGENT = Identity(tenant_id=TenantId("t"), agent_id=AgentId("a1"), roles=frozenset({"agent"}))
WALL_MS = 1_700_000_000_000.0


def frame(type: str, **fields: object) -> str:
    return json.dumps({"type": type, **fields})


def ready(now_s: float = 0.0, identity: Identity = AGENT) -> Session:
    session = Session(now_s)
    assert session.receive(frame("auth", ticket="x"), now_s, WALL_MS) == [Redeem("x")]
    session.authenticated(identity, now_s, WALL_MS)
    return session


def subscribed(*channels: str) -> Session:
    session = ready()
    for ch in channels:
        assert session.receive(frame("sub", ch=ch), 0.0, WALL_MS) == [Subscribe(ch, None, None)]
        assert session.subscribed(ch)
    return session


def error_of(effects: list[Effect]) -> ErrorMessage:
    (effect,) = effects
    assert isinstance(effect, Send)
    assert isinstance(effect.message, ErrorMessage)
    return effect.message


def test_a_good_ticket_is_answered_with_who_you_are_and_the_clock() -> None:
    session = Session(0.0)
    assert session.receive(frame("auth", ticket="x"), 0.1, WALL_MS) == [Redeem("x")]
    (effect,) = session.authenticated(AGENT, 0.2, WALL_MS)
    assert effect == Send(feed.Authenticated(tenant_id="t", agent_id="a1", server_ms=WALL_MS))


def test_a_bad_ticket_closes_3500() -> None:
    session = Session(0.0)
    session.receive(frame("auth", ticket="x"), 0.1, WALL_MS)
    assert session.not_authenticated(Unauthorised("no"), 0.1) == [Close(CloseCode.BAD_TOKEN, "no")]
    assert session.receive(frame("ping"), 0.2, WALL_MS) == []


@pytest.mark.parametrize("first", [frame("sub", ch="call:1"), "{", "", frame("auth"), b"\x81", frame("nonsense")])
def test_a_first_frame_that_is_not_auth_closes_3501(first: str | bytes) -> None:
    (effect,) = Session(0.0).receive(first, 0.1, WALL_MS)
    assert isinstance(effect, Close)
    assert effect.code is CloseCode.BAD_REQUEST


def test_no_ticket_in_five_seconds_closes_3500() -> None:
    session = Session(10.0)
    assert session.deadline_s == 15.0
    assert session.on_time(14.9, WALL_MS) == []
    assert session.on_time(15.0, WALL_MS) == [Close(CloseCode.BAD_TOKEN, "no ticket in time")]
    assert session.deadline_s == float("inf")


def test_a_redemption_that_hangs_is_closed_too() -> None:
    session = Session(0.0)
    session.receive(frame("auth", ticket="x"), 0.1, WALL_MS)
    assert error_of(session.receive(frame("ping"), 0.2, WALL_MS)).code == "unauthorised"
    (effect,) = session.on_time(5.0, WALL_MS)
    assert isinstance(effect, Close)
    assert session.authenticated(AGENT, 5.1, WALL_MS) == []


def test_pings_every_15_s_and_closes_3012_without_a_pong_in_8_s() -> None:
    session = ready()
    assert session.deadline_s == 15.0
    assert session.on_time(15.0, WALL_MS) == [Send(feed.Ping(server_ms=WALL_MS))]
    assert session.deadline_s == 23.0
    assert session.receive(frame("pong"), 20.0, WALL_MS) == []
    assert session.deadline_s == 30.0
    assert session.on_time(30.0, WALL_MS) == [Send(feed.Ping(server_ms=WALL_MS))]
    assert session.on_time(37.9, WALL_MS) == []
    assert session.on_time(38.0, WALL_MS) == [Close(CloseCode.NO_PONG, "no pong")]


def test_a_ping_is_answered_with_the_clock() -> None:
    assert ready().receive(frame("ping"), 1.0, WALL_MS) == [Send(feed.Pong(server_ms=WALL_MS))]


def test_an_identity_that_ends_closes_3005_unless_it_is_renewed() -> None:
    def until(expires_s: float) -> Identity:
        return Identity(AGENT.tenant_id, AGENT.agent_id, AGENT.roles, expires_s=expires_s)

    session = ready(identity=until(10.0))
    assert session.deadline_s == 10.0
    assert session.receive(frame("auth", ticket="y"), 9.0, WALL_MS) == [Redeem("y")]
    session.authenticated(until(12.0), 9.0, WALL_MS)
    assert session.on_time(10.0, WALL_MS) == []
    assert session.on_time(12.0, WALL_MS) == [Close(CloseCode.EXPIRED, "the identity has expired")]


def test_a_socket_cannot_be_handed_to_someone_else() -> None:
    session = ready()
    other = Identity(AGENT.tenant_id, AgentId("a2"), AGENT.roles)
    assert error_of(session.authenticated(other, 1.0, WALL_MS)).code == "forbidden"
    assert session.identity == AGENT
    assert error_of(session.not_authenticated(Unauthorised("no"), 1.0)).code == "unauthorised"
    assert session.identity == AGENT


def test_sub_and_unsub() -> None:
    session = ready()
    effects = session.receive(frame("sub", ch="call:1", ep="e", off=7), 1.0, WALL_MS)
    assert effects == [Subscribe("call:1", "e", 7)]
    assert session.subscribed("call:1")
    assert error_of(session.receive(frame("sub", ch="call:1"), 1.0, WALL_MS)).code == "bad_request"
    assert session.receive(frame("unsub", ch="call:1"), 1.0, WALL_MS) == [
        Unsubscribe("call:1"),
        Send(feed.Unsubscribed(ch="call:1")),
    ]
    assert error_of(session.receive(frame("unsub", ch="call:1"), 1.0, WALL_MS)).code == "not_found"


def test_a_refused_subscription_names_its_channel_and_frees_its_place() -> None:
    session = ready()
    session.receive(frame("sub", ch="call:1"), 1.0, WALL_MS)
    error = error_of(session.not_subscribed("call:1", Forbidden("no"), 1.0))
    assert (error.code, error.ch) == ("forbidden", "call:1")
    assert session.receive(frame("sub", ch="call:1"), 1.0, WALL_MS) == [Subscribe("call:1", None, None)]


def test_a_subscription_revoked_while_it_was_made_is_undone() -> None:
    session = ready()
    session.receive(frame("sub", ch="call:1"), 1.0, WALL_MS)
    session.revoke("call:1", "transferred")
    assert not session.subscribed("call:1")


def test_a_position_is_both_epoch_and_offset() -> None:
    assert error_of(ready().receive(frame("sub", ch="call:1", off=3), 1.0, WALL_MS)).field == "ep"
    assert error_of(ready().receive(frame("sub", ch="call:1", ep="e"), 1.0, WALL_MS)).field == "off"


def test_twenty_subscriptions_and_no_more() -> None:
    session = subscribed(*(f"call:{number}" for number in range(20)))
    error = error_of(session.receive(frame("sub", ch="call:20"), 0.0, WALL_MS))
    assert (error.code, error.retryable, error.ch) == ("too_many_requests", True, "call:20")


def test_a_taken_away_channel_is_told() -> None:
    session = subscribed("call:1")
    assert session.revoke("call:1", "transferred") == [
        Unsubscribe("call:1"),
        Send(feed.Unsubscribed(ch="call:1", reason="transferred")),
    ]
    assert session.revoke("call:1", "transferred") == []


def test_commands_need_a_subscription() -> None:
    session = subscribed("call:1", "agent:a1")
    (effect,) = session.receive(frame("receipt", id="x", event="used"), 0.0, WALL_MS)
    assert isinstance(effect, Command)
    assert (effect.ch, effect.message) == ("call:1", feed.Receipt(id="x", event="used"))
    (effect,) = session.receive(frame("ask", ch="call:1", text="how?"), 0.0, WALL_MS)
    assert isinstance(effect, Command)
    assert error_of(session.receive(frame("say", ch="call:2", text="hi"), 0.0, WALL_MS)).code == "forbidden"
    assert error_of(session.refuse(NotFound("no such action"), "call:1")).ch == "call:1"


def test_a_receipt_of_one_of_two_calls_must_name_it() -> None:
    session = subscribed("call:1", "call:2")
    assert error_of(session.receive(frame("receipt", id="x", event="used"), 0.0, WALL_MS)).field == "ch"


@pytest.mark.parametrize(
    ("bad", "code", "field"),
    [
        ("{", "bad_message", None),
        ("[]", "bad_message", None),
        ("\ud800", "bad_message", None),
        (frame("nonsense"), "bad_message", "type"),
        (frame("sub"), "bad_message", "ch"),
        (frame("sub", ch=3), "bad_message", "ch"),
        (frame("sub", ch="call:../etc"), "bad_message", "ch"),
        (frame("receipt", id="x", event="eaten"), "bad_message", "event"),
        (frame("ask", ch="call:1", text="x" * 2001), "bad_message", "text"),
        (frame("ask", ch="call:1", text="  "), "bad_message", "text"),
        (frame("ping", pad="x" * 70_000), "too_large", None),
        ('{"type":"ping","pad":"' + "é" * 33_000 + '"}', "too_large", None),
        (b'{"type":"ping"}', "bad_message", None),
    ],
)
def test_a_bad_frame_is_answered_and_the_socket_lives_on(bad: str | bytes, code: str, field: str | None) -> None:
    session = ready()
    error = error_of(session.receive(bad, 1.0, WALL_MS))
    assert (error.code, error.field) == (code, field)
    assert session.receive(frame("ping"), 1.0, WALL_MS) == [Send(feed.Pong(server_ms=WALL_MS))]


def test_who_keeps_sending_bad_frames_is_closed_3501() -> None:
    session = ready()
    effects = [session.receive("{", 1.0, WALL_MS) for _ in range(21)]
    assert effects[-1] == [Close(CloseCode.BAD_REQUEST, "too many bad messages")]
    patient = ready()
    for second in range(1, 200):
        assert error_of(patient.receive("{", float(second), WALL_MS)).code == "bad_message"


def test_fifty_messages_a_second() -> None:
    session = ready()
    for _ in range(49):
        assert session.receive(frame("ping"), 0.0, WALL_MS)
    assert error_of(session.receive(frame("ping"), 0.0, WALL_MS)).code == "too_many_requests"
    assert session.receive(frame("ping"), 0.1, WALL_MS) == [Send(feed.Pong(server_ms=WALL_MS))]


def test_msgpack_takes_binary_frames_only() -> None:
    session = Session(0.0, is_binary=True)
    assert session.receive(msgspec.msgpack.encode(feed.Auth(ticket="x")), 0.0, WALL_MS) == [Redeem("x")]
    session.authenticated(AGENT, 0.0, WALL_MS)
    assert error_of(session.receive(frame("ping"), 0.0, WALL_MS)).code == "bad_message"
    assert error_of(session.receive(b"\xc1", 0.0, WALL_MS)).code == "bad_message"


def test_a_ticket_is_not_printed() -> None:
    assert "secret" not in repr(Redeem("secret"))


@given(st.lists(st.one_of(st.binary(max_size=40), st.text(max_size=40)), max_size=30))
def test_no_frame_breaks_a_session(frames: list[str | bytes]) -> None:
    session = Session(0.0, limits=Limits(max_offences=5))
    session.receive(frame("auth", ticket="x"), 0.0, WALL_MS)
    session.authenticated(AGENT, 0.0, WALL_MS)
    closes = 0
    for number, data in enumerate(frames):
        effects = session.receive(data, number / 100, WALL_MS)
        assert not (closes and effects)
        closes += sum(isinstance(effect, Close) for effect in effects)
    assert closes <= 1
    assert session.is_closed == bool(closes)
