"""Two tenants with the same names for everything: one leak test for each place where their data lie side by side."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from inference.compile import compile_set
from inference.graph import parse_graph
from inference.memo import Memo
from inference.repository import ModelRepository
from retrieval.conversation import build_query
from retrieval.errors import NoSuchBase
from retrieval.ingest import ingest
from retrieval.store import BaseStore
from server.keys.keyring import Keyring
from server.keys.local import LocalKeys
from server.knowledge.library import Library
from server.live.policies import Policies
from server.log.contract import ChannelKey, Entry, Event
from server.log.embedded import EmbeddedLog
from server.metrics import Metrics
from server.policy.store import PolicyStore
from server.store.contract import Store
from server.store.sql import SqlStore
from server.wire.clock import Stamps
from server.wire.errors import Gone, NotFound
from server.wire.ids import TenantId
from server.wire.publication import Transcript
from tests.inference.model_folders import write_model
from tests.retrieval.hashing_embedder import HashingEmbedder
from tests.server.store.records import action, conversation, coverage, erasure, gap, receipt, utterance

MINE, THEIRS = TenantId("car_service"), TenantId("retail_bank")
SECRET = "my oil light"  # what every record of the tests says

READS = {
    "conversations": {"limit": 9, "before_ms": None},
    "conversation": {"conversation_id": "c1"},
    "agent_of": {"conversation_id": "c1"},
    "of_customer": {"customer_id": "ann"},
    "begun_before": {"before_ms": 1e15, "limit": 9},
    "unended": {"limit": 9},
    "unanswered": {"limit": 9},
    "erasures": {"receipt_id": "r1"},
    "has_action": {"conversation_id": "c1", "action_id": "a1"},
    "covered_ms": {"conversation_id": "c1", "speaker": "customer"},
    "revisions": {"conversation_id": "c1"},
}
"""Every read of the store, with arguments that find something for the one tenant."""
NO_TENANT = {"start", "stop", "apply", "tenants"}


async def test_rows(tmp_path: Path) -> None:
    reads = {name for name, _ in inspect.getmembers(Store, inspect.isfunction) if not name.startswith("_")}
    assert reads - NO_TENANT == READS.keys(), "a read that this test does not know"
    store = SqlStore(f"sqlite+aiosqlite:///{tmp_path / 'cueline.db'}")
    await store.start()
    await store.apply([conversation(customer_id="ann"), utterance(final=True), action(), receipt(), gap(), coverage()])
    nothing = {name: await getattr(store, name)(THEIRS, **arguments) for name, arguments in READS.items()}
    assert nothing == {
        "conversations": [], "conversation": None, "agent_of": (False, None), "of_customer": [], "begun_before": [],
        "unended": [], "unanswered": [], "erasures": [], "has_action": False, "covered_ms": 0, "revisions": {},
    }  # fmt: skip
    await store.apply([erasure(tenant_id=THEIRS)])
    assert SECRET in str(await store.conversation(MINE, "c1")), "their erasure reached mine"
    await store.stop()


async def test_streams(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path)
    await log.start()
    mine, theirs = ChannelKey(MINE, "call:c1"), ChannelKey(THEIRS, "call:c1")
    heard: list[Entry] = []
    log.follow(theirs, heard.extend)
    said = Transcript(
        utterance_id="u1", revision=1, speaker="customer", start_ms=0, end_ms=9, text=SECRET, is_final=True
    )
    await log.append(mine, [Event(said, Stamps())], SECRET.encode())
    assert heard == []
    assert await log.memory(theirs) == b""
    assert (await log.recover(theirs, None)).snapshot == ()
    assert await log.read(theirs, None, 9) == ()
    await log.trim(theirs)
    assert len(await log.read(mine, None, 9)) == 1
    await log.stop()


async def test_caches(tmp_path: Path) -> None:
    """Words are remembered by themselves, whoever said them; keys by whose they are."""
    memo: Memo[str] = Memo(10)
    memo.say((MINE, "c1", "u1"), b"words", b"ids")
    assert memo.said((THEIRS, "c1", "u1"), b"words") is None
    keys = Keyring(LocalKeys(tmp_path))
    await keys.check([MINE, THEIRS])
    sealed = keys.seal(MINE, SECRET.encode(), b"row")
    assert await keys.open(sealed, b"row") == SECRET.encode()  # the key is in memory now
    with pytest.raises(Gone):
        await keys.open(sealed.replace(MINE.encode(), THEIRS.encode()), b"row")


async def test_indexes(tmp_path: Path) -> None:
    for tenant, answer in ((MINE, "The reset takes five minutes."), (THEIRS, "The card arrives within two days.")):
        folder = tmp_path / tenant
        folder.mkdir()
        (folder / "a.md").write_text(f"# Help\n\n{answer}\n")
        await ingest(folder, BaseStore(tmp_path / "data", tenant, "faq"), HashingEmbedder())
    library = Library(tmp_path / "data", tmp_path / "none", HashingEmbedder(), HashingEmbedder())
    found = await library.search(THEIRS, "faq", build_query("how long does the reset take in minutes"), top_k=9)
    assert "reset" not in str([result.text for result in found.results])
    with pytest.raises(NoSuchBase):
        await library.search("nobody", "faq", build_query("how long does the reset take"))
    await library.stop()


def test_metric_labels() -> None:
    """Labels come from closed sets: none can hold a tenant, a call, a person or a word."""
    registry: CollectorRegistry = Metrics().registry
    labels = {label for collector in registry._collector_to_names for label in getattr(collector, "_labelnames", ())}
    assert labels.isdisjoint({"tenant", "tenant_id", "call", "conversation_id", "agent", "agent_id", "text", "user"})
    assert labels <= CLOSED_LABELS, f"{labels - CLOSED_LABELS}: from what closed set do their values come?"


CLOSED_LABELS = {
    "cause", "change", "code", "ev", "kind", "model", "node", "outcome", "output", "reason", "result", "row_class",
    "source", "stage", "state", "type", "what",
}  # fmt: skip


def test_graphs(tmp_path: Path) -> None:
    """One shared plan serves both, but each policy's own plan gives only what that policy asked for."""
    write_model(tmp_path / "models", "utterance")
    graph = parse_graph(
        """
name: guidance
inputs: {text: string}
nodes:
  tokens:    {op: tokenize, model: utterance, inputs: [text]}
  utterance: {op: model, model: utterance, inputs: [tokens]}
  intent:    {op: classify, inputs: [utterance.intent_logits]}
  question:  {op: classify, inputs: [utterance.question_logits]}
outputs: [intent, question]
""",
        "guidance.yaml",
    )
    wanted = {MINE: (graph, ["intent"]), THEIRS: (graph, ["question"])}
    plans = compile_set(wanted, ModelRepository.open(tmp_path / "models"), backends=("onnxruntime",))
    assert set(plans.plans[MINE].outputs) == {"intent"}
    assert set(plans.plans[THEIRS].outputs) == {"question"}


def test_policies(tmp_path: Path) -> None:
    text = "tenant: {0}\nversion: 1\ngraph: guidance\noutputs: {{intent: {{}}}}\nmoments: []\nactions: []\n"
    for tenant in (MINE, THEIRS):
        (tmp_path / f"{tenant}.yaml").write_text(text.format(tenant))
    store = PolicyStore(tmp_path)
    store.load()
    assert (store.get(MINE).tenant, store.get(THEIRS).tenant) == (MINE, THEIRS)
    with pytest.raises(NotFound):
        store.get("nobody")
    # The one way from a call to its policy takes the call's tenant and nothing else.
    assert list(inspect.signature(Policies.pin).parameters) == ["self", "tenant_id"]
