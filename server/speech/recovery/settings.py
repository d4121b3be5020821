"""Numbers of the recovery. Source: OPERATIONS d3."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoverySettings:
    """When to try again, and how much to keep.

    Attributes:
        ring_s: Audio of one side kept in memory until it is recognised.
        spool_s: Audio kept encrypted on disk beyond the ring; 0: none. What is older than both is lost, and told so.
        spool_folder: Where spool files live; None: the system's temporary folder.
        max_attempts: Connects to one recogniser in a row before it rests.
        backoff_base_s: First range of the full jitter; doubles with each attempt.
        backoff_cap_s: Longest range.
        give_up_after_s: Time for one recogniser's attempts together before the next one is asked.
        connect_timeout_s: Longest that one connect may take.
        young_s: A connection that lived shorter than this failed quickly.
        max_quick_failures: So many quick failures in a row, and the recogniser rests as if it had refused.
        rest_s: How long a recogniser rests while another one can be asked.
        inline_replay_s: A backlog up to this is sent in one burst before live audio goes on.
        catch_up_s: A longer one as well, if the recogniser is so fast that live is reached within this time.
        overload_pause_s: Pause before audio is offered again to a recogniser that is full.
        close_limit_s: After the last audio, how long what is still missing is waited for.
    """

    ring_s: float = 30.0
    spool_s: float = 600.0
    spool_folder: str | None = None
    max_attempts: int = 5
    backoff_base_s: float = 0.1
    backoff_cap_s: float = 1.5
    give_up_after_s: float = 5.0
    connect_timeout_s: float = 2.0
    young_s: float = 5.0
    max_quick_failures: int = 3
    rest_s: float = 15.0
    inline_replay_s: float = 3.0
    catch_up_s: float = 5.0
    overload_pause_s: float = 0.5
    close_limit_s: float = 15.0

    def inline_limit_s(self, replay_speed: float) -> float:
        """Longest backlog that is sent before live goes on, at so many times real time."""
        return min(self.ring_s, max(self.inline_replay_s, self.catch_up_s * (replay_speed - 1)))
