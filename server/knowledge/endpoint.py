"""The configured endpoint as the writer of answers."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack

from inference.generation import ChatClient, ChatSettings
from retrieval.manifest import Embedder
from server.config.settings import GenerationSettings
from server.knowledge.writer import Writer
from server.metrics import Metrics
from server.metrics.generation import GenerationMetrics
from server.wire.errors import ConfigError


def open_writer(
    settings: GenerationSettings,
    environment: Mapping[str, str],
    embedder: Embedder,
    metrics: Metrics,
    stack: AsyncExitStack,
) -> Writer | None:
    """Return who writes answers, None where no endpoint is configured. Nothing is sent yet.

    Args:
        settings: Where and how.
        environment: Holds the key.
        embedder: Compares sentences with passages.
        metrics: Counts requests, tokens and sentences.
        stack: Closes the connections.

    Raises:
        ConfigError: The variable that should hold the key does not.
    """
    if not settings.base_url:
        return None
    # A key from a file has a line end, which no header may hold.
    api_key = environment.get(settings.api_key_env, "").strip() if settings.api_key_env else ""
    if settings.api_key_env and not api_key:
        raise ConfigError(f"{settings.api_key_env} is not set", field="generation.api_key_env")
    client = ChatClient(
        ChatSettings(
            settings.base_url,
            settings.model,
            api_key,
            first_token_s=settings.first_token_ms / 1000,
            hedge_after_s=settings.hedge_after_ms / 1000,
            isolation_field=settings.isolation_field,
            max_concurrent=settings.max_concurrent,
        ),
        GenerationMetrics(metrics, settings.prompt_price, settings.completion_price),
    )
    stack.push_async_callback(client.close)
    return Writer(client, embedder, metrics, settings.max_tokens)
