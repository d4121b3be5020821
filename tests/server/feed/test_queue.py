from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from server.feed.queue import QueueLimits, SendQueue

LIMITS = QueueLimits(max_bytes=1000)


@dataclass(frozen=True)
class Frame:
    number: int
    size_bytes: int
    state: tuple[str, str, str]
    is_interim: bool


def push(queue: SendQueue[Frame], frame: Frame) -> bool:
    return queue.push(frame, frame.size_bytes, frame.state, is_interim=frame.is_interim)


def drain(queue: SendQueue[Frame]) -> list[Frame]:
    frames = []
    while (frame := queue.pop()) is not None:
        frames.append(frame)
    return frames


def interim(number: int, size_bytes: int = 100, utterance: str = "u1") -> Frame:
    return Frame(number, size_bytes, ("call:1", "transcript", utterance), True)


def final(number: int, size_bytes: int = 100, utterance: str = "u1") -> Frame:
    return Frame(number, size_bytes, ("call:1", "transcript", utterance), False)


def test_keeps_everything_in_order_while_there_is_room() -> None:
    queue: SendQueue[Frame] = SendQueue(LIMITS)
    frames = [interim(1), interim(2), final(3), interim(4, utterance="u2")]
    assert all(push(queue, frame) for frame in frames)
    assert drain(queue) == frames
    assert queue.size_bytes == 0


def test_above_half_only_the_newest_interim_of_an_utterance_stays() -> None:
    queue: SendQueue[Frame] = SendQueue(LIMITS)
    for frame in [interim(1), interim(2), interim(3, utterance="u2"), interim(4, utterance="u2"), interim(5)]:
        assert push(queue, frame)
    assert queue.num_coalesced == 0
    assert push(queue, interim(6))
    assert drain(queue) == [interim(4, utterance="u2"), interim(6)]
    assert queue.num_coalesced == 4


def test_above_half_a_final_takes_the_place_of_its_interims() -> None:
    queue: SendQueue[Frame] = SendQueue(LIMITS)
    for frame in [interim(1, 300), final(2, 300, "u2"), final(3, 300)]:
        assert push(queue, frame)
    assert drain(queue) == [final(2, 300, "u2"), final(3, 300)]


def test_above_nine_tenths_all_interims_are_dropped() -> None:
    queue: SendQueue[Frame] = SendQueue(LIMITS)
    assert push(queue, final(1, 800))
    assert push(queue, interim(2, 50, "u2"))
    assert push(queue, interim(3, 100, "u3"))
    assert drain(queue) == [final(1, 800)]
    assert queue.num_dropped == 2


def test_a_queue_of_what_must_not_be_dropped_fills_and_stays_full() -> None:
    queue: SendQueue[Frame] = SendQueue(LIMITS)
    assert push(queue, final(1, 600))
    assert not push(queue, final(2, 600))
    assert queue.is_full
    assert not push(queue, final(3, 1))
    assert not queue.push_control(final(4), 1)


def test_a_frame_larger_than_the_queue_has_a_way_out() -> None:
    queue: SendQueue[Frame] = SendQueue(LIMITS)
    assert push(queue, final(1, 5000))
    assert drain(queue) == [final(1, 5000)]


def test_answers_overtake_and_a_recovery_comes_before_live() -> None:
    queue: SendQueue[Frame] = SendQueue(LIMITS)
    push(queue, final(3))
    queue.push_replay("call:1", [final(1, 10_000), final(2, 10_000)])
    queue.push_control(final(0), 10)
    assert queue.size_bytes == 110
    assert len(queue) == 4
    assert [frame.number for frame in drain(queue)] == [0, 1, 2, 3]


def test_what_waits_of_a_channel_left_is_forgotten() -> None:
    queue: SendQueue[Frame] = SendQueue(LIMITS)
    other = Frame(9, 10, ("call:2", "transcript", "u1"), True)
    queue.push_replay("call:1", [final(1)])
    queue.push_replay("call:2", [other])
    push(queue, interim(2))
    push(queue, final(3))
    push(queue, other)
    queue.drop_channel("call:1")
    assert queue.size_bytes == 10
    assert drain(queue) == [other, other]


def test_a_cleared_queue_is_empty() -> None:
    queue: SendQueue[Frame] = SendQueue(LIMITS)
    push(queue, interim(1))
    queue.push_control(final(2), 10)
    queue.push_replay("call:1", [final(3)])
    queue.clear()
    assert (len(queue), queue.size_bytes, queue.pop()) == (0, 0, None)


steps = st.lists(
    st.one_of(
        st.none(),  # the socket takes one
        st.tuples(
            st.integers(1, 400),
            st.sampled_from(["transcript", "annotation", "action"]),
            st.sampled_from(["a", "b", "c"]),
            st.booleans(),
        ),
    ),
    max_size=120,
)


@given(steps)
def test_promises_hold_for_any_reader(script: list[tuple[int, str, str, bool] | None]) -> None:
    queue: SendQueue[Frame] = SendQueue(LIMITS)
    pushed: list[Frame] = []
    read: list[Frame] = []
    is_cut = False
    for number, step in enumerate(script):
        if step is None:
            frame = queue.pop()
            if frame is not None:
                read.append(frame)
            continue
        size_bytes, kind, key, is_interim = step
        frame = Frame(number, size_bytes, ("call:1", kind, key), is_interim and kind != "action")
        if not push(queue, frame):
            is_cut = True
            break
        pushed.append(frame)
        assert queue.size_bytes <= LIMITS.max_bytes
    read += drain(queue)
    assert queue.size_bytes == 0
    assert [frame.number for frame in read] == sorted(frame.number for frame in read)  # order kept
    assert [frame for frame in pushed if not frame.is_interim] == [frame for frame in read if not frame.is_interim]
    lost = len(pushed) - len(read)
    assert lost == queue.num_coalesced + queue.num_dropped  # and each loss is counted
    assert is_cut == queue.is_full
    if sum(frame.size_bytes for frame in pushed) <= LIMITS.max_bytes * LIMITS.coalesce_at:
        assert lost == 0
