"""What the text generation client tells of itself, as metrics."""

from __future__ import annotations

from inference.generation import Usage
from server.metrics import Metrics


class GenerationMetrics:
    """See `inference.generation.contract.Observer`.

    Args:
        metrics: Where to count.
        prompt_price: Dollars for a million prompt tokens.
        completion_price: Dollars for a million completion tokens.
    """

    def __init__(self, metrics: Metrics, prompt_price: float, completion_price: float) -> None:
        self._metrics = metrics
        self._prompt_price = prompt_price
        self._completion_price = completion_price

    def first_token(self, duration_s: float) -> None:
        """The first token came."""
        self._metrics.llm_first_token.observe(duration_s)

    def hedged(self) -> None:
        """A second request was sent."""
        self._metrics.llm_hedges.inc()

    def ended(self, outcome: str, usage: Usage | None) -> None:
        """A request ended."""
        self._metrics.llm_requests.labels(outcome).inc()
        if usage is not None:
            self._metrics.llm_tokens.labels("prompt").inc(usage.prompt_tokens)
            self._metrics.llm_tokens.labels("cached").inc(usage.cached_tokens)
            self._metrics.llm_tokens.labels("completion").inc(usage.completion_tokens)
            dollars = usage.prompt_tokens * self._prompt_price + usage.completion_tokens * self._completion_price
            self._metrics.llm_cost.inc(dollars / 1e6)
