from __future__ import annotations

import gc

from server.heap import settle


def test_what_is_alive_is_not_looked_at_again_and_what_comes_later_is_still_collected() -> None:
    thresholds = gc.get_threshold()
    try:
        settle()
        assert gc.get_freeze_count() > 0
        assert all(new >= old for new, old in zip(gc.get_threshold()[:1], thresholds[:1], strict=True))
        ring: list[object] = []
        ring.append(ring)
        del ring
        assert gc.collect() >= 1
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
