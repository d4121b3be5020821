"""Knowledge assist: what is asked in a live call becomes a card with its source.

    utterances, annotations ─Questions─▶ search now, confirm, withdraw ─▶ Library (threads) ─▶ Answer
        ─answers─▶ Finding ─▶ the call's policy: a card like any other

The shell around it is `Assistant`, one a call. Nothing here delays an annotation: a search is a task of its own, its
products run in a thread, and its result comes back through the call's mailbox.
"""

from server.knowledge.assistant import Assistant, AssistState, Found, Gone, Unanswered
from server.knowledge.library import Library
from server.knowledge.writer import Writer

__all__ = ["AssistState", "Assistant", "Found", "Gone", "Library", "Unanswered", "Writer"]
