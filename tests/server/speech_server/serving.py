"""A speech server on a free port, with a scripted recogniser behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from server.config.settings import DeepgramSettings
from server.speech.contract import Recogniser, SpeechCall, SpeechEvent, SpeechStream
from server.speech.deepgram.recogniser import DeepgramRecogniser
from server.speech.scripted import Heard, ScriptedRecogniser
from server.speech_server.faults import Faults
from server.speech_server.server import SpeechServer
from server.wire.ids import ConversationId, Speaker, TenantId

SECOND = bytes(16_000)


@asynccontextmanager
async def serving(
    script: Sequence[Heard] | Recogniser, *, key: str = "", faults: Callable[[], Faults] = Faults
) -> AsyncIterator[SpeechServer]:
    recogniser = script if hasattr(script, "open") else ScriptedRecogniser({"customer": script, "agent": script})
    server = SpeechServer(recogniser, key=key, faults=faults)
    await server.start("127.0.0.1", 0)
    try:
        yield server
    finally:
        await server.stop()


def adapter(server: SpeechServer, key: str = "", **settings: object) -> DeepgramRecogniser:
    return DeepgramRecogniser(DeepgramSettings(url=server.url, **settings), key)


def side(start_ms: int = 0, speaker: Speaker = "customer", **fields: object) -> SpeechCall:
    return SpeechCall(
        tenant_id=TenantId("t"),
        conversation_id=ConversationId("c"),
        speaker=speaker,
        sample_rate_hz=8_000,
        start_ms=start_ms,
        **fields,  # type: ignore[arg-type]
    )


async def listen(stream: SpeechStream) -> list[SpeechEvent]:
    return [event async for event in stream.events()]
