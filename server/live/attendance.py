"""The alarm for a call that nobody attends: its agent is not signed in anywhere, or it has none.

    live calls, who is signed in, now ──▶ Attendance ──▶ calls that became unattended or attended ──▶ notices

The notice goes to the call's channel and to the agent's, where a supervisor of the team sees it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Protocol

from server.log.contract import ChannelKey, Event, EventLog
from server.log.presence import Presence
from server.metrics import Metrics
from server.wire.clock import Stamps
from server.wire.errors import CuelineError
from server.wire.ids import AgentId, ConversationId, TenantId, agent_channel, call_channel
from server.wire.publication import Notice

log = logging.getLogger(__name__)

UNATTENDED_AFTER_S = 10.0
"""A page that is loaded anew, a laptop that changes networks: away for so long is normal."""
LOOK_EVERY_S = 2.0

Call = tuple[TenantId, ConversationId]


class Attendance:
    """Which calls are attended. Pure.

    Args:
        after_s: A call is unattended when its agent was away for so long.
    """

    def __init__(self, after_s: float = UNATTENDED_AFTER_S) -> None:
        self._after_s = after_s
        self._alone_since_s: dict[Call, float] = {}
        self._alarmed: set[Call] = set()

    @property
    def num_unattended(self) -> int:
        """Calls under alarm."""
        return len(self._alarmed)

    def look(self, calls: Mapping[Call, bool], now_s: float) -> list[tuple[Call, bool]]:
        """Calls that changed, with whether they are attended now.

        Args:
            calls: Every live call, and whether its agent is there.
            now_s: Monotonic.
        """
        changed: list[tuple[Call, bool]] = []
        for call in [call for call in self._alone_since_s if call not in calls]:
            del self._alone_since_s[call]
            self._alarmed.discard(call)
        for call, is_attended in calls.items():
            if is_attended:
                self._alone_since_s.pop(call, None)
                if call in self._alarmed:
                    self._alarmed.discard(call)
                    changed.append((call, True))
            elif now_s - self._alone_since_s.setdefault(call, now_s) >= self._after_s and call not in self._alarmed:
                self._alarmed.add(call)
                changed.append((call, False))
        return changed


class LiveAgents(Protocol):
    """The live calls."""

    def agents(self) -> Mapping[Call, AgentId | None]:
        """Whose each live call of this process is."""


async def watch(calls: LiveAgents, presence: Presence, event_log: EventLog, metrics: Metrics) -> None:
    """Look at all live calls of this process, for ever, and raise and clear alarms."""
    attendance = Attendance()
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        agents = dict(calls.agents())
        try:
            present = {tenant: await presence.signed_in(tenant) for tenant in {tenant for tenant, _ in agents}}
            attended = {call: agent in present[call[0]] for call, agent in agents.items()}
            for call, is_attended in attendance.look(attended, loop.time()):
                await _tell(event_log, call, agents[call], is_attended=is_attended)
        except CuelineError as error:
            log.warning("who attends which call cannot be known at present", extra={"reason": error.code})
        metrics.unattended_calls.set(attendance.num_unattended)


async def _tell(event_log: EventLog, call: Call, agent_id: AgentId | None, *, is_attended: bool) -> None:
    tenant_id, conversation_id = call
    notice = Notice(
        code="unattended_call",
        message=f"Call {conversation_id} {'is attended again' if is_attended else 'has no agent at a screen'}.",
        severity="info" if is_attended else "error",
    )
    for channel in _channels(conversation_id, agent_id):
        await event_log.append(ChannelKey(tenant_id, channel), (Event(notice, Stamps()),))


def _channels(conversation_id: ConversationId, agent_id: AgentId | None) -> Iterable[str]:
    yield call_channel(conversation_id)
    if agent_id is not None:
        yield agent_channel(agent_id)
