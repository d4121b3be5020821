"""The hot path alone: utterances in, annotations out, on one socket. No call, no policy, no log, no store.

    python -m benchmarks.pipeline.annotator [output ...]      prints its URL

What is left is what no configuration of the server can take away: the socket, the product's graph, the engine.
"""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Sequence
from typing import Any

import uvicorn
import uvloop
from websockets.frames import Opcode

from benchmarks.engine.harness import ROOT
from inference.engine import Engine, EngineSettings
from inference.errors import InferenceError
from inference.graph import read_graph
from inference.repository import ModelRepository
from server.config.settings import Settings
from server.feed.outgoing import frame_header
from server.feed.transport import EXTENSION, DirectProtocol
from server.heap import settle
from server.orchestrator import Guide, Orchestrator
from server.wire.clock import Stamps
from server.wire.codec import json_encoder, transcript_decoder
from server.wire.ids import ConversationId, TenantId
from server.wire.ingest import UtteranceIn
from server.wire.publication import Annotation
from server.wire.utterance import Utterance

TENANT = TenantId("bench")
GRAPH = "guidance"
OUTPUTS = ("intent", "sentiment", "dissatisfied", "acts", "actions", "question")


def application(orchestrator: Orchestrator, guide: Guide) -> Any:
    """ASGI: each text frame is an utterance; each annotation leaves as a frame."""

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        connection = scope["extensions"][EXTENSION]["connection"]
        conversation_id = ConversationId(scope["path"].strip("/"))

        def write(_: Utterance, annotations: Sequence[Annotation], __: Stamps) -> None:
            for annotation in annotations:
                if connection.can_write:
                    body = json_encoder.encode(annotation)
                    connection.write_frame(frame_header(Opcode.TEXT, len(body)) + body)

        while (event := await receive())["type"] == "websocket.receive":
            given = transcript_decoder.json(event["text"])
            assert isinstance(given, UtteranceIn)
            utterance = Utterance(
                tenant_id=TENANT,
                conversation_id=conversation_id,
                utterance_id=given.utterance_id,
                speaker=given.speaker,
                start_ms=given.start_ms,
                end_ms=given.end_ms,
                revision=given.revision,
                text=given.text,
                is_final=given.is_final,
            )
            with contextlib.suppress(InferenceError):  # overloaded: the load generator sees that it is unanswered
                orchestrator.annotate(guide, utterance, Stamps(), write, lambda *_: None)
        orchestrator.cancel(f"{TENANT}/{conversation_id}")  # forgets its last turn, as at the end of a call

    return serve


async def run(outputs: Sequence[str]) -> None:
    """Serve on a free port of loopback until a signal comes."""
    engine = Engine(ModelRepository.open(ROOT / "model_repo"), EngineSettings())
    await engine.start()
    graph = read_graph(ROOT / "graphs" / f"{GRAPH}.yaml")
    orchestrator = Orchestrator(engine, {GRAPH: graph}, Settings().engine)
    guide = orchestrator.compile("bench", GRAPH, outputs, prototypes=None, pins={}, labels={})
    settle()
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"ws://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    web = uvicorn.Server(
        uvicorn.Config(
            application(orchestrator, guide),
            ws=DirectProtocol,
            loop="none",
            lifespan="off",
            log_config=None,
            ws_per_message_deflate=False,
            ws_ping_interval=None,
        )
    )
    await web.serve(sockets=[listener])
    await engine.stop()


if __name__ == "__main__":
    uvloop.run(run(sys.argv[1:] or OUTPUTS))
