"""The order in which waiting decodes are run. Pure.

Final before speculative before interim; within a class first come, first served, except that the first interim of a
segment goes before repeated ones: the agent waits for the first word, not for the fifth correction. A newer decode
of the same segment replaces a waiting one of lower or the same rank, so a segment waits at most once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from server.speech.segmenter import Decode

_RANK = {"final": 0, "speculative": 1, "interim": 3}
_FIRST_INTERIM_RANK = 2


@dataclass(frozen=True, slots=True)
class Job:
    """A decode that waits. `is_first` marks the first one of its segment."""

    stream: int
    decode: Decode
    is_first: bool = False

    @property
    def rank(self) -> int:
        """Lower runs earlier."""
        if self.decode.purpose == "interim" and self.is_first:
            return _FIRST_INTERIM_RANK
        return _RANK[self.decode.purpose]


class DecodeQueue:
    """Waiting jobs of one worker, at most one a segment. Bounded by the number of open segments. Not thread-safe."""

    def __init__(self) -> None:
        self._jobs: dict[tuple[int, int], Job] = {}

    def __len__(self) -> int:
        return len(self._jobs)

    def put(self, job: Job) -> None:
        """Queue a decode; it replaces the waiting one of its segment, and takes its place in the line."""
        self._jobs[job.stream, job.decode.segment] = job

    def promote(self, stream: int, segment: int) -> None:
        """Make the waiting speculative decode of a segment a final one, if it waits."""
        job = self._jobs.get((stream, segment))
        if job is not None and job.decode.purpose == "speculative":
            d = job.decode
            final = Decode(d.segment, "final", d.from_ms, d.to_ms, d.start_ms, d.end_ms)
            self._jobs[stream, segment] = Job(stream, final)

    def drop(self, stream: int, segment: int) -> None:
        """Forget the waiting speculative or interim decode of a segment, if one waits."""
        job = self._jobs.get((stream, segment))
        if job is not None and job.decode.purpose != "final":
            del self._jobs[stream, segment]

    def drop_stream(self, stream: int) -> None:
        """Forget all that a stream waits for."""
        for key in [key for key in self._jobs if key[0] == stream]:
            del self._jobs[key]

    def most_urgent(self) -> int | None:
        """Rank of the job that would be popped."""
        return min((job.rank for job in self._jobs.values()), default=None)

    def pop(self, may_run: Callable[[Job], bool] = lambda job: True) -> Job | None:
        """Take the most urgent job among those that `may_run` admits."""
        admitted = [(job.rank, index, key) for index, (key, job) in enumerate(self._jobs.items()) if may_run(job)]
        return self._jobs.pop(min(admitted)[2]) if admitted else None
