"""What a batch costs: `seconds = a·padded_tokens + b`, fitted at warm-up and kept current in service.

The batching policy uses it to refuse rows that cannot be ready in time, to choose the batch whose tokens come cheapest,
and to bound the optional wait.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_WARMUP_WEIGHT = 8.0
"""Warm-up points count as much as this many batches for ever, so that equal-sized traffic cannot tilt the line."""

_FORGET = 0.98
"""Weight kept per batch: about the last fifty batches speak."""

_OUTLIER = 3.0
"""An observation counts at most this many times its prediction: a descheduled thread is not the model's cost,
yet a machine that became slower is still followed within a few batches."""


_LEAST_FIXED_TOKENS = 4.0
"""No batch costs less beside its tokens than four tokens do: the hand-over alone takes that, a CPU pass takes eleven. A
fit below comes from noise, and would make batches of single rows look free."""


@dataclass(slots=True)
class _Sums:
    """Weighted sums of a least-squares line."""

    w: float = 0.0
    n: float = 0.0
    nn: float = 0.0
    t: float = 0.0
    nt: float = 0.0

    def add(self, n: float, t: float, weight: float = 1.0) -> None:
        self.w += weight
        self.n += weight * n
        self.nn += weight * n * n
        self.t += weight * t
        self.nt += weight * n * t

    def scale(self, factor: float) -> None:
        self.w *= factor
        self.n *= factor
        self.nn *= factor
        self.t *= factor
        self.nt *= factor


class CostModel:
    """A line through what batches took. Not thread-safe: the engine's lock guards it.

    Source: BentoML `src/bentoml/_internal/marshal/dispatcher.py` has the idea; the fit here is least squares with
    forgetting over a fixed share of the warm-up points.
    """

    __slots__ = ("_recent", "_warmup", "a_s", "b_s")

    def __init__(self, a_s: float = 0.0, b_s: float = 0.0) -> None:
        self.a_s = a_s
        """Seconds a padded token."""
        self.b_s = b_s
        """Seconds a batch costs whatever its size."""
        self._warmup = _Sums()
        self._recent = _Sums()

    def calibrate(self, points: Iterable[tuple[int, float]]) -> None:
        """Start again from warm-up measurements.

        Args:
            points: Padded tokens and seconds of each measured batch.
        """
        listed = list(points)
        self._warmup, self._recent = _Sums(), _Sums()
        for padded_tokens, duration_s in listed:
            self._warmup.add(padded_tokens, duration_s, _WARMUP_WEIGHT / len(listed))
        self._fit()

    def observe(self, padded_tokens: int, duration_s: float) -> None:
        """Learn from a batch that ran in service."""
        if self._recent.w + self._warmup.w > 0.0:
            duration_s = min(duration_s, _OUTLIER * self.predict_s(padded_tokens))
        self._recent.scale(_FORGET)
        self._recent.add(padded_tokens, duration_s)
        self._fit()

    def predict_s(self, padded_tokens: int) -> float:
        """Seconds a batch of this many padded tokens will take."""
        return self.a_s * padded_tokens + self.b_s

    def _fit(self) -> None:
        p, r = self._warmup, self._recent
        w, n, nn, t, nt = p.w + r.w, p.n + r.n, p.nn + r.nn, p.t + r.t, p.nt + r.nt
        spread = w * nn - n * n
        if spread > 1e-9 * w * nn:
            self.a_s = max((w * nt - n * t) / spread, 0.0)
            self.b_s = (t - self.a_s * n) / w
            if self.b_s >= _LEAST_FIXED_TOKENS * self.a_s:
                return
        # Equal sizes, or a fixed cost below the least: the slope alone is fitted.
        self.a_s = t / (n + _LEAST_FIXED_TOKENS * w) if n > 0.0 else 0.0
        self.b_s = _LEAST_FIXED_TOKENS * self.a_s
