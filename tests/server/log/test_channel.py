from __future__ import annotations

from server.log.channel import Channel
from tests.server.log.events import CALL, offsets, transcript


def channel(num_entries: int, written: int | None = None) -> Channel:
    made = Channel(CALL, "e")
    for number in range(num_entries):
        made.append(transcript(f"u{number % 3}", number + 1), 0.0, 1.0)
    made.queued = made.written = num_entries if written is None else written
    return made


def test_folding_keeps_every_state_and_half_of_the_tail() -> None:
    subject = channel(20)
    before = subject.snapshot()
    entry_bytes = subject.tail_bytes // 20
    subject.fold(10 * entry_bytes)
    assert 3 * entry_bytes < subject.tail_bytes <= 5 * entry_bytes + 20
    assert subject.snapshot() == before
    assert subject.after(subject.tail_start) == tuple(subject.tail)
    assert subject.after(subject.tail_start - 1) is None
    assert subject.floor == 0


def test_what_the_disk_does_not_have_stays() -> None:
    subject = channel(20, written=5)
    subject.queued = 20
    subject.fold(1)
    assert (subject.tail_start, subject.floor) == (5, 0)


def test_when_the_writer_refuses_memory_is_bounded_and_the_floor_tells() -> None:
    subject = channel(20, written=5)
    before = subject.snapshot()
    subject.fold(1000)
    assert subject.tail_bytes <= 1000
    assert subject.floor == subject.tail_start > 5
    assert subject.snapshot() == before


def test_restoring_gives_the_same_channel() -> None:
    subject = channel(20)
    again = Channel(CALL, "e", floor=10)
    again.restore([entry for entry in subject.tail if entry.position.offset > 7], 10**6)
    assert offsets(again.snapshot()) == offsets(subject.snapshot())
    assert (again.last, again.written, again.tail_start) == (20, 20, 10)
