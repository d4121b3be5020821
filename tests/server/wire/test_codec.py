import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.wire.codec import audio_decoder, error_message, feed_decoder, transcript_decoder
from server.wire.errors import BadMessage, ConfigError, Overloaded
from server.wire.feed import Sub
from server.wire.ingest import AudioStart, Stop, UtteranceIn

START = {
    "type": "start",
    "conversation_id": "c1",
    "encoding": "linear16",
    "sample_rate_hz": 8000,
    "layout": "stereo",
    "roles": ["customer", "agent"],
}
UTTERANCE = {
    "type": "utterance",
    "utterance_id": "u1",
    "revision": 1,
    "speaker": "customer",
    "start_ms": 0,
    "end_ms": 900,
    "text": "my card number is secret",
    "is_final": True,
}


def encoded(message: dict, **changes) -> bytes:
    return msgspec.json.encode({k: v for k, v in (message | changes).items() if v is not ...})


def test_decodes_each_union_by_type():
    assert isinstance(audio_decoder.json(encoded(START)), AudioStart)
    assert isinstance(audio_decoder.json(b'{"type":"stop"}'), Stop)
    assert isinstance(transcript_decoder.json(encoded(UTTERANCE)), UtteranceIn)
    assert feed_decoder.json(b'{"type":"sub","ch":"call:x","ep":"e","off":7}') == Sub("call:x", "e", 7)


def test_unknown_fields_are_ignored():
    assert isinstance(audio_decoder.json(encoded(START, colour="blue")), AudioStart)


@pytest.mark.parametrize(
    ("decoder", "frame", "field"),
    [
        (audio_decoder, b"{", None),
        (audio_decoder, b"\xff\xfe", None),
        (audio_decoder, b"[]", None),
        (audio_decoder, b'{"type":"nope"}', "type"),
        (audio_decoder, encoded(START, conversation_id=...), "conversation_id"),
        (audio_decoder, encoded(START, conversation_id="a b"), "conversation_id"),
        (audio_decoder, encoded(START, conversation_id="ends\n"), "conversation_id"),
        (audio_decoder, encoded(START, language="en\n"), "language"),
        (audio_decoder, b'{"type":"start","x":' + b"[" * 30_000 + b"]" * 30_000 + b"}", None),
        (audio_decoder, encoded(START, sample_rate_hz=7999), "sample_rate_hz"),
        (audio_decoder, encoded(START, sample_rate_hz="8000"), "sample_rate_hz"),
        (audio_decoder, encoded(START, encoding="mp3"), "encoding"),
        (audio_decoder, encoded(START, roles=["customer", "robot"]), "roles[1]"),
        (audio_decoder, encoded(START, roles=[]), "roles"),
        (transcript_decoder, encoded(UTTERANCE, speaker="ivr"), "speaker"),
        (transcript_decoder, encoded(UTTERANCE, start_ms=-1), "start_ms"),
        (transcript_decoder, encoded(UTTERANCE, revision=1.5), "revision"),
        (transcript_decoder, encoded(UTTERANCE, is_final=...), "is_final"),
        (transcript_decoder, encoded(UTTERANCE, text="x" * 100_001), "text"),
        (feed_decoder, b'{"type":"sub","ch":"other:1"}', "ch"),
        (feed_decoder, b'{"type":"sub","ch":"call:x\\n"}', "ch"),
    ],
)
def test_errors_name_the_field(decoder, frame, field):
    with pytest.raises(BadMessage) as caught:
        decoder.json(frame)
    assert caught.value.field == field


def test_a_wrong_form_is_explained_without_an_expression():
    for frame, told in (
        (encoded(START, conversation_id="a b"), "letters, digits"),
        (encoded(START, language="x"), "es-MX"),
    ):
        with pytest.raises(BadMessage, match=told) as caught:
            audio_decoder.json(frame)
        assert "regex" not in caught.value.message


def test_deep_nesting_is_a_bad_message_in_msgpack_too():
    with pytest.raises(BadMessage, match="nested too deeply"):
        feed_decoder.msgpack(msgspec.msgpack.encode({"type": "sub", "x": None})[:-1] + b"\x91" * 60_000)


@given(
    st.dictionaries(
        st.sampled_from(sorted(UTTERANCE)), st.one_of(st.none(), st.text(), st.integers(), st.lists(st.text()))
    )
)
def test_errors_never_repeat_a_value(changes):
    secret = "four five three two"
    frame = msgspec.json.encode(UTTERANCE | {"text": secret} | changes)
    try:
        transcript_decoder.json(frame)
        told = ""
    except BadMessage as error:
        told = error.message
    values = [value for value in changes.values() if isinstance(value, str) and len(value) > 3]
    assert not [value for value in (secret, *values) if value in told]


def test_an_enumeration_does_not_repeat_a_value():
    with pytest.raises(BadMessage, match=r"not one of those allowed \(one of: agent, customer\)$"):
        transcript_decoder.json(encoded(UTTERANCE, speaker="my secret"))


def test_clients_are_told_known_errors_and_nothing_of_others():
    known = error_message(Overloaded("no room", field="x"))
    assert (known.code, known.message, known.retryable, known.field) == ("overloaded", "no room", True, "x")
    other = error_message(KeyError("customer words"))
    assert (other.code, other.message) == ("internal", "internal error")


def test_config_errors_print_their_path():
    assert str(ConfigError("is bad", field="auth.shared_key")) == "auth.shared_key: is bad"
