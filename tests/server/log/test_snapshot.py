from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from server.log.channel import Channel
from server.log.contract import Entry
from server.log.snapshot import States, compacted
from tests.server.log.events import AGENT, CALL, action, annotation, call, folded, notice, offsets, transcript

EVENTS = st.lists(
    st.one_of(
        st.builds(transcript, st.sampled_from("ab"), st.integers(1, 9), final=st.booleans()),
        st.builds(annotation, st.sampled_from("ab"), st.integers(1, 9), st.sampled_from(["intent", "sentiment"])),
        st.builds(
            action, st.sampled_from("ab"), st.integers(1, 9), st.sampled_from(["new", "update", "expire", "retract"])
        ),
        st.builds(call, st.sampled_from(["started", "held", "ended"])),
        st.builds(notice, st.sampled_from("ab")),
    ),
    max_size=30,
)


def log(events: list[object], channel: Channel | None = None) -> list[Entry]:
    channel = channel or Channel(CALL, "e")
    return list(channel.append(events, 0.0, 1.0))  # type: ignore[arg-type]


@given(EVENTS)
def test_a_reader_of_the_snapshot_sees_what_a_reader_of_the_log_sees(events: list[object]) -> None:
    entries = log(events)
    snapshot = compacted(entries)
    assert folded(snapshot) == folded(entries)
    assert offsets(snapshot) == sorted(set(offsets(snapshot)))
    assert len(snapshot) == len(folded(entries))


@given(EVENTS, st.data())
def test_compacting_in_parts_changes_nothing(events: list[object], data: st.DataObject) -> None:
    entries = log(events)
    states = States()
    at = 0
    while at < len(entries):
        size = data.draw(st.integers(1, len(entries) - at))
        states.fold(entries[at : at + size])
        at += size
    assert states.entries() == compacted(entries)
    cut = data.draw(st.integers(0, len(entries)))
    assert compacted((*compacted(entries[:cut]), *entries[cut:])) == compacted(entries)


def test_an_ended_call_stays_on_its_own_channel_and_leaves_its_agents() -> None:
    events = [call("started", "c1"), call("started", "c2"), call("ended", "c1")]
    assert offsets(compacted(log(list(events)))) == [2, 3]
    assert offsets(compacted(log(list(events), Channel(AGENT, "e")))) == [2]


def test_an_action_can_come_back() -> None:
    entries = log([action("a", 1), action("a", 2, "expire"), action("a", 3, "new")])
    assert offsets(compacted(entries)) == [3]
