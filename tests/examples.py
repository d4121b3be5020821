"""How many examples a property test tries: all in `make test`, a fifth of them in `make check`, which has a minute."""

from __future__ import annotations

import os

IS_QUICK = os.environ.get("CUELINE_TESTS") == "quick"


def examples(count: int) -> int:
    """As many of `count` examples as this run has time for, at least ten."""
    return max(min(count, 10), count // 5) if IS_QUICK else count
