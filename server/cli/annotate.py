"""`cueline annotate`: the guidance graph over lines of JSON, without a server.

line ─▶ check ─▶ engine (many rows at once) ─▶ outputs beside the line's own fields, in the order of the lines
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
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
from inference.request import Carry, Output, RowClass
from server.config import Settings, load_settings
from server.live.policies import Policies
from server.metrics import Metrics
from server.orchestrator import Guide, Orchestrator
from server.orchestrator.graphs import CARRY, carry_input, offers, read_graphs
from server.policy.rules import ACTIONS_OUTPUT, SEMANTIC_OUTPUT, Policy
from server.policy.store import PolicyStore
from server.policy.validation import Graphs
from server.wire.codec import DECODE_ERRORS, bad_message
from server.wire.errors import BadMessage, ConfigError, CuelineError, NotFound
from server.wire.ids import Speaker

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
    """Annotate lines from standard input, one JSON object each, on standard output.

    \b
    {"text": "where is my card", "speaker": "customer"}   →   the same fields and
    {…, "intent": {"label": …, "score": …, "in_scope": …}, "sentiment": {…}, …}

    A line may tell what was said before it, oldest first: "context": [{"speaker": "agent", "text": "…"}, …]. Its last
    turn counts. Order is kept, other fields are passed through, an output that does not apply to the speaker is null.
    A line that cannot be read becomes {"error": {"line", "field", "message"}} beside its own fields.
    """  # noqa: D301 - click takes a real backspace as "do not rewrap"
    settings = load_settings(config, os.environ, {"auth.default_tenant": tenant})
    wanted = None if outputs is None else tuple(name.strip() for name in outputs.split(",") if name.strip())
    if wanted == ():
        raise ConfigError("names no output", field="outputs")
    must_exist = tenant is not None
    uvloop.run(_annotate(settings, wanted, sys.stdin.buffer, sys.stdout.buffer, must_exist=must_exist))


async def _annotate(
    settings: Settings, wanted: tuple[str, ...] | None, source: BinaryIO, sink: BinaryIO, *, must_exist: bool
) -> None:
    graphs_folder = Path(settings.paths.graphs)
    graphs = read_graphs(graphs_folder)
    graph = graphs[GRAPH]
    offered = tuple(name for name in graph.outputs if name != CARRY)
    names = wanted if wanted is not None else tuple(name for name in offered if name != SEMANTIC_OUTPUT)
    for name in names:
        if name not in offered:
            raise ConfigError(f"there is no output `{name}`; the graph has {', '.join(offered)}", field="outputs")
    repository = ModelRepository.open(settings.paths.model_repo)
    policy = _policy(settings, offers(graphs, repository), names, must_exist=must_exist)
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
        guide = await _guide(engine, graphs, policy, settings) if policy is not None else None
        await _pump(_Annotator(engine, graph, names, guide), source, sink)
    finally:
        await engine.stop()


def _policy(settings: Settings, offered: Graphs, names: tuple[str, ...], *, must_exist: bool) -> Policy | None:
    """Return the tenant's policy if its examples have a part in an output that is wanted."""
    if SEMANTIC_OUTPUT not in names and ACTIONS_OUTPUT not in names:
        return None
    store = PolicyStore(Path(settings.paths.graphs) / "policies", offered)
    refused = store.poll().refused
    try:
        policy = store.get(settings.auth.default_tenant)
    except NotFound:
        if refused:
            raise refused[0] from None
        if must_exist or SEMANTIC_OUTPUT in names:
            raise
        return None
    return policy if SEMANTIC_OUTPUT in names or policy.own_actions else None


async def _guide(engine: Engine, graphs: Mapping[str, Graph], policy: Policy, settings: Settings) -> Guide:
    """Return the tenant's examples, as calls would have them."""
    orchestrator = Orchestrator(engine, graphs, settings.engine)
    loader = Loader(engine, Path(settings.paths.model_repo), LifeSettings(), trial=None)
    folder = Path(settings.paths.graphs) / "policies"
    policies = Policies(folder, {}, orchestrator, Metrics(), loader, cache=settings.private_path / "examples")
    return await policies.guide(policy)


class _Annotator:
    """One line after the other, each with the turn that the line says was before it.

    Args:
        engine: Started.
        graph: What it runs.
        names: Outputs wanted.
        guide: With the tenant's labels by example, where they are wanted.
    """

    def __init__(self, engine: Engine, graph: Graph, names: tuple[str, ...], guide: Guide | None) -> None:
        self._engine = engine
        self._names = names
        self._guide = guide
        self._plan = engine.compile(graph, names if guide is None else {*names, SEMANTIC_OUTPUT})
        self._carry_input = carry_input(graph)
        self._plan_before = engine.compile(graph, [CARRY]) if self._carry_input else None

    async def __call__(self, number: int, raw: bytes) -> Line:
        """Annotate a line, or tell what is wrong with it."""
        line: Line = {}
        try:
            line = _parse(raw)
            inputs: Line = {"text": _text(line), "speaker": _speaker(line), "is_final": True}
            before = _turn_before(line)
            if before is not None and self._plan_before is not None:
                inputs[self._carry_input] = await self._carry(self._plan_before, before)
            found = await self._run(self._plan, inputs)
            if self._guide is not None:
                shared = self._guide.share_out(tuple(found.values()), inputs["speaker"])
                found = {output.name: output for output in shared}
        except CuelineError as error:
            return line | {"error": {"line": number, "field": error.field, "message": error.message}}
        except InferenceError as error:
            return line | {"error": {"line": number, "field": None, "message": f"the engine failed: {error.code}"}}
        return line | {name: found[name].value if name in found else None for name in self._names}

    async def _carry(self, plan: Plan, turn: Line) -> Carry:
        (output,) = (await self._run(plan, {**turn, "is_final": True})).values()
        return Carry(output.model, output.version, output.value)

    async def _run(self, plan: Plan, inputs: Line) -> dict[str, Output]:
        prototypes = self._guide.prototypes if self._guide is not None else None
        return await self._engine.run(plan, inputs, row_class=RowClass.BACKGROUND, prototypes=prototypes)


async def _pump(annotate: _Annotator, source: BinaryIO, sink: BinaryIO) -> None:
    """Keep up to `MAX_IN_FLIGHT` rows in the engine and write results in order."""
    waiting: deque[asyncio.Task[Line]] = deque()
    async for number, raw in _lines(source):
        waiting.append(asyncio.create_task(annotate(number, raw)))
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


def _parse(raw: bytes) -> Line:
    if len(raw) > MAX_LINE_BYTES:
        raise BadMessage(f"the line has more than {MAX_LINE_BYTES} bytes")
    try:
        line = msgspec.json.decode(raw)
    except DECODE_ERRORS as error:
        raise bad_message(error, what="line") from None
    if not isinstance(line, dict):
        raise BadMessage("the line is not a JSON object")
    return line


def _text(line: Line, field: str = "text") -> str:
    if "text" not in line:
        raise BadMessage(f"the field `{field}` is missing", field=field)
    text = line["text"]
    if not isinstance(text, str):
        raise BadMessage("expected a string", field=field)
    return text


def _speaker(line: Line, field: str = "speaker") -> str:
    speaker = line.get("speaker", DEFAULT_SPEAKER)
    if speaker not in get_args(Speaker):
        raise BadMessage("expected `customer` or `agent`", field=field)
    return str(speaker)


def _turn_before(line: Line) -> Line | None:
    """Check all of a line's context and return its last turn; None where nothing was said before."""
    context = line.get("context")
    if context is None:
        return None
    if not isinstance(context, list):
        raise BadMessage("expected a list of turns", field="context")
    turns: list[Line] = []
    for place, turn in enumerate(context):
        field = f"context[{place}]"
        if not isinstance(turn, dict):
            raise BadMessage("expected an object with `speaker` and `text`", field=field)
        turns.append({"text": _text(turn, f"{field}.text"), "speaker": _speaker(turn, f"{field}.speaker")})
    return turns[-1] if turns and turns[-1]["text"].strip() else None


def _write(sink: BinaryIO, line: Line) -> None:
    sink.write(msgspec.json.encode(line))
    sink.write(b"\n")
