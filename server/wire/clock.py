"""Times. Three clocks, never mixed:

- audio time, integer milliseconds on the call's own linear clock (`start_ms`, `end_ms`);
- monotonic seconds inside the process (`now_s`, deadlines, durations), handed to pure cores as a value;
- wall time, milliseconds since the Unix epoch with three decimals, only in the stamps of a publication.

Source: OPERATIONS d5.
"""

from __future__ import annotations

import time

import msgspec


def wall_ms() -> float:
    """Wall time now, in milliseconds since the Unix epoch, to the microsecond."""
    return time.time_ns() // 1000 / 1000


class Stamps(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """When one utterance revision passed each station; wall time in ms, absent where it did not pass.

    `t9` (socket write) is taken by the feed's metrics and `t10` (painted) comes back in the receipt, so a
    publication carries at most `t0` to `t8`.

    Attributes:
        t0: End of the last word, audio time mapped to wall clock by the gateway's first-sample stamp.
        t1: The block that holds it arrived at the gateway.
        t2: That block was sent to the recogniser.
        t3: The recogniser's result was received.
        t4: The transcript was published.
        t5: The graph run started.
        t6: The first model batch with this row started.
        t7: The annotation or action was ready.
        t8: It was published.
        frame_ms: Length of the audio frames of this source, the `audio_capture` stage.
    """

    t0: float | None = None
    t1: float | None = None
    t2: float | None = None
    t3: float | None = None
    t4: float | None = None
    t5: float | None = None
    t6: float | None = None
    t7: float | None = None
    t8: float | None = None
    frame_ms: float | None = None


STAGES = (
    "audio_capture",
    "network",
    "asr",
    "transcript",
    "orchestrator",
    "inference",
    "publish",
    "socket",
    "render",
)
"""The requirement's stages, in order; the keys of `graphs/budget.toml`, of the metrics and of the waterfall."""


def stage_durations_ms(stamps: Stamps) -> dict[str, float]:
    """Durations of the server-side stages that these stamps cover, in milliseconds.

    A stage whose stamps are missing is left out. Negative spans (a clock that stepped) are returned as they
    are: hiding them would hide the step.

    Returns:
        Stage name to milliseconds, in the order of `STAGES`; `socket` and `render` are the client's to add.
    """
    durations: dict[str, float] = {}
    t0, t1, t3, t4, t6, t7 = stamps.t0, stamps.t1, stamps.t3, stamps.t4, stamps.t6, stamps.t7
    if stamps.frame_ms is not None:
        durations["audio_capture"] = stamps.frame_ms
    if t0 is not None and t1 is not None:
        durations["network"] = round(t1 - t0, 3)
    if t1 is not None and t3 is not None:
        durations["asr"] = round(t3 - t1, 3)
    if t3 is not None and t4 is not None:
        durations["transcript"] = round(t4 - t3, 3)
    if t4 is not None and t6 is not None:
        durations["orchestrator"] = round(t6 - t4, 3)
    if t6 is not None and t7 is not None:
        durations["inference"] = round(t7 - t6, 3)
    if t7 is not None and stamps.t8 is not None:
        durations["publish"] = round(stamps.t8 - t7, 3)
    return durations
