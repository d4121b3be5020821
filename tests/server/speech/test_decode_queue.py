from __future__ import annotations

from server.speech.decode_queue import DecodeQueue, Job
from server.speech.segmenter import Decode, Purpose


def job(stream: int, segment: int, purpose: Purpose, to_ms: int = 1_000, is_first: bool = False) -> Job:
    return Job(stream, Decode(segment, purpose, 0, to_ms, 0, to_ms), is_first)


def test_finals_go_before_speculation_before_first_words_before_corrections() -> None:
    queue = DecodeQueue()
    jobs = [
        job(1, 0, "interim"),
        job(2, 0, "interim", is_first=True),
        job(3, 0, "speculative"),
        job(4, 0, "final"),
    ]
    for item in jobs:
        queue.put(item)
    assert [queue.pop() for _ in range(4)] == jobs[::-1]
    assert queue.pop() is None


def test_within_a_class_the_oldest_goes_first() -> None:
    queue = DecodeQueue()
    for stream in (3, 1, 2):
        queue.put(job(stream, 0, "interim"))
    queue.put(job(3, 0, "interim", to_ms=2_000))
    popped = [queue.pop() for _ in range(3)]
    assert [item.stream for item in popped if item] == [3, 1, 2]
    assert popped[0] == job(3, 0, "interim", to_ms=2_000), "the newer one takes the place of the older"


def test_a_promoted_speculation_goes_with_the_finals() -> None:
    queue = DecodeQueue()
    queue.put(job(1, 0, "speculative"))
    queue.put(job(2, 0, "speculative"))
    queue.promote(2, 0)
    popped = queue.pop()
    assert popped is not None
    assert (popped.stream, popped.decode.purpose) == (2, "final")


def test_a_final_is_never_dropped_with_its_segment() -> None:
    queue = DecodeQueue()
    queue.put(job(1, 0, "final"))
    queue.drop(1, 0)
    assert len(queue) == 1
    queue.put(job(1, 1, "speculative"))
    queue.drop(1, 1)
    assert len(queue) == 1


def test_a_stream_that_goes_takes_its_jobs_along() -> None:
    queue = DecodeQueue()
    queue.put(job(1, 0, "final"))
    queue.put(job(2, 0, "final"))
    queue.drop_stream(1)
    assert [queue.pop(), queue.pop()] == [job(2, 0, "final"), None]


def test_what_may_not_run_stays() -> None:
    queue = DecodeQueue()
    queue.put(job(1, 0, "interim"))
    queue.put(job(2, 0, "interim", is_first=True))
    popped = queue.pop(lambda item: item.is_first)
    assert popped is not None
    assert popped.stream == 2
    assert queue.pop(lambda item: item.is_first) is None
    assert queue.most_urgent() == job(1, 0, "interim").rank
