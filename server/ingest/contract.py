"""What the doors need from behind them: a desk that opens calls, and calls that take what was heard.

`server.live` implements it; the doors never learn what happens to a transcript.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from server.speech.contract import SpeechEvent
from server.wire.clock import Stamps
from server.wire.ids import AgentId, ConversationId, Speaker, TenantId
from server.wire.ingest import UtteranceIn


class Source(Protocol):
    """One connected source of a live call. Used from the event loop, by one socket."""

    @property
    def keyterms(self) -> tuple[str, ...]:
        """Words and names that a recogniser should know."""

    def resume_ms(self) -> int:
        """Audio before this is safely stored; the source goes on from here."""

    def now_ms(self) -> int:
        """Audio time of this moment, as far as it is known: a source that has nothing of before goes on from here."""

    async def on_speech(self, speaker: Speaker, event: SpeechEvent, stamps: Stamps) -> None:
        """Take a recogniser's event. Returns when the call has room, not when it is worked."""

    async def on_utterance(self, utterance: UtteranceIn, stamps: Stamps) -> Awaitable[None]:
        """Take an utterance; the result is done once it is in store or outbox."""

    def stored(self, covered_ms: int) -> Awaitable[None]:
        """Done once everything said before `covered_ms` on this source is in store or outbox."""

    def assign(self, agent_id: AgentId) -> None:
        """An agent took the call, or took it over from another."""

    async def stop(self, *, call_ended: bool = True, reason: str = "stopped", end_ms: float = 0.0) -> None:
        """The source is over; with its last source the call ends. Returns when its last words are stored.

        Args:
            call_ended: Otherwise the call waits for another source.
            reason: Why.
            end_ms: Audio time after its last sample.

        Raises:
            CuelineError: They are not safe yet; the source has left all the same.
        """

    def lost(self, end_ms: float = 0.0) -> None:
        """The source vanished without `stop`; the call ends after a grace period unless a source comes back.

        Args:
            end_ms: Audio time after its last sample.
        """


class Desk(Protocol):
    """Opens sources on live calls."""

    async def open(
        self,
        tenant_id: TenantId,
        conversation_id: ConversationId,
        *,
        agent_id: AgentId | None,
        language: str | None,
        roles: tuple[Speaker, ...],
        customer_id: str | None = None,
    ) -> Source:
        """Open or join a call.

        Args:
            tenant_id: Owner.
            conversation_id: The call.
            agent_id: Whose call it is.
            language: Expected language.
            roles: Audio roles that this source carries; empty for a transcript source.
            customer_id: The telephony side's name for the customer.

        Raises:
            Busy: A role is being sent by another source right now.
            Overloaded: No room for another call.
            NotFound: The tenant has no policy.
        """
