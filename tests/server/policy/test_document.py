from __future__ import annotations

import subprocess
import sys

from tests.server.policy.encoder import ROOT

LOAD = """
from pathlib import Path
from server.policy.loading import load_policy
load_policy(Path("graphs/policies/retail_bank.yaml"))
"""


def test_the_interpreter_survives_a_policy() -> None:
    # msgspec 0.22 can crash at exit where a struct's field has a `Meta(pattern=...)`, about every third time.
    for _ in range(4):
        subprocess.run([sys.executable, "-c", LOAD], cwd=ROOT, check=True, timeout=60)
