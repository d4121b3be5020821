from typing import get_args

from server.wire.publication import PAYLOADS, Action, Checklist, Gap, Kind, Transcript, kind_of


def test_every_kind_has_one_payload():
    assert set(PAYLOADS) == set(get_args(Kind))
    assert len(set(PAYLOADS.values())) == len(PAYLOADS)


def test_keys_name_the_state():
    transcript = Transcript(
        utterance_id="u1", revision=1, speaker="agent", start_ms=0, end_ms=1, text="hello", is_final=False
    )
    assert (kind_of(transcript), transcript.key()) == ("transcript", "u1")
    assert Gap(from_ms=5, to_ms=None, cause="x", state="open", speaker="agent").key() == "agent/5"
    assert Checklist(revision=1, items=()).key() == ""
    action = Action(id="a-1", revision=1, type="hint", title="t", state="new", priority=5, ttl_ms=1000)
    assert action.key() == "a-1"
