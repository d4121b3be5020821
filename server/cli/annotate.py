"""`cueline annotate`: the guidance graph over lines of JSON, without a server.

line ─▶ check ─▶ engine (many rows at once) ─▶ outputs beside the line's own fields, in the order of the lines
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import deque
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, BinaryIO, get_args

import click
import msgspec
import uvloop

from inference.engine import Engine
from inference.engine import EngineSettings as InferenceSettings
from inference.errors import InferenceError
from inference.graph import Graph
from inference.life.loader import Loader
from inference.life.settings import LifeSettings
from inference.plan import Plan
from inference.repository import ModelRepository
from inference.request import Prototypes, RowClass
from server.config import Settings, load_settings
from server.live.policies import Policies
from server.metrics import Metrics
from server.orchestrator import Orchestrator
from server.orchestrator.graphs import offers, read_graphs
from server.wire.errors import BadMessage, ConfigError, CuelineError
from server.wire.ids import Speaker, TenantId

MAX_IN_FLIGHT = 256
"""Rows handed to the engine at once: enough to fill its batches, little enough to keep memory flat."""
MAX_LINE_BYTES = 4 * 1024 * 1024
GRAPH = "guidance"
DEFAULT_SPEAKER: Speaker = "customer"
"""Of a line that names none: most outputs speak of the customer."""

Line = dict[str, Any]


@click.command()
@click.option("--outputs", help="Comma-separated graph outputs; without it all of the graph but the tenant's moments.")
@click.option("--tenant", help="Tenant whose moments and own actions are used. [car_service]")
@click.option("--token", envvar="CUELINE_TOKEN", help="Not needed: nothing is asked of a server.", hidden=True)
@click.option("--config", type=click.Path(path_type=Path), help="TOML file; CUELINE_* variables win over it.")
def annotate(outputs: str | None, tenant: str | None, token: str | None, config: Path | None) -> None:
    r"""Annotate lines from standard input, one JSON object each, on standard output.

    \b
    {"text": "where is my card", "speaker": "customer"}   →   the same fields and
    {…, "intent": {"label": …, "score": …, "in_scope": …}, "sentiment": {…}, …}

    Order is kept, other fields are passed through, an output that does not apply to the speaker is null. A line
    that cannot be read becomes {"error": {"line", "field", "message"}} beside its own fields.
    """
    settings = load_settings(config, os.environ, {"auth.default_tenant": tenant})
    wanted = tuple(name.strip() for name in outputs.split(",") if name.strip()) if outputs else None
    uvloop.run(_annotate(settings, wanted, sys.stdin.buffer, sys.stdout.buffer))


async def _annotate(settings: Settings, wanted: tuple[str, ...] | None, source: BinaryIO, sink: BinaryIO) -> None:
    graphs_folder = Path(settings.paths.graphs)
    graph = read_graphs(graphs_folder)[GRAPH]
    names = wanted if wanted is not None else tuple(name for name in graph.outputs if name != "moments")
    for name in names:
        if name not in graph.outputs:
            raise ConfigError(f"there is no output `{name}`; the graph has {', '.join(graph.outputs)}", field="outputs")
    repository = ModelRepository.open(settings.paths.model_repo)
    engine = Engine(
        repository,
        InferenceSettings(
            device=settings.engine.device,
            precision=settings.engine.precision,
            workers=settings.engine.workers,
            max_queue_rows=MAX_IN_FLIGHT * 2,
            max_batch_tokens=settings.engine.max_batch_tokens,
        ),
    )
    await engine.start()
    try:
        plan, prototypes = await _plan(engine, repository, graph, names, settings)
        await _pump(engine, plan, prototypes, names, source, sink)
    finally:
        await engine.stop()


async def _plan(
    engine: Engine, repository: ModelRepository, graph: Graph, names: tuple[str, ...], settings: Settings
) -> tuple[Plan, Prototypes | None]:
    if "moments" not in names:
        return engine.compile(graph, names), None
    orchestrator = Orchestrator(engine, {GRAPH: graph}, settings.engine)
    loader = Loader(engine, Path(settings.paths.model_repo), LifeSettings(), trial=None)
    policies = Policies(
        Path(settings.paths.graphs) / "policies", offers({GRAPH: graph}, repository), orchestrator, Metrics(), loader
    )
    await policies.start()
    try:
        guide = policies.pin(TenantId(settings.auth.default_tenant)).guide
    finally:
        await policies.stop()
    return engine.compile(graph, names), guide.prototypes


async def _pump(
    engine: Engine,
    plan: Plan,
    prototypes: Prototypes | None,
    names: tuple[str, ...],
    source: BinaryIO,
    sink: BinaryIO,
) -> None:
    """Keep up to `MAX_IN_FLIGHT` rows in the engine and write results in order."""
    waiting: deque[asyncio.Task[Line]] = deque()
    async for number, raw in _lines(source):
        waiting.append(asyncio.create_task(_row(engine, plan, prototypes, names, number, raw)))
        while len(waiting) >= MAX_IN_FLIGHT or (waiting and waiting[0].done()):
            _write(sink, await waiting.popleft())
    while waiting:
        _write(sink, await waiting.popleft())
    sink.flush()


async def _lines(source: BinaryIO) -> AsyncIterator[tuple[int, bytes]]:
    """Numbered lines; reading happens in a thread, a block at a time, so that the engine's callbacks are never held."""
    numbered = enumerate(source, start=1)
    while block := await asyncio.to_thread(_take, numbered, 64):
        for item in block:
            yield item


def _take(lines: Iterator[tuple[int, bytes]], limit: int) -> list[tuple[int, bytes]]:
    block = []
    for number, line in lines:
        if line.strip():
            block.append((number, line))
        if len(block) >= limit:
            break
    return block


async def _row(
    engine: Engine, plan: Plan, prototypes: Prototypes | None, names: tuple[str, ...], number: int, raw: bytes
) -> Line:
    line: Line = {}
    try:
        line = _parse(raw)
        inputs = {"text": _text(line), "speaker": _speaker(line), "is_final": True}
        found = await engine.run(plan, inputs, row_class=RowClass.BACKGROUND, prototypes=prototypes)
    except CuelineError as error:
        return line | {"error": {"line": number, "field": error.field, "message": error.message}}
    except InferenceError as error:
        return line | {"error": {"line": number, "field": None, "message": f"the engine failed: {error.code}"}}
    return line | {name: found[name].value if name in found else None for name in names}


def _parse(raw: bytes) -> Line:
    if len(raw) > MAX_LINE_BYTES:
        raise BadMessage(f"the line has more than {MAX_LINE_BYTES} bytes")
    try:
        line = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeError):
        raise BadMessage("the line is not valid JSON") from None
    if not isinstance(line, dict):
        raise BadMessage("the line is not a JSON object")
    return line


def _text(line: Line) -> str:
    if "text" not in line:
        raise BadMessage("the field `text` is missing", field="text")
    text = line["text"]
    if not isinstance(text, str):
        raise BadMessage("expected a string", field="text")
    return text


def _speaker(line: Line) -> str:
    speaker = line.get("speaker", DEFAULT_SPEAKER)
    if speaker not in get_args(Speaker):
        raise BadMessage("expected `customer` or `agent`", field="speaker")
    return str(speaker)


def _write(sink: BinaryIO, line: Line) -> None:
    sink.write(msgspec.json.encode(line))
    sink.write(b"\n")
