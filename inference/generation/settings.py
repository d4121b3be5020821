"""How an endpoint is asked."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ChatSettings:
    """An OpenAI-compatible endpoint.

    Attributes:
        base_url: Such as `https://api.fireworks.ai/inference/v1`; `/chat/completions` is added.
        model: Its name there.
        api_key: Bearer; empty: none is sent.
        first_token_s: Longest wait for the first token, hedge included.
        hedge_after_s: A second request is sent when the first has given nothing for so long; whichever is first wins.
        silence_s: Longest pause between tokens.
        total_s: Longest answer.
        isolation_field: Name of the request field that keeps prompt caches apart; empty: the endpoint has none.
        max_concurrent: Requests at once; one more is refused at once, because it would be late anyway.
    """

    base_url: str
    model: str
    api_key: str = field(default="", repr=False)
    first_token_s: float = 1.0
    hedge_after_s: float = 0.25
    silence_s: float = 2.0
    total_s: float = 10.0
    isolation_field: str = "prompt_cache_isolation_key"
    max_concurrent: int = 32
