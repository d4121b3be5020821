"""The ladder of shapes that a model runs: how a batch of rows rounds up to it. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from inference.plan import Bucket


class Ladder:
    """The (rows, tokens) buckets of a model, and how shapes round up to them."""

    __slots__ = ("_exact", "_most_rows", "buckets", "max_tokens")

    def __init__(self, buckets: Sequence[Bucket], *, exact: bool) -> None:
        """Order the buckets.

        Args:
            buckets: At least one.
            exact: The backend runs any shape inside a bucket (CPU); otherwise shapes are padded up to one.
        """
        if not buckets:
            raise ValueError("a ladder needs at least one bucket")
        self.buckets = tuple(sorted(buckets, key=lambda bucket: (bucket.padded_tokens, bucket.tokens)))
        self.max_tokens = max(bucket.tokens for bucket in buckets)
        self._exact = exact
        self._most_rows = [0] * (self.max_tokens + 1)
        for bucket in self.buckets:
            for tokens in range(bucket.tokens + 1):
                self._most_rows[tokens] = max(self._most_rows[tokens], bucket.rows)

    def max_rows(self, tokens: int) -> int:
        """Most rows that fit a bucket of at least this many tokens; 0 where none is long enough."""
        return self._most_rows[tokens] if tokens <= self.max_tokens else 0

    def fit(self, rows: int, tokens: int) -> Bucket:
        """Shape to run: the exact one, or the cheapest bucket that holds it.

        Raises:
            ValueError: If no bucket holds it.
        """
        if rows > self.max_rows(tokens):
            raise ValueError(f"no bucket holds {rows} rows of {tokens} tokens")
        if self._exact:
            return Bucket(rows, tokens)
        return next(bucket for bucket in self.buckets if bucket.rows >= rows and bucket.tokens >= tokens)
