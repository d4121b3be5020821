"""How many examples a property test tries: all in `make test`, a fifth of them in `make check`, which has a minute."""

from __future__ import annotations

import os

ARE_FEW = os.environ.get("TEST_EXAMPLES") == "few"


def examples(count: int) -> int:
    """As many of `count` examples as this run has time for, at least ten."""
    return max(min(count, 10), count // 5) if ARE_FEW else count
