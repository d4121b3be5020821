from hypothesis import given
from hypothesis import strategies as st

from server.ingest.arrivals import KEPT_MS, Arrivals


def test_stamps_name_the_block_that_holds_the_instant():
    arrivals = Arrivals()
    for index in range(10):
        arrivals.add(20, arrived_ms=1000 + 20 * (index + 1), sent_ms=1001 + 20 * (index + 1))
    stamps = arrivals.stamps(at_ms=90, received_ms=1500)
    assert (stamps.t0, stamps.t1, stamps.t2, stamps.t3, stamps.frame_ms) == (1090, 1100, 1101, 1500, 20)


def test_jitter_is_network_time():
    arrivals = Arrivals()
    arrivals.add(20, arrived_ms=1020, sent_ms=1020)
    arrivals.add(20, arrived_ms=1100, sent_ms=1100)  # 60 ms late
    stamps = arrivals.stamps(at_ms=40, received_ms=1300)
    assert stamps.t1 - stamps.t0 == 60


def test_a_resumed_source_starts_at_its_own_time():
    arrivals = Arrivals(start_ms=5000)
    arrivals.add(20, arrived_ms=9020, sent_ms=9020)
    assert arrivals.end_ms == 5020
    assert arrivals.stamps(5020, 9100).t0 == 9020


def test_before_any_audio_only_the_result_is_stamped():
    stamps = Arrivals().stamps(100, 7.0)
    assert (stamps.t0, stamps.t1, stamps.t3) == (None, None, 7.0)


@given(st.lists(st.tuples(st.integers(10, 100), st.integers(0, 300)), min_size=1, max_size=100), st.data())
def test_stamps_are_monotonic(blocks, data):
    arrivals, spoken_ms = Arrivals(), 0
    arrived_ms = 0.0
    for duration_ms, jitter_ms in blocks:
        spoken_ms += duration_ms
        arrived_ms = max(arrived_ms, 1_000_000 + spoken_ms + jitter_ms)
        arrivals.add(duration_ms, arrived_ms, arrived_ms + 0.1)
    stamps = arrivals.stamps(data.draw(st.integers(0, spoken_ms)), arrived_ms + 1)
    assert stamps.t0 <= stamps.t1 <= stamps.t2 <= stamps.t3


def test_old_blocks_are_forgotten():
    arrivals = Arrivals()
    for index in range(10_000):
        arrivals.add(20, 20.0 * (index + 1), 20.0 * (index + 1))
    assert len(arrivals._blocks) <= KEPT_MS / 20 + 1
