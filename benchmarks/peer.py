"""A server of a benchmark's own, in a process of its own, so that what it costs is not taken for the product's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from server.config.settings import PROJECT_ROOT


@contextmanager
def peer(module: str, *words: str) -> Iterator[tuple[str, int]]:
    """Run a module with arguments that prints its URL once it listens; its URL and process id."""
    command = [sys.executable, "-m", module, *words]
    process = subprocess.Popen(command, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip(), process.pid
    finally:
        process.terminate()
        process.wait(timeout=30)
        process.stdout.close()
