from __future__ import annotations

from server.log.channel import Channel
from server.log.frames import Contents, Outline
from tests.server.log.events import CALL, offsets, transcript


def channel(num_entries: int, written: int | None = None) -> Channel:
    made = Channel(CALL, "e")
    for number in range(num_entries):
        made.append([transcript(f"u{number % 3}", number + 1)], 0.0, 1.0)
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


def test_what_a_file_held_gives_the_same_channel() -> None:
    subject = channel(20)
    again = Channel.of_file(CALL, Outline("e", 10, 20, True, 0, ()))
    again.unlock(Contents(10, tuple(subject.tail), 0), 10**6)
    assert offsets(again.snapshot()) == offsets(subject.snapshot())
    assert (again.epoch, again.last, again.written, again.tail_start) == ("e", 20, 20, 10)


def test_what_came_while_it_was_locked_stands_behind_what_the_file_held() -> None:
    before = channel(12)
    subject = Channel.of_file(CALL, Outline("e", 0, 12, False, 0, ()))
    assert subject.epoch != "e"
    for number in range(12, 30):
        subject.append([transcript(f"u{number % 3}", number + 1)], 0.0, 1.0)
    assert subject.after(11) is None
    subject.queued = subject.written = 30
    subject.fold(1000)
    assert 12 < subject.tail_start < 30
    # Part of what came since is in the file as well, and part of that still in memory.
    in_file = (*before.tail, *channel(30).tail[12:28])
    subject.unlock(Contents(0, in_file, 0, b"of the file"), 10**6)
    assert offsets(subject.tail) == list(range(1, 31))
    assert {entry.position.epoch for entry in subject.tail} == {subject.epoch}
    assert offsets(subject.snapshot()) == [28, 29, 30]
    assert subject.memory == b"of the file"


def test_what_was_remembered_since_is_newer_than_the_file() -> None:
    subject = Channel.of_file(CALL, Outline("e", 0, 1, True, 0, ()))
    subject.memory = b"since"
    subject.unlock(Contents(0, tuple(channel(1).tail), 0, b"of the file"), 10**6)
    assert subject.memory == b"since"


def test_states_are_never_called_a_complete_tail() -> None:
    """The disk was away as well: what is between the file and the tail is known by its states alone."""
    subject = Channel.of_file(CALL, Outline("e", 0, 5, True, 0, ()))
    for number in range(5, 25):
        subject.append([transcript(f"u{number % 3}", number + 1)], 0.0, 1.0)
    subject.fold(1000)
    start = subject.tail_start
    assert subject.floor == start > 5
    subject.unlock(Contents(0, tuple(channel(5).tail), 0), 10**6)
    assert (subject.floor, subject.tail_start) == (start, start)
    assert offsets(subject.snapshot()) == [23, 24, 25]
