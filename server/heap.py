"""The garbage collector, kept out of the way of the hot path. Reference counting frees nearly everything without it."""

from __future__ import annotations

import gc

_THRESHOLDS = (5000, 5, 20)
"""Allocations before a young collection, young ones before one of middle age, those before a full one. Python's 700, 10
and 10 took 0.13 ms of the event loop an utterance and up to 35 ms at once; these 0.06 ms and 12 ms (150 utterances a
second for eight seconds, on two cores that others used as well)."""


def settle() -> None:
    """Take what is alive now, at the end of the start, out of the collector's sight, and collect seldom from now on.

    It lives as long as the process: a full collection over it was seen to cost 100 ms, more than the whole hot path.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
