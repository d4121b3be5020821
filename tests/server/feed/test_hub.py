import pytest

from server.feed.hub import Hub
from server.feed.outgoing import Outgoing
from server.metrics import Metrics
from tests.server.feed.harness import CALL, MemoryLog, transcript


class Reader:
    def __init__(self, *, is_broken: bool = False) -> None:
        self.offsets: list[int] = []
        self.is_broken = is_broken
        self.is_lost = False

    def deliver(self, publications: Outgoing) -> None:
        if self.is_broken:
            raise RuntimeError("broken")
        self.offsets += [entry.position.offset for entry in publications.entries]

    def lose(self) -> None:
        self.is_lost = True


def test_one_follower_for_any_number_of_readers() -> None:
    log = MemoryLog()
    hub = Hub(log, Metrics())
    first, second = Reader(), Reader()
    hub.join(CALL, first)
    hub.join(CALL, second)
    assert len(log.sinks[CALL]) == 1
    log.append_now(CALL, transcript(1))
    hub.leave(CALL, first)
    hub.leave(CALL, first)
    log.append_now(CALL, transcript(2))
    hub.leave(CALL, second)
    log.append_now(CALL, transcript(3))
    assert (first.offsets, second.offsets) == ([1], [1, 2])
    assert len(hub) == len(log.sinks[CALL]) == 0


def test_a_broken_reader_is_told_and_holds_up_nobody(caplog: pytest.LogCaptureFixture) -> None:
    log = MemoryLog()
    hub = Hub(log, Metrics())
    broken, healthy = Reader(is_broken=True), Reader()
    hub.join(CALL, broken)
    hub.join(CALL, healthy)
    log.append_now(CALL, transcript(1))
    assert broken.is_lost
    assert healthy.offsets == [1]
    assert "a feed reader failed" in caplog.text


def test_how_long_it_took_is_observed() -> None:
    log, metrics = MemoryLog(), Metrics()
    hub = Hub(log, metrics)
    hub.join(CALL, Reader())
    log.append_now(CALL, transcript(1))
    assert b"cueline_feed_deliver_seconds_count 1.0" in metrics.render()
