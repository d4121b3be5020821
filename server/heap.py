"""The garbage collector, kept out of the way of the hot path. Reference counting frees nearly everything without it."""

from __future__ import annotations

import gc

_THRESHOLDS = (5000, 5, 20)
"""Allocations before a young collection, young ones before one of middle age, those before a full one. Python's 700, 10
and 10 cost 0.13 ms of the event loop an utterance and up to 35 ms at once; with these the loop needs a tenth less CPU
(medians of five alternating runs, 150 utterances a second)."""


def settle() -> None:
    """Take what is alive now, at the end of the start, out of the collector's sight, and collect seldom from now on.

    It lives as long as the process: a full collection over it was seen to cost 100 ms, more than the whole hot path.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
