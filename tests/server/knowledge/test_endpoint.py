from contextlib import AsyncExitStack

import pytest

from server.config.settings import GenerationSettings
from server.knowledge.endpoint import open_writer
from server.knowledge.writer import Writer
from server.metrics import Metrics
from server.simulators.chat_completions import ChatCompletionsSimulator, Script
from server.wire.errors import ConfigError
from tests.retrieval.hashing_embedder import HashingEmbedder
from tests.server.knowledge.test_writer import bodies


async def open_one(stack: AsyncExitStack, url: str, environment: dict[str, str]) -> Writer | None:
    settings = GenerationSettings(base_url=url, model="ocean", api_key_env="KEY", first_token_ms=5000)
    return open_writer(settings, environment, HashingEmbedder(), Metrics(), stack)


async def test_without_an_endpoint_nobody_writes() -> None:
    async with AsyncExitStack() as stack:
        assert await open_one(stack, "", {}) is None


@pytest.mark.parametrize("environment", [{}, {"KEY": ""}, {"KEY": " \n"}])
async def test_a_key_that_is_not_there_is_told_by_its_variable(environment: dict[str, str]) -> None:
    async with AsyncExitStack() as stack:
        with pytest.raises(ConfigError, match="KEY is not set"):
            await open_one(stack, "http://127.0.0.1:1/v1", environment)


async def test_a_key_read_from_a_file_keeps_no_line_end() -> None:
    script = Script(("A refund takes five working days. [1]",))
    async with ChatCompletionsSimulator([script]) as endpoint, AsyncExitStack() as stack:
        writer = await open_one(stack, endpoint.url, {"KEY": "secret\n"})
        assert writer is not None
        assert await bodies(writer) == ["A refund takes five working days. [1]"]
