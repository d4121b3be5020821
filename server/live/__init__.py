"""One live call: the thin shell that carries values between the pure stages, in order, for that call alone.

    source ─▶ mailbox ─▶ assembler ─▶ transcript ─▶ orchestrator ─▶ annotation ─▶ policy ─▶ action
                                         └───────────── event log and outbox ◀──────────────┘

`LiveCalls` is the desk at which sources open calls; a `LiveCall` is its call's only writer.
"""

from server.live.call import LiveCall
from server.live.calls import LiveCalls
from server.live.stations import Stations

__all__ = ["LiveCall", "LiveCalls", "Stations"]
