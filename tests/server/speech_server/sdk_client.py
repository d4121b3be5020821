"""The vendor's SDK in a process of its own: `python sdk_client.py URL KEY CHANNELS` prints what it got."""

from __future__ import annotations

import asyncio
import json
import sys

from deepgram import AsyncDeepgramClient
from deepgram.core.api_error import ApiError
from deepgram.core.events import EventType
from deepgram.environment import DeepgramClientEnvironment

FRAME_BYTES_PER_CHANNEL = 3_200


async def main(url: str, key: str, channels: int) -> list[object]:
    environment = DeepgramClientEnvironment(base=url, production=url, agent=url, agent_rest=url)
    client = AsyncDeepgramClient(api_key=key, environment=environment)
    got: list[object] = []

    def on_message(message: object) -> None:
        got.append(message.model_dump(mode="json") if hasattr(message, "model_dump") else repr(message))

    try:
        async with client.listen.v1.connect(
            model="nova-3",
            encoding="linear16",
            sample_rate=8_000,
            channels=channels,
            multichannel=channels > 1,
            interim_results=True,
            utterance_end_ms=1_000,
            vad_events=True,
        ) as connection:
            connection.on(EventType.MESSAGE, on_message)
            listening = asyncio.create_task(connection.start_listening())
            await connection.send_keep_alive()
            for _ in range(25):
                await connection.send_media(bytes(FRAME_BYTES_PER_CHANNEL * channels))
            await connection.send_finalize()
            await connection.send_close_stream()
            await listening
    except ApiError as error:
        got.append({"type": "ApiError", "status": error.status_code})
    return got


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))))
