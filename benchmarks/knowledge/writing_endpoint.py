"""An OpenAI-compatible endpoint that writes what the passages of its prompt say, at a model's pace.

    python -m benchmarks.knowledge.writing_endpoint      prints its URL

Its sentences are the passages' with a lead of their own: they pass, and the encoder has not seen them.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
from collections.abc import Sequence
from typing import Any

from retrieval.highlight import sentences
from server.simulators.chat_completions import ChatCompletionsSimulator, Script

FIRST_TOKEN_S = 0.15
"""The requirement's."""
TOKEN_S = 0.004
"""250 tokens a second: a hosted model that is meant for live use."""
MAX_TOKENS = 44
"""About 40 are written: sentences are taken whole, and one that would not fit is passed over."""

_LEADS = ("So", "And")
_TOKEN = re.compile(r"\s*(?:\w{1,8}|[^\w\s])")


def tokens(text: str) -> tuple[str, ...]:
    """Cut a text into pieces of a word or less, as tokenisers of language models do."""
    return tuple(_TOKEN.findall(text))


def written(passages: Sequence[str]) -> str:
    """Return the answer to a prompt with these passages, numbered from 1: sentences in order, each cited."""
    said: list[str] = []
    for number, passage in enumerate(passages, 1):
        for start, end in sentences(passage):
            sentence = passage[start].lower() + passage[start + 1 : end]
            more = f"{_LEADS[bool(said)]} {sentence} [{number}]"
            if not said or len(tokens(" ".join((*said, more)))) <= MAX_TOKENS:
                said.append(more)
    return " ".join(said)


def script(request: dict[str, Any]) -> Script:
    """Answer a request of `server/knowledge/grounding.py`."""
    passages = json.loads(request["messages"][-1]["content"])["passages"]
    pieces = tokens(written([passage["text"] for passage in passages]))
    return Script(pieces, FIRST_TOKEN_S, TOKEN_S, usage=(0, len(pieces)))


async def run() -> None:
    """Serve until a signal comes."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    async with ChatCompletionsSimulator(script) as endpoint:
        print(endpoint.url, flush=True)
        await stopping.wait()


if __name__ == "__main__":
    asyncio.run(run())
