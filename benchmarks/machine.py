"""Who uses the machine while something is measured: the process under test, and others.

On a machine that others use, a time says how long was waited for a core, and CPU seconds say what the work costs.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.integration.running import children

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def busy_s() -> float:
    """CPU seconds that the machine has worked since it started, for anybody."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _, _, irq, softirq, steal = (int(field) for field in fields[:8])
    return (user + nice + system + irq + softirq + steal) / _TICKS_PER_S


def process_s(pid: int) -> float:
    """CPU seconds of a process and of those below it; 0 for one that is gone."""
    total = 0.0
    for number in (pid, *children(pid)):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(f"/proc/{number}/stat").read_text().rsplit(")", 1)[1].split()
            total += (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    return total


@dataclass
class Usage:
    """CPU seconds of a measured block.

    Attributes:
        tested_s: Of the processes that were named, those below them included.
        others_s: Of whoever is neither that nor this process.
        wall_s: Length of the block.
    """

    tested_s: float = 0.0
    others_s: float = 0.0
    wall_s: float = 0.0

    @property
    def is_quiet(self) -> bool:
        """Whether the machine was ours: others took less than a tenth of a core."""
        return self.others_s < 0.1 * self.wall_s

    def __str__(self) -> str:
        return f"others took {self.others_s / self.wall_s:.1f} of {len(os.sched_getaffinity(0))} cores"


@contextlib.contextmanager
def usage_of(*pids: int) -> Iterator[Usage]:
    """Measure a block; the result is filled at its end.

    Args:
        pids: Process under test and whatever else belongs to the measurement, not this one.
    """

    def tested_s() -> float:
        return sum(process_s(pid) for pid in pids)

    usage = Usage()
    busy, own, tested, wall = busy_s(), time.process_time(), tested_s(), time.perf_counter()
    yield usage
    usage.wall_s = time.perf_counter() - wall
    usage.tested_s = tested_s() - tested
    usage.others_s = max(busy_s() - busy - usage.tested_s - (time.process_time() - own), 0.0)
