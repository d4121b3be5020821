"""Transcript in, annotations out: which plan a call runs on, and one engine request per utterance revision.

The requirement's Orchestrator. Policies are compiled once into a `Guide` (plan and prototypes) and cached; a call is
pinned to the guide it began with.
"""

from server.orchestrator.guide import Guide
from server.orchestrator.orchestrator import Orchestrator, owner_of
from server.orchestrator.turns import TurnState

__all__ = ["Guide", "Orchestrator", "TurnState", "owner_of"]
