"""Question to card through the real server: 20 questions a second on 10,000 passages.

Measured from the moment a final is sent to the moment its passage is on the agent's socket.

Articles are the demo's and, to make it large, Markdown and text of installed packages: real sentences, foreign topics.
Calls are fed with text, because speech would measure speech. Arrivals are on a fixed schedule, so queueing shows.
Client and server share the cores. Prints the percentiles; asserts that most questions were answered at all.
"""

import asyncio
import itertools
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np

from server.config.settings import PROJECT_ROOT
from server.replay.feed_client import FeedClient, Received, Subscribed
from server.wire.ids import call_channel
from tests.integration.peers import Dial, utterance
from tests.integration.running import serve

NUM_PASSAGES = 10_000
QUESTIONS_PER_S = 20
NUM_CALLS = 120
QUESTIONS_A_CALL = 2
"""More would meet the attention budget and passages that are on the screen already, which is not what is measured."""
WORDS_A_PASSAGE = 53
QUESTIONS = (
    "do you have a loaner car for me during the repair",
    "what does a new battery cost",
    "how much is an oil change with the filter",
    "is a recall free of charge for a second owner",
    "how do i reset the service light myself",
    "are wiper blades covered by the warranty",
    "can i pay the bill in installments",
    "how long does a brake inspection take",
)
P50_MS, P99_MS = 25, 100


def articles(folder: Path) -> None:
    """Fill a folder with about `NUM_PASSAGES` passages."""
    shutil.copytree(PROJECT_ROOT / "graphs" / "knowledge" / "car_service", folder)
    num_words, number = 0, 0
    packages = Path(sys.prefix) / "lib"
    for path in sorted(
        itertools.chain(
            packages.rglob("*.md"), packages.rglob("*.rst"), packages.rglob("METADATA"), packages.rglob("*.txt")
        )
    ):
        text = path.read_text("utf-8", "ignore")[:300_000]
        if len(text) > 2000:
            number += 1
            (folder / f"package_{number}.txt").write_text(text)
            num_words += len(text.split())
        if num_words > NUM_PASSAGES * WORDS_A_PASSAGE:
            return


class Call:
    """One call: its source, its feed, and when which question was asked and answered."""

    def __init__(self, url: str, name: str) -> None:
        self.url, self.name = url, name
        self.asked_s: dict[str, float] = {}
        self.answered_s: dict[str, float] = {}

    async def run(self, ready: asyncio.Semaphore, inbox: asyncio.Queue[str | None]) -> None:
        async with Dial(self.url, "/v1/ingest/transcripts") as peer, FeedClient(self.url) as feed:
            await peer.send({"type": "start", "conversation_id": self.name})
            await peer.receive_type("started")
            await feed.subscribe(call_channel(self.name))
            async for event in feed.events():
                if isinstance(event, Subscribed):
                    break
            listening = asyncio.create_task(self.listen(feed))
            ready.release()
            number = 0
            while (question := await inbox.get()) is not None:
                number += 1
                key = f"u{number}"
                self.asked_s[key] = time.perf_counter()
                await peer.send(utterance(key, question, start_ms=number * 9000, end_ms=number * 9000 + 2000))
                await peer.receive_type("ack")
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    async def listen(self, feed: FeedClient) -> None:
        async for event in feed.events():
            if isinstance(event, Received) and event.publication.kind == "action" and event.publication.d.get("cites"):
                for evidence in event.publication.d["evidence"]:
                    self.answered_s.setdefault(evidence["utterance_id"], time.perf_counter())


async def load(url: str) -> list[float]:
    calls = [Call(url, f"load-{number}") for number in range(NUM_CALLS)]
    inboxes: list[asyncio.Queue[str | None]] = [asyncio.Queue() for _ in calls]
    ready = asyncio.Semaphore(0)
    running = [asyncio.create_task(call.run(ready, inbox)) for call, inbox in zip(calls, inboxes, strict=True)]
    for _ in calls:
        await ready.acquire()
    start_s = time.perf_counter() + 0.2
    for number in range(NUM_CALLS * QUESTIONS_A_CALL):
        await asyncio.sleep(max(0.0, start_s + number / QUESTIONS_PER_S - time.perf_counter()))
        round_of_calls, call = divmod(number, NUM_CALLS)
        inboxes[call].put_nowait(QUESTIONS[(call + 3 * round_of_calls) % len(QUESTIONS)])
    await asyncio.sleep(1.0)
    for inbox in inboxes:
        inbox.put_nowait(None)
    await asyncio.gather(*running)
    return [
        (call.answered_s[key] - asked_s) * 1e3
        for call in calls
        for key, asked_s in call.asked_s.items()
        if key in call.answered_s
    ]


def test_question_to_card(tmp_path: Path) -> None:
    articles(tmp_path / "articles")
    environment = {**os.environ, "CUELINE_DATA_DIR": str(tmp_path / "data")}
    start_s = time.perf_counter()
    command = [sys.executable, "-c", "from server.cli import main; main()", "kb", "ingest", str(tmp_path / "articles")]
    report = subprocess.run([*command, "--json"], env=environment, check=True, capture_output=True).stdout
    manifest = msgspec.json.decode(report)["manifest"]
    print(f"\n{manifest['passages']} passages, {manifest['index']}, ingested in {time.perf_counter() - start_s:.0f} s")
    with serve(tmp_path / "data") as server:
        took_ms = asyncio.run(load(server.ws))
        metrics = server.metrics()
    p50, p95, p99 = np.percentile(took_ms, (50, 95, 99))
    num_asked = NUM_CALLS * QUESTIONS_A_CALL
    print(
        f"question to card at {QUESTIONS_PER_S}/s: p50 {p50:.1f} (aim {P50_MS})  p95 {p95:.1f}  "
        f"p99 {p99:.1f} ms (aim {P99_MS}), answered {len(took_ms)} of {num_asked}"
    )
    print({name: value for name, value in metrics.items() if name.startswith("cueline_knowledge_questions_total{")})
    assert len(took_ms) >= 0.7 * num_asked
