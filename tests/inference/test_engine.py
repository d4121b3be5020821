"""The engine whole: threads, a scripted fake or a tiny real model, and the promises towards its caller."""

from __future__ import annotations

import asyncio
import itertools
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference.backends.contract import Tensors
from inference.backends.fake import FakeBackend
from inference.engine import Engine, EngineSettings
from inference.errors import InferenceError, ModelError, ModelFailed, OverloadedError
from inference.graph import Graph, Node, parse_graph
from inference.observer import SilentObserver
from inference.plan import Plan
from inference.prototypes import make_prototypes
from inference.repository import ModelRepository
from inference.request import Outcome, Output, Request, RowClass
from tests.inference.model_folders import write_model
from tests.inference.tiny_models import WORDS, bert_tokenizer, write_encoder

GRAPH = parse_graph(
    """
name: guidance
inputs: {text: string, speaker: [customer, agent], is_final: bool}
nodes:
  tokens:    {op: tokenize, model: utterance, inputs: [text]}
  utterance: {op: model, model: utterance, inputs: [tokens]}
  intent:    {op: classify, inputs: [utterance.intent_logits], when: speaker == customer}
  sentiment: {op: classify, inputs: [utterance.sentiment_logits]}
  actions:   {op: classify, inputs: [utterance.actions_logits]}
  question:  {op: classify, inputs: [utterance.question_logits]}
  moments:   {op: classify, inputs: [utterance.embedding], prototypes: tenant}
  passages:  {op: retrieve, inputs: [utterance.embedding, text], when: is_final, top_k: 3}
outputs: [intent, sentiment, actions, question, moments, passages]
""",
    "guidance.yaml",
)
HEADS = ("intent", "sentiment", "actions", "question", "moments")
POISON = WORDS.index("poison")


def retrieve(_: np.ndarray, texts: Sequence[str], rows: Sequence[Any]) -> list[str]:
    return [f"{row['top_k']} about {text}" for text, row in zip(texts, rows, strict=True)]


@asynccontextmanager
async def running(
    repository: Path,
    *,
    backend: FakeBackend | None = None,
    operators: Any = None,
    observer: Any = None,
    **settings: Any,
) -> AsyncIterator[Engine]:
    engine = Engine(
        ModelRepository.open(repository),
        EngineSettings(**settings),
        {"retrieve": retrieve} if operators is None else operators,
        observer=observer,
        backends={"fake": backend} if backend is not None else None,
    )
    await engine.start()
    try:
        yield engine
    finally:
        if backend is not None:
            backend.script = lambda _: None
        await engine.stop()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    write_model(tmp_path, tokenizer=bert_tokenizer().to_str())
    return tmp_path


@pytest.fixture
def real_repository(tmp_path: Path) -> Path:
    write_encoder(tmp_path, versions=(1, 2))
    config = tmp_path / "utterance" / "config.pbtxt"
    config.write_text(config.read_text() + "version_policy { all {} }\n")
    return tmp_path


class Gate:
    """A script that lets runs through one by one."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.open = threading.Semaphore(0)

    def __call__(self, _: Tensors) -> None:
        self.entered.release()
        assert self.open.acquire(timeout=30)

    async def wait_entered(self) -> None:
        assert await asyncio.to_thread(self.entered.acquire, timeout=30)


class Answers:
    """Collects what one request is called back with."""

    def __init__(self) -> None:
        self.outputs: dict[str, Output] = {}
        self.ends: list[tuple[Outcome, BaseException | None]] = []
        self.done = asyncio.Event()

    def on_outputs(self, outputs: Sequence[Output]) -> None:
        assert not self.ends, "an output after the end"
        assert outputs, "called with nothing"
        assert threading.current_thread() is threading.main_thread()
        for output in outputs:
            assert output.name not in self.outputs, "an output twice"
            self.outputs[output.name] = output

    def on_done(self, outcome: Outcome, error: BaseException | None) -> None:
        assert not self.ends, "ended twice"
        self.ends.append((outcome, error))
        self.done.set()

    async def outcome(self) -> Outcome:
        async with asyncio.timeout(30):
            await self.done.wait()
        return self.ends[0][0]

    @property
    def values(self) -> dict[str, Any]:
        return {name: output.value for name, output in self.outputs.items()}


_keys = itertools.count()


def submit(engine: Engine, plan: Plan, text: str = "my card is lost", **fields: Any) -> Answers:
    answers = Answers()
    inputs = {"text": text, "speaker": fields.pop("speaker", "customer"), "is_final": fields.pop("is_final", False)}
    request = Request(
        plan=plan,
        inputs=inputs,
        owner=fields.pop("owner", "call"),
        key=fields.pop("key", f"u{next(_keys)}"),
        on_outputs=answers.on_outputs,
        on_done=answers.on_done,
        **fields,
    )
    engine.submit(request)
    assert not answers.outputs
    assert not answers.ends, "called back from within submit"
    return answers


# -- answers -----------------------------------------------------------------------------------------------------------


async def test_every_wanted_output_comes_with_model_version_and_times(real_repository: Path) -> None:
    async with running(real_repository) as engine:
        plan = engine.compile(GRAPH, None)
        started_s = time.monotonic()
        answers = submit(engine, plan, is_final=True)
        assert await answers.outcome() is Outcome.DONE
        assert set(answers.outputs) == set(GRAPH.outputs)
        assert answers.values["passages"] == "3 about my card is lost"
        assert answers.values["moments"] == []
        intent = answers.outputs["intent"]
        assert intent.value["label"] in ("transfer", "balance", "order_status")
        assert intent.score == intent.value["score"]
        assert (intent.model, intent.version) == ("utterance", 2)
        assert started_s <= intent.started_s <= intent.ready_s <= time.monotonic()
        assert intent.queue_ms >= 0.0
        assert intent.compute_ms > 0.0
        assert engine.stats().rows == 1


async def test_outputs_whose_when_is_false_are_none(repository: Path) -> None:
    async with running(repository, backend=FakeBackend()) as engine:
        answers = submit(engine, engine.compile(GRAPH, None), speaker="agent")
        await answers.outcome()
        assert answers.values["intent"] is None
        assert answers.values["passages"] is None
        assert answers.outputs["intent"].model == ""
        assert answers.values["sentiment"] is not None


async def test_a_plan_computes_only_the_tensors_it_reads(repository: Path) -> None:
    backend = FakeBackend()
    async with running(repository, backend=backend) as engine:
        backend.runs.clear()
        await engine.run(engine.compile(GRAPH, ["sentiment"]), {"text": "card", "speaker": "customer"})
        assert backend.runs == [(1, 3, ("sentiment_logits",))]


async def test_a_row_that_no_output_needs_reaches_no_model(repository: Path) -> None:
    backend = FakeBackend()
    async with running(repository, backend=backend) as engine:
        plan = engine.compile(GRAPH, ["intent"])
        backend.runs.clear()
        answers = submit(engine, plan, speaker="agent")
        assert await answers.outcome() is Outcome.DONE
        assert answers.values == {"intent": None}
        assert not backend.runs
        assert engine.stats().skipped == {"not_wanted": 1}


@pytest.mark.parametrize("text", ["", " ", "\x00", "🙂" * 50, "中文", "my card " * 5_000, "a\u0301\u200d\ufffd"])
async def test_any_text_is_answered(real_repository: Path, text: str) -> None:
    async with running(real_repository) as engine:
        assert await submit(engine, engine.compile(GRAPH, None), text, is_final=True).outcome() is Outcome.DONE


async def test_equal_structures_share_a_plan(repository: Path) -> None:
    async with running(repository, backend=FakeBackend()) as engine:
        assert engine.compile(GRAPH, ["intent", "sentiment"]) is engine.compile(GRAPH, ["sentiment", "intent"])


async def test_embeddings_are_those_of_the_model(real_repository: Path) -> None:
    async with running(real_repository) as engine:
        texts = [f"my card is lost {'please ' * (i % 7)}" for i in range(300)]
        vectors = await engine.embed(texts)
        assert vectors.shape == (300, 4)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)
        np.testing.assert_allclose(vectors[8], (await engine.embed([texts[8]]))[0], atol=1e-6)
        assert (await engine.embed([])).shape == (0, 4)


async def test_each_tenant_sees_its_own_moments(real_repository: Path) -> None:
    async with running(real_repository, memo_rows=0) as engine:
        plan = engine.compile(GRAPH, ["moments"])
        vectors = await engine.embed(["my card is lost", "thank you"])
        sets = [make_prototypes(f"t{i}", {f"l{i}": ["phrase"]}, {f"l{i}": 0.9}, vectors[i : i + 1]) for i in (0, 1)]
        found = await asyncio.gather(
            *(
                engine.run(plan, {"text": text, "speaker": "customer"}, prototypes=prototypes)
                for text in ("my card is lost", "thank you")
                for prototypes in (*sets, None)
            )
        )
        labels = [[claim["label"] for claim in outputs["moments"].value] for outputs in found]
        assert labels[0] == ["l0"]
        assert labels[4] == ["l1"]
        assert labels[2] == labels[5] == []


# -- a row in company --------------------------------------------------------------------------------------------------


async def test_a_row_in_any_batch_equals_the_row_alone(real_repository: Path) -> None:
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS[5:], size=rng.integers(0, 28))) for _ in range(200)]
    inputs = [{"text": text, "speaker": "customer", "is_final": True} for text in texts]
    async with running(real_repository, memo_rows=0) as engine:
        plan = engine.compile(GRAPH, None)
        alone = [await engine.run(plan, row) for row in inputs]
        before = engine.stats().batches
        together = await asyncio.gather(*(engine.run(plan, row) for row in inputs))
        assert engine.stats().batches - before < len(texts) / 2, "no batches were formed"
    for one, other in zip(alone, together, strict=True):
        assert {name: output.value for name, output in one.items()} == {
            name: close(output.value) for name, output in other.items()
        }


def close(value: Any) -> Any:
    if isinstance(value, float):
        return pytest.approx(value, abs=1e-5)
    if isinstance(value, dict):
        return {key: close(inner) for key, inner in value.items()}
    return [close(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["", "fp16", "fp32"])
async def test_a_row_in_any_batch_equals_the_row_alone_in_every_precision_we_ship(precision: str) -> None:
    root = Path(__file__).parents[2] / "model_repo"
    weights = root / "utterance" / "1" / (f"model.{precision}.onnx" if precision else "model.onnx")
    if not weights.exists():
        pytest.skip(f"{weights.name} is not built; `make models` builds it")
    repository = ModelRepository.open(root)
    service_version = repository.model("utterance").latest
    from inference.backends.onnxruntime import OnnxRuntimeBackend
    from inference.tokens import Tokenizer, pad_rows

    model = OnnxRuntimeBackend().load(
        service_version if not precision else _with_weights(service_version, weights, precision)
    )
    assert service_version.tokenizer is not None
    tokenizer = Tokenizer.from_file(service_version.tokenizer, 128)
    rng = np.random.default_rng(0)
    words = ["my", "card", "was", "charged", "twice", "and", "i", "want", "the", "money", "back", "4711", "late", "?"]
    rows = [tokenizer.encode(" ".join(rng.choice(words, size=rng.integers(1, 40)))) for _ in range(64)]
    outputs = [spec.name for spec in service_version.config.outputs]

    def run(part: list[bytes], num_rows: int, num_tokens: int) -> Tensors:
        ids, mask = pad_rows(part, num_rows, num_tokens)
        return model.run({"input_ids": ids, "attention_mask": mask}, outputs)

    alone = [run([row], 1, len(row) // 4) for row in rows]
    for _ in range(4):
        order = rng.permutation(64).tolist()
        while order:
            size = int(rng.integers(1, 17))
            chosen, order = order[:size], order[size:]
            part = [rows[i] for i in chosen]
            longest = max(len(row) // 4 for row in part)
            found = run(part, len(part) + int(rng.integers(0, 3)), longest + int(rng.integers(0, 9)))
            for position, i in enumerate(chosen):
                for name in outputs:
                    np.testing.assert_allclose(found[name][position], alone[i][name][0], atol=2e-4, rtol=1e-4)


def _with_weights(version: Any, weights: Path, precision: str) -> Any:
    from dataclasses import replace

    return replace(version, weights=weights, precision=precision)


# -- work not done -----------------------------------------------------------------------------------------------------


async def test_the_same_words_again_never_reach_the_model(repository: Path) -> None:
    backend = FakeBackend()
    async with running(repository, backend=backend) as engine:
        plan = engine.compile(GRAPH, None)
        first = submit(engine, plan, "my card is lost")
        await first.outcome()
        backend.runs.clear()
        again = submit(engine, plan, "My  CARD is lost", speaker="agent", owner="other")
        await again.outcome()
        assert not backend.runs
        assert again.values["sentiment"] == first.values["sentiment"]
        assert again.values["intent"] is None, "conditions are the second row's own"
        assert engine.stats().skipped == {"same_text": 1}


async def test_memory_says_what_the_model_said_for_every_speaker_and_tenant(real_repository: Path) -> None:
    async with running(real_repository) as engine:
        plan = engine.compile(GRAPH, None)
        vectors = await engine.embed(["my card is lost"])
        tenant = make_prototypes("t", {"loss": ["my card is lost"]}, {"loss": 0.0}, vectors)
        texts = [f"my card is {word}" for word in WORDS[5:20]]
        for speaker, prototypes in (("customer", tenant), ("agent", None)):
            computed = [submit(engine, plan, t, speaker=speaker, is_final=True, prototypes=prototypes) for t in texts]
            await asyncio.gather(*(answers.outcome() for answers in computed))
            recalled = [submit(engine, plan, t, speaker=speaker, is_final=True, prototypes=prototypes) for t in texts]
            await asyncio.gather(*(answers.outcome() for answers in recalled))
            for first, second in zip(computed, recalled, strict=True):
                assert list(second.values) == list(first.values)
                assert second.values == close(first.values)
        assert engine.stats().skipped["same_text"] >= 2 * len(texts)


async def test_memory_of_before_a_tensor_was_asked_for_is_not_believed_to_have_it(real_repository: Path) -> None:
    async with running(real_repository) as engine:
        nodes = {
            "tokens": Node(op="tokenize", model="utterance", inputs=("text",)),
            "encoder": Node(op="model", model="utterance", inputs=("tokens",)),
            "mood": Node(op="classify", inputs=("encoder.sentiment_logits",)),
        }
        plan = engine.compile(Graph("mood", {"text": "string"}, nodes, ("mood",)), None)
        await submit(engine, plan, "my card is lost").outcome()
        assert (await engine.embed(["my card is lost"])).shape == (1, 4)


async def test_an_interim_that_changed_only_punctuation_is_answered_from_memory_and_a_final_is_not(
    repository: Path,
) -> None:
    backend = FakeBackend()
    async with running(repository, backend=backend) as engine:
        plan = engine.compile(GRAPH, None)
        await submit(engine, plan, "my card is", key="u", revision=1, row_class=RowClass.INTERIM).outcome()
        backend.runs.clear()
        interim = submit(engine, plan, "My card, is.", key="u", revision=2, row_class=RowClass.INTERIM)
        await interim.outcome()
        assert not backend.runs
        assert engine.stats().skipped == {"same_words": 1}
        other_call = submit(engine, plan, "My card, is.", key="v", revision=2, row_class=RowClass.INTERIM)
        await other_call.outcome()
        assert len(backend.runs) == 1
        final = submit(engine, plan, "My card is?", key="u", revision=3, row_class=RowClass.FINAL)
        await final.outcome()
        assert len(backend.runs) == 2


async def test_equal_rows_of_a_batch_are_computed_once(repository: Path) -> None:
    backend = FakeBackend()
    gate = Gate()
    async with running(repository, backend=backend, memo_rows=0) as engine:
        plan = engine.compile(GRAPH, ["sentiment"])
        backend.runs.clear()
        backend.script = gate
        blocker = submit(engine, plan, "help")
        await gate.wait_entered()
        twins = [submit(engine, plan, text) for text in ("thank you", "Thank you", "order now")]
        gate.open.release(10)
        for answers in (blocker, *twins):
            assert await answers.outcome() is Outcome.DONE
        assert [run[:2] for run in backend.runs] == [(1, 3), (2, 4)]
        assert twins[0].values == twins[1].values != twins[2].values
        assert engine.stats().skipped == {"same_batch": 1}


# -- the queue ---------------------------------------------------------------------------------------------------------


async def test_superseded_cancelled_late_and_refused_rows_are_each_told_once(repository: Path) -> None:
    backend = FakeBackend()
    gate = Gate()
    now_s = 100.0
    engine = Engine(
        ModelRepository.open(repository),
        EngineSettings(max_queue_rows=3, memo_rows=0),
        {"retrieve": retrieve},
        backends={"fake": backend},
        clock=lambda: now_s,
    )
    await engine.start()
    plan = engine.compile(GRAPH, ["sentiment"])
    backend.script = gate
    running_row = submit(engine, plan, "help")
    await gate.wait_entered()
    old = submit(engine, plan, "my card", key="u", revision=1, row_class=RowClass.INTERIM)
    new = submit(engine, plan, "my card is", key="u", revision=2, row_class=RowClass.INTERIM)
    gone = submit(engine, plan, "thank you", owner="hung-up")
    late = submit(engine, plan, "order", deadline_s=101.0)
    too_late = submit(engine, plan, "order now", deadline_s=99.0)
    with pytest.raises(OverloadedError):
        submit(engine, plan, "one too many")
    engine.cancel("hung-up")
    now_s = 102.0
    gate.open.release(10)
    outcomes = [await answers.outcome() for answers in (running_row, old, new, gone, late, too_late)]
    assert outcomes == [
        Outcome.DONE,
        Outcome.SUPERSEDED,
        Outcome.DONE,
        Outcome.CANCELLED,
        Outcome.LATE,
        Outcome.LATE,
    ]
    stats = engine.stats()
    assert stats.dropped == {"superseded": 1, "cancelled": 1, "late": 2, "full": 1}
    assert stats.under_way == stats.queued_rows == 0
    await engine.stop()


async def test_rows_that_wait_share_a_batch(repository: Path) -> None:
    backend = FakeBackend()
    gate = Gate()
    async with running(repository, backend=backend) as engine:
        plan = engine.compile(GRAPH, ["sentiment"])
        backend.runs.clear()
        backend.script = gate
        first = submit(engine, plan, "help")
        await gate.wait_entered()
        others = [submit(engine, plan, f"{word} card") for word in ("my", "lost", "order", "late")]
        gate.open.release(10)
        for answers in (first, *others):
            assert await answers.outcome() is Outcome.DONE
        assert [run[:2] for run in backend.runs] == [(1, 3), (4, 4)]


# -- failure -----------------------------------------------------------------------------------------------------------


def poisoned(inputs: Tensors) -> None:
    if (inputs["input_ids"] == POISON).any():
        raise RuntimeError("quoting the input is what a runtime may do")


async def test_one_poisonous_row_fails_alone(repository: Path) -> None:
    backend = FakeBackend()
    gate = Gate()
    async with running(repository, backend=backend) as engine:
        plan = engine.compile(GRAPH, ["sentiment"])
        backend.script = gate
        blocker = submit(engine, plan, "help")
        await gate.wait_entered()
        rows = [submit(engine, plan, f"{word} card") for word in ("my", "poison", "order", "late", "a")]
        backend.script = poisoned
        gate.open.release(10)
        outcomes = [await answers.outcome() for answers in (blocker, *rows)]
        assert outcomes == [Outcome.DONE, Outcome.DONE, Outcome.FAILED, Outcome.DONE, Outcome.DONE, Outcome.DONE]
        error = rows[1].ends[0][1]
        assert isinstance(error, ModelFailed)
        assert "quoting" not in error.message
        assert engine.is_ready


async def test_a_model_that_loses_a_row_fails_its_rows_and_no_others(repository: Path) -> None:
    class Short(FakeBackend):
        def load(self, version: Any) -> Any:
            model = super().load(version)
            run = model.run

            def shortened(inputs: Tensors, outputs: Sequence[str], deadline_s: float = math.inf) -> Tensors:
                found = run(inputs, outputs, deadline_s)
                poisonous = (inputs["input_ids"] == POISON).any()
                return {name: rows[:-1] if poisonous else rows for name, rows in found.items()}

            model.run = shortened  # type: ignore[method-assign]
            return model

    async with running(repository, backend=Short()) as engine:
        plan = engine.compile(GRAPH, ["sentiment"])
        bad, good = submit(engine, plan, "poison"), submit(engine, plan, "card")
        assert await bad.outcome() is Outcome.FAILED
        assert await good.outcome() is Outcome.DONE


async def test_a_consumer_that_raises_costs_nobody_else(repository: Path) -> None:
    async with running(repository, backend=FakeBackend()) as engine:
        plan = engine.compile(GRAPH, ["sentiment"])
        told: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))

        def raises(*_: object) -> None:
            raise KeyError("consumer")

        inputs = {"text": "card", "speaker": "customer"}
        engine.submit(Request(plan=plan, inputs=inputs, owner="a", key="", on_outputs=raises, on_done=raises))
        assert await submit(engine, plan).outcome() is Outcome.DONE
        assert [type(context["exception"]) for context in told] == [KeyError, KeyError]
        asyncio.get_running_loop().set_exception_handler(None)


async def test_a_thread_that_dies_is_loud_and_leaves_nobody_waiting(
    repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backend = FakeBackend()
    async with running(repository, backend=backend) as engine:
        plan = engine.compile(GRAPH, ["sentiment"])

        def die(_: Tensors) -> None:
            raise SystemExit

        backend.script = die
        answers = submit(engine, plan)
        assert await answers.outcome() is Outcome.FAILED
        assert not engine.is_ready
        with pytest.raises(OverloadedError):
            submit(engine, plan)
        assert "an engine thread died" in caplog.text


# -- registered functions ----------------------------------------------------------------------------------------------


async def test_a_slow_lookup_holds_back_nothing_but_itself(repository: Path) -> None:
    entered, release = threading.Event(), threading.Event()

    def slow(_: np.ndarray, texts: Sequence[str], rows: Sequence[Any]) -> list[str]:
        entered.set()
        assert release.wait(30)
        return [text.upper() for text in texts]

    async with running(repository, backend=FakeBackend(), operators={"retrieve": slow}) as engine:
        plan = engine.compile(GRAPH, None)
        answers = submit(engine, plan, "lost", is_final=True)
        assert await asyncio.to_thread(entered.wait, 30)
        # The lookup has begun, so the heads have been handed to the loop; and another row goes through meanwhile.
        other = submit(engine, plan, "my card", is_final=False)
        assert await other.outcome() is Outcome.DONE
        assert set(answers.outputs) == set(HEADS)
        release.set()
        assert await answers.outcome() is Outcome.DONE
        assert answers.values["passages"] == "LOST"


async def test_a_lookup_that_fails_costs_only_its_own_row_its_outputs(repository: Path) -> None:
    def picky(_: np.ndarray, texts: Sequence[str], rows: Sequence[Any]) -> list[str]:
        if "poison" in texts:
            raise ValueError(texts)
        return list(texts)

    async with running(repository, backend=FakeBackend(), operators={"retrieve": picky}) as engine:
        plan = engine.compile(GRAPH, None)
        rows = [submit(engine, plan, text, is_final=True) for text in ("my", "poison", "card")]
        assert [await answers.outcome() for answers in rows] == [Outcome.DONE, Outcome.FAILED, Outcome.DONE]
        assert set(rows[1].outputs) == set(HEADS)
        assert isinstance(rows[1].ends[0][1], ModelFailed)
        assert "poison" not in str(rows[1].ends[0][1])


async def test_a_graph_that_needs_an_unregistered_function_is_refused(repository: Path) -> None:
    async with running(repository, backend=FakeBackend(), operators={}) as engine:
        with pytest.raises(InferenceError, match="nothing is registered as 'retrieve'"):
            engine.compile(GRAPH, None)


async def test_a_python_node_gets_what_it_reads_by_name(repository: Path) -> None:
    graph = parse_graph(
        """
name: shout
inputs: {text: string, volume: float}
nodes:
  louder: {op: python, function: shout, inputs: [text, volume], params: {mark: "!"}}
outputs: [louder]
""",
        "shout.yaml",
    )

    def shout(_: np.ndarray, texts: Sequence[str], rows: Sequence[Any]) -> list[str]:
        return [text + row["mark"] * int(row["volume"]) for text, row in zip(texts, rows, strict=True)]

    async with running(repository, backend=FakeBackend(), operators={"shout": shout}) as engine:
        plan = engine.compile(graph, None)
        outputs = await engine.run(plan, {"text": "help", "volume": 3.0})
        assert outputs["louder"].value == "help!!!"


# -- models ------------------------------------------------------------------------------------------------------------


async def test_a_pinned_version_answers_for_its_calls_only(real_repository: Path) -> None:
    async with running(real_repository) as engine:
        plan = engine.compile(GRAPH, ["intent"])
        pinned, free = submit(engine, plan, pins={"utterance": 1}), submit(engine, plan)
        assert await pinned.outcome() is await free.outcome() is Outcome.DONE
        assert pinned.outputs["intent"].version == 1
        assert free.outputs["intent"].version == 2
        assert pinned.values != free.values
        with pytest.raises(InferenceError, match="no version 7"):
            submit(engine, plan, pins={"utterance": 7})


async def test_versions_are_swapped_under_load_without_a_lost_or_misplaced_row(real_repository: Path) -> None:
    config = real_repository / "utterance" / "config.pbtxt"
    config.write_text(
        config.read_text().replace("version_policy { all {} }", "version_policy { specific { versions: 1 } }")
    )
    model = ModelRepository.open(real_repository).model("utterance")
    async with running(real_repository, memo_rows=64) as engine:
        plan = engine.compile(GRAPH, ["intent", "sentiment"])
        texts = [" ".join(WORDS[5 + (i + k) % 30] for k in range(1 + i % 9)) for i in range(40)]
        expected: dict[int, list[Any]] = {}
        rows: list[tuple[int, int, Answers]] = []
        serving = 1
        for swap in range(30):
            if swap:
                new = 3 - serving
                await engine.load_version(model.versions[new])
                engine.serve_version("utterance", new)
                old, serving = serving, new
            rows += [(serving, i, submit(engine, plan, text)) for i, text in enumerate(texts)]
            if swap:
                await engine.retire_version("utterance", old)
            if serving not in expected:
                found = [await engine.run(plan, {"text": text, "speaker": "customer"}) for text in texts]
                expected[serving] = [outputs["intent"].value["label"] for outputs in found]
        for version, i, answers in rows:
            assert await answers.outcome() is Outcome.DONE
            assert {output.version for output in answers.outputs.values()} == {version}
            assert answers.values["intent"]["label"] == expected[version][i]


async def test_a_version_that_answers_cannot_be_retired_and_a_bad_one_changes_nothing(real_repository: Path) -> None:
    model = ModelRepository.open(real_repository).model("utterance")
    async with running(real_repository) as engine:
        plan = engine.compile(GRAPH, ["intent"])
        with pytest.raises(InferenceError, match="let another one serve first"):
            await engine.retire_version("utterance", 2)
        with pytest.raises(ModelError, match="loaded already"):
            await engine.load_version(model.versions[2])
        await engine.retire_version("utterance", 1)
        (model.versions[1].path / "model.onnx").write_bytes(b"half")
        with pytest.raises(ModelError, match="cannot load it"):
            await engine.load_version(model.versions[1])
        with pytest.raises(InferenceError, match="no version 1"):
            engine.serve_version("utterance", 1)
        assert await submit(engine, plan).outcome() is Outcome.DONE


async def test_a_second_model_reads_what_the_first_one_gave(real_repository: Path) -> None:
    folder = real_repository / "tone"
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(
        """
name: "tone"
backend: "onnxruntime"
max_batch_size: 8
input { name: "embedding" data_type: TYPE_FP32 dims: [4] }
output { name: "tone_logits" data_type: TYPE_FP32 dims: [2] label_filename: "tone.txt" }
"""
    )
    (folder / "tone.txt").write_text("warm\ncold\n")
    (folder / "1" / "heads.json").write_text('{"tone_logits": {"kind": "distribution"}}')
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.eye(4, 2, dtype=np.float32), "weight")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["embedding", "weight"], ["tone_logits"])],
        "tone",
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["rows", 4])],
        [helper.make_tensor_value_info("tone_logits", TensorProto.FLOAT, ["rows", 2])],
        [weight],
    )
    onnx.save(
        helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)]), folder / "1" / "model.onnx"
    )
    chained = parse_graph(
        """
name: chained
inputs: {text: string}
nodes:
  tokens:    {op: tokenize, model: utterance, inputs: [text]}
  utterance: {op: model, model: utterance, inputs: [tokens]}
  second:    {op: model, model: tone, inputs: [utterance.embedding]}
  sentiment: {op: classify, inputs: [utterance.sentiment_logits]}
  tone:      {op: classify, inputs: [second.tone_logits], when: sentiment.score > 0.0}
outputs: [sentiment, tone]
""",
        "chained.yaml",
    )
    async with running(real_repository) as engine:
        plan = engine.compile(chained, None)
        texts = ["my card is lost", "thank you", "help me"]
        found = await asyncio.gather(*(engine.run(plan, {"text": text}) for text in texts))
        vectors = await engine.embed(texts)
        for outputs, vector in zip(found, vectors, strict=True):
            exponentials = np.exp(vector[:2])
            assert outputs["tone"].value["scores"]["warm"] == pytest.approx(
                exponentials[0] / exponentials.sum(), abs=1e-5
            )
            assert outputs["tone"].model == "tone"


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda f: (f / "1" / "model.onnx").write_bytes(b"half"), "cannot load it"),
        (
            lambda f: (f / "config.pbtxt").write_text((f / "config.pbtxt").read_text().replace("[4]", "[5]")),
            "given FP32",
        ),
        (
            lambda f: (f / "config.pbtxt").write_text(
                (f / "config.pbtxt").read_text().replace('"embedding"', '"vector"')
            ),
            "has no output vector",
        ),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "is no tokeniser"),
        (lambda f: (f / "config.pbtxt").write_text("nonsense"), "config.pbtxt"),
        (lambda f: (f / "1" / "model.onnx").unlink(), "no weights"),
    ],
)
async def test_a_broken_model_stops_the_start(tmp_path: Path, break_it: Callable[[Path], object], message: str) -> None:
    break_it(write_encoder(tmp_path))
    engine = Engine(ModelRepository.open(tmp_path))
    with pytest.raises(ModelError, match=message):
        await engine.start()
    assert not engine.is_ready
    await engine.stop()


async def test_a_device_that_is_not_there_is_refused(repository: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this build has CUDA")
    with pytest.raises(ModelError, match="no CUDAExecutionProvider"):
        Engine(ModelRepository.open(repository), EngineSettings(device="cuda"))


async def test_every_reachable_bucket_is_warmed_with_progress_before_ready(repository: Path) -> None:
    backend = FakeBackend(is_exact=False)
    engine = Engine(ModelRepository.open(repository), backends={"fake": backend})
    seen: list[tuple[str, float]] = []
    await engine.start(lambda name, share: seen.append((name, share)))
    await asyncio.sleep(0)
    assert {run[:2] for run in backend.runs} == {(1, 8), (4, 8), (8, 8), (1, 32), (4, 32), (8, 32)}
    assert seen[0] == ("utterance", 0.0)
    assert seen[-1] == ("utterance", 1.0)
    assert engine.is_ready
    await engine.stop()


async def test_shapes_are_padded_up_where_the_backend_wants_it(repository: Path) -> None:
    backend = FakeBackend(is_exact=False)
    async with running(repository, backend=backend) as engine:
        backend.runs.clear()
        await engine.run(engine.compile(GRAPH, ["sentiment"]), {"text": "my card", "speaker": "customer"})
        assert backend.runs == [(1, 8, ("sentiment_logits",))]


async def test_inputs_have_the_type_that_the_model_declares(repository: Path) -> None:
    config = repository / "utterance" / "config.pbtxt"
    token_types = ' { name: "token_type_ids" data_type: TYPE_INT64 dims: [-1] },'
    config.write_text(
        config.read_text().replace("TYPE_INT32", "TYPE_INT64").replace("input [", "input [" + token_types)
    )
    seen: list[dict[str, np.ndarray]] = []
    backend = FakeBackend()
    async with running(repository, backend=backend) as engine:
        backend.script = lambda inputs: seen.append({name: array.copy() for name, array in inputs.items()})
        await engine.run(engine.compile(GRAPH, ["sentiment"]), {"text": "my card", "speaker": "customer"})
    assert {name: array.tolist() for name, array in seen[0].items()} == {
        "token_type_ids": [[0, 0, 0, 0]],
        "input_ids": [[2, 5, 6, 3]],
        "attention_mask": [[1, 1, 1, 1]],
    }
    assert {array.dtype for array in seen[0].values()} == {np.dtype(np.int64)}


# -- life --------------------------------------------------------------------------------------------------------------


async def test_stop_answers_what_is_under_way_and_refuses_the_rest(repository: Path) -> None:
    backend = FakeBackend()
    gate = Gate()
    engine = Engine(ModelRepository.open(repository), operators={"retrieve": retrieve}, backends={"fake": backend})
    with pytest.raises(InferenceError):
        submit(engine, engine.compile(GRAPH, None))
    await engine.start()
    plan = engine.compile(GRAPH, None)
    backend.script = gate
    rows = [submit(engine, plan, text, is_final=True) for text in ("my card", "help", "thank you")]
    await gate.wait_entered()
    stopping = asyncio.create_task(engine.stop())
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError):
        submit(engine, plan, "too late")
    gate.open.release(10)
    assert [await answers.outcome() for answers in rows] == [Outcome.DONE] * 3
    await stopping
    assert threading.active_count() >= 1
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("engine")]


async def test_stop_does_not_wait_for_ever(repository: Path) -> None:
    backend = FakeBackend()
    gate = Gate()
    engine = Engine(ModelRepository.open(repository), operators={"retrieve": retrieve}, backends={"fake": backend})
    await engine.start()
    plan = engine.compile(GRAPH, ["sentiment"])
    backend.script = gate
    first = submit(engine, plan, "my card")
    await gate.wait_entered()
    queued = submit(engine, plan, "thank you")
    stopping = asyncio.create_task(engine.stop(timeout_s=0.0))
    assert await queued.outcome() is Outcome.CANCELLED
    gate.open.release(10)
    await stopping
    assert await first.outcome() is Outcome.DONE


async def test_what_happens_is_observed_and_counted(repository: Path) -> None:
    class Observer(SilentObserver):
        def __init__(self) -> None:
            self.heard: list[tuple[Any, ...]] = []

        def queue_delay(self, row_class: RowClass, delay_s: float) -> None:
            self.heard.append(("queue_delay", row_class))

        def batch(self, model: str, rows: int, tokens: int, padded_tokens: int, duration_s: float) -> None:
            self.heard.append(("batch", model, rows, tokens, padded_tokens))

        def node(self, node: str, duration_s: float, *, is_failed: bool) -> None:
            self.heard.append(("node", node, is_failed))

        def dropped(self, reason: str) -> None:
            self.heard.append(("dropped", reason))

    observer = Observer()
    async with running(repository, backend=FakeBackend(), observer=observer) as engine:
        plan = engine.compile(GRAPH, None)
        await submit(engine, plan, "my card", is_final=True).outcome()
        late = submit(engine, plan, deadline_s=0.0)
        assert await late.outcome() is Outcome.LATE
        assert observer.heard == [
            ("node", "utterance", False),
            ("batch", "utterance", 1, 4, 4),
            ("queue_delay", RowClass.FINAL),
            ("node", "passages", False),
            ("dropped", "late"),
        ]
        stats = engine.stats()
        assert (stats.submitted, stats.rows, stats.batches, stats.tokens) == (2, 1, 1, 4)
        assert stats.padding_ratio == 0.0
        assert set(stats.costs) == {"utterance/1"}


async def test_a_storm_of_requests_answers_each_exactly_once(repository: Path) -> None:
    """Every class, deadlines, revisions, cancellations and a failing model at once."""
    rng = np.random.default_rng(7)
    backend = FakeBackend(script=poisoned, slots=2)
    async with running(repository, backend=backend, max_queue_rows=64) as engine:
        plans = [engine.compile(GRAPH, names) for names in (None, ["intent"], ["sentiment", "moments"])]
        every: list[Answers] = []
        refused = 0
        for i in range(600):
            text = " ".join(rng.choice(WORDS[5:], size=rng.integers(0, 20)))
            try:
                every.append(
                    submit(
                        engine,
                        plans[i % 3],
                        text,
                        owner=f"call{rng.integers(8)}",
                        key=f"u{rng.integers(3)}",
                        revision=i,
                        row_class=RowClass(int(rng.integers(3))),
                        deadline_s=time.monotonic() + float(rng.choice([0.0, 0.001, 60.0])),
                        is_final=bool(rng.integers(2)),
                    )
                )
            except OverloadedError:
                refused += 1
            if i % 50 == 49:
                engine.cancel(f"call{rng.integers(8)}")
                await asyncio.sleep(0)
        outcomes = [await answers.outcome() for answers in every]
        stats = engine.stats()
        assert len(outcomes) + refused == stats.submitted == 600
        assert outcomes.count(Outcome.DONE) + sum(stats.dropped.values()) == 600
        assert stats.under_way == 0
        for answers, outcome in zip(every, outcomes, strict=True):
            if outcome is Outcome.FAILED:
                assert not answers.outputs
