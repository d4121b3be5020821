"""Two loaded versions timed against each other: the same batches in turn, and of each the least of several runs.

Whatever else the machine does only ever adds to a run. So the least of runs side by side tells versions apart; two
warm-ups at different moments, or a busy minute in service, do not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from inference.backends.contract import blank_inputs
from inference.plan import Bucket
from inference.service import Service

_PROBES = (Bucket(1, 16), Bucket(8, 16), Bucket(1, 128))
"""A lone row, a fair batch, a long row."""

_REPEATS = 7


@dataclass(frozen=True, slots=True)
class Timing:
    """What one batch took.

    Attributes:
        shape: Of the batch.
        takes_s: Least time of the version in question.
        known_s: Least time of the other one.
    """

    shape: Bucket
    takes_s: float
    known_s: float


def side_by_side(
    candidate: Service, serving: Service, clock: Callable[[], float] = time.perf_counter
) -> tuple[Timing, ...]:
    """Time both on the shapes that both can run; blocks for some hundred milliseconds.

    Raises:
        Exception: Whatever the backend raises.
    """
    timings = []
    for shape in sorted(set(_shapes(candidate, serving)), key=lambda bucket: bucket.padded_tokens):
        least = [float("inf"), float("inf")]
        for _ in range(_REPEATS):
            for side, service in enumerate((candidate, serving)):
                config = service.version.config
                inputs, names = blank_inputs(config, shape), [spec.name for spec in config.outputs]
                started_s = clock()
                service.model.run(inputs, names)
                least[side] = min(least[side], clock() - started_s)
        timings.append(Timing(shape, *least))
    return tuple(timings)


def _shapes(candidate: Service, serving: Service) -> Iterator[Bucket]:
    for probe in _PROBES:
        tokens = min(probe.tokens, candidate.ladder.max_tokens, serving.ladder.max_tokens)
        rows = min(probe.rows, candidate.ladder.max_rows(tokens), serving.ladder.max_rows(tokens))
        fitted = candidate.ladder.fit(rows, tokens)
        # Padded up to a bucket that the other one does not have, it would compare two shapes.
        if serving.ladder.fit(rows, tokens) == fitted:
            yield fitted
