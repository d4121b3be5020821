import asyncio
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from retrieval import dense
from retrieval.article import Viewer
from retrieval.conversation import build_query
from retrieval.errors import (
    BadQuery,
    BaseBusy,
    DamagedIndex,
    EmptyFolder,
    EncoderMismatch,
    NoSuchBase,
    NothingBefore,
    UnreadableFile,
    Unwritable,
)
from retrieval.ingest import FOLDER, ingest
from retrieval.manifest import FORMAT_VERSION, MANIFEST
from retrieval.search import Answer, KnowledgeBase
from retrieval.store import KEPT_GENERATIONS, BaseStore, bases
from tests.retrieval.hashing_embedder import HashingEmbedder

REFUND = "# Refund status\n\nA refund for a returned jacket takes five working days.\n"
BOOTS = "# Waterproof boots\n\nHiking boots keep water outside and come with a warranty.\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "articles"
    folder.mkdir()
    (folder / "refund.md").write_text(REFUND)
    (folder / "boots.md").write_text(BOOTS)
    return folder


async def ask(data: Path, question: str, viewer: Viewer | None = None, tenant: str = "shop") -> list[str]:
    base = KnowledgeBase(data, tenant, "faq", HashingEmbedder())
    return [result.source for result in (await base.search(build_query(question), viewer=viewer)).results]


async def test_finds_what_was_ingested(tmp_path: Path, folder: Path) -> None:
    report = await ingest(folder, BaseStore(tmp_path, "shop", "faq"), HashingEmbedder())
    assert (report.articles_new, report.skipped, report.manifest.index) == (2, (), "flat")
    assert (await ask(tmp_path, "refund for returned jacket"))[0] == "refund.md"
    assert await ask(tmp_path, "zebra quantum lasagne") == []


async def test_ingesting_again_changes_nothing(tmp_path: Path, folder: Path) -> None:
    store = BaseStore(tmp_path, "shop", "faq")
    await ingest(folder, store, HashingEmbedder())
    again = HashingEmbedder()
    report = await ingest(folder, store, again)
    assert not report.is_changed
    assert report.articles_same == 2
    assert again.embedded == []
    assert store.generations() == [1]


async def test_an_edit_touches_only_what_changed_and_is_seen_by_an_open_base(tmp_path: Path, folder: Path) -> None:
    store = BaseStore(tmp_path, "shop", "faq")
    await ingest(folder, store, HashingEmbedder())
    base = KnowledgeBase(tmp_path, "shop", "faq", HashingEmbedder())
    before = base.generation()
    (folder / "refund.md").write_text(REFUND.replace("five", "nine"))
    embedder = HashingEmbedder()
    report = await ingest(folder, store, embedder)
    assert (report.articles_new, report.articles_changed, report.articles_same) == (0, 1, 1)
    assert not any("boots" in text for text in embedder.embedded)
    answer = await base.search(build_query("refund for returned jacket"))
    assert "nine" in answer.results[0].text
    same = [passage.id for passage in before.content.passages if passage.source == "boots.md"]
    assert same == [passage.id for passage in base.generation().content.passages if passage.source == "boots.md"]


async def test_the_same_articles_by_hand_make_the_base_its_owners(tmp_path: Path, folder: Path) -> None:
    store = BaseStore(tmp_path, "shop", "faq")
    await ingest(folder, store, HashingEmbedder(), origin=FOLDER)
    report = await ingest(folder, store, HashingEmbedder())
    assert (report.is_changed, report.articles_same, report.passages_embedded) == (True, 2, 0)
    assert store.manifest().origin == ""
    assert not (await ingest(folder, store, HashingEmbedder())).is_changed
    store.rollback()
    assert store.manifest().origin == FOLDER


async def test_a_deleted_file_is_gone_and_rollback_brings_it_back(tmp_path: Path, folder: Path) -> None:
    store = BaseStore(tmp_path, "shop", "faq")
    await ingest(folder, store, HashingEmbedder())
    (folder / "refund.md").unlink()
    assert (await ingest(folder, store, HashingEmbedder())).articles_gone == 1
    assert "refund.md" not in await ask(tmp_path, "refund for returned jacket")
    assert store.rollback() == 1
    assert "refund.md" in await ask(tmp_path, "refund for returned jacket")
    with pytest.raises(NothingBefore, match="no generation before 1"):
        store.rollback()


async def test_only_a_few_generations_are_kept(tmp_path: Path, folder: Path) -> None:
    store = BaseStore(tmp_path, "shop", "faq")
    for number in range(KEPT_GENERATIONS + 2):
        (folder / "refund.md").write_text(f"{REFUND} Edition {number}.\n")
        await ingest(folder, store, HashingEmbedder())
    assert store.generations() == list(range(3, KEPT_GENERATIONS + 3))


async def test_a_bad_file_is_skipped_and_harms_no_other(tmp_path: Path, folder: Path) -> None:
    (folder / "torn.pdf").write_bytes(b"%PDF-1.7 torn")
    (folder / "torn.docx").write_bytes(b"PK no archive")
    (folder / "torn.json").write_text('{"title": ')
    (folder / "noise.md").write_bytes(bytes(range(256)) * 8)
    (folder / "empty.html").write_text("<html></html>")
    (folder / "picture.png").write_bytes(b"\x89PNG")
    report = await ingest(folder, BaseStore(tmp_path, "shop", "faq"), HashingEmbedder())
    skipped = {entry.source for entry in report.skipped}
    assert skipped == {"torn.pdf", "torn.docx", "torn.json", "noise.md", "empty.html", "picture.png"}
    assert all(entry.reason for entry in report.skipped)
    assert report.manifest.articles == 2


async def test_an_empty_folder_replaces_nothing(tmp_path: Path, folder: Path) -> None:
    store = BaseStore(tmp_path, "shop", "faq")
    await ingest(folder, store, HashingEmbedder())
    for name in ("refund.md", "boots.md"):
        (folder / name).unlink()
    with pytest.raises(EmptyFolder):
        await ingest(folder, store, HashingEmbedder())
    with pytest.raises(EmptyFolder, match="no such folder"):
        await ingest(tmp_path / "missing", store, HashingEmbedder())
    (tmp_path / "one.md").write_text(BOOTS)
    with pytest.raises(EmptyFolder, match="is a file; name the folder"):
        await ingest(tmp_path / "one.md", store, HashingEmbedder())
    assert await ask(tmp_path, "refund for returned jacket")


async def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "secret.md").write_text("# Secret\n\nlasagne recipe of the house\n")
    (folder / "link.md").symlink_to(tmp_path / "secret.md")
    report = await ingest(folder, BaseStore(tmp_path, "shop", "faq"), HashingEmbedder())
    assert report.manifest.articles == 2


async def test_another_encoder_is_refused_with_the_command(tmp_path: Path, folder: Path) -> None:
    await ingest(folder, BaseStore(tmp_path, "shop", "faq"), HashingEmbedder())
    # Another version has other phrases as well, but that is not what its owner should be told.
    np.save(BaseStore(tmp_path, "shop", "faq").path(1) / "anchors.npy", np.zeros((3, 4), np.float32))
    base = KnowledgeBase(tmp_path, "shop", "faq", HashingEmbedder(version=2))
    with pytest.raises(EncoderMismatch, match="cueline kb ingest DIR --kb faq --tenant shop"):
        base.generation()
    report = await ingest(folder, BaseStore(tmp_path, "shop", "faq"), HashingEmbedder(version=2))
    assert report.is_changed
    assert base.generation().manifest.generation == 2


async def test_another_version_with_the_same_vectors_keeps_the_index(tmp_path: Path, folder: Path) -> None:
    store = BaseStore(tmp_path, "shop", "faq")
    await ingest(folder, store, HashingEmbedder())
    later = HashingEmbedder()
    later.identity = structs.replace(later.identity, version=2)
    assert KnowledgeBase(tmp_path, "shop", "faq", later).generation().manifest.generation == 1
    assert not (await ingest(folder, store, later)).is_changed
    later.identity = structs.replace(later.identity, output="retrieval")
    with pytest.raises(EncoderMismatch):
        KnowledgeBase(tmp_path, "shop", "faq", later).generation()


@pytest.mark.parametrize("name", ["vectors.faiss", "parts.npy", "passages.msgpack", "terms.msgpack", "manifest.json"])
@pytest.mark.parametrize("is_torn", [True, False])
async def test_a_damaged_base_says_so_and_an_ingest_mends_it(
    tmp_path: Path, folder: Path, name: str, is_torn: bool
) -> None:
    store = BaseStore(tmp_path, "shop", "faq")
    await ingest(folder, store, HashingEmbedder())
    file = store.path(1) / name
    if is_torn:
        file.write_bytes(file.read_bytes()[:20])
    else:
        file.unlink()
    with pytest.raises(DamagedIndex):
        KnowledgeBase(tmp_path, "shop", "faq", HashingEmbedder()).generation()
    await ingest(folder, store, HashingEmbedder())
    assert await ask(tmp_path, "refund for returned jacket")


async def test_two_ingests_of_a_base_do_not_meet_nor_an_ingest_and_its_end(tmp_path: Path, folder: Path) -> None:
    store = BaseStore(tmp_path, "shop", "faq")
    with store.writing():
        with pytest.raises(BaseBusy):
            await ingest(folder, store, HashingEmbedder())
        with pytest.raises(BaseBusy):
            store.delete()


@pytest.mark.parametrize("number", [1, FORMAT_VERSION + 1])
async def test_another_format_is_named_with_the_command(tmp_path: Path, folder: Path, number: int) -> None:
    store = BaseStore(tmp_path, "shop", "faq")
    await ingest(folder, store, HashingEmbedder())
    (store.path(1) / MANIFEST).write_text(f'{{"format": {number}, "base": "faq", "index": "of another time"}}')
    with pytest.raises(DamagedIndex, match=f"format {number}.*cueline kb ingest DIR --kb faq --tenant shop"):
        KnowledgeBase(tmp_path, "shop", "faq", HashingEmbedder()).generation()
    assert (await ingest(folder, store, HashingEmbedder())).manifest.generation == 2


async def test_a_full_disk_is_told_and_leaves_the_base_as_it_was(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = BaseStore(tmp_path, "shop", "faq")
    await ingest(folder, store, HashingEmbedder())
    (folder / "boots.md").write_text(BOOTS.replace("water", "snow"))

    def full(*_: object) -> None:
        raise RuntimeError("could not write")

    monkeypatch.setattr(dense.faiss, "write_index", full)  # as FAISS tells it
    with pytest.raises(Unwritable, match=r"faq cannot be written .*vectors\.faiss") as raised:
        await ingest(folder, store, HashingEmbedder())
    assert raised.value.retryable
    assert (store.current(), store.generations()) == (1, [1])


async def test_a_folder_that_nobody_may_write_is_told(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "kb").write_text("a file where the bases should be")
    with pytest.raises(Unwritable, match="faq cannot be written"):
        await ingest(folder, BaseStore(tmp_path, "shop", "faq"), HashingEmbedder())


async def test_a_tenant_never_reaches_the_base_of_another(tmp_path: Path, folder: Path) -> None:
    await ingest(folder, BaseStore(tmp_path, "shop", "faq"), HashingEmbedder())
    assert bases(tmp_path, "shop") == ["faq"]
    assert bases(tmp_path, "other") == []
    with pytest.raises(NoSuchBase):
        await ask(tmp_path, "refund", tenant="other")
    for name in ("../shop", "", "a/b", ".", "x" * 65):
        with pytest.raises(BadQuery):
            BaseStore(tmp_path, name, "faq")


async def test_rights_and_queues_hold_before_the_search(tmp_path: Path, folder: Path) -> None:
    (folder / "secret.md").write_text("---\nrights: [supervisor]\n---\n# Refund goodwill\n\nRefund jacket at once.\n")
    (folder / "sales.md").write_text("---\nqueues: sales\n---\n# Jacket prices\n\nA returned jacket is sold cheaper.\n")
    (folder / "access.yaml").write_text('"secret.md": {queues: [complaints]}\n')
    await ingest(folder, BaseStore(tmp_path, "shop", "faq"), HashingEmbedder())
    question = "refund returned jacket at once"
    assert not {"secret.md", "sales.md"} & set(await ask(tmp_path, question))
    assert "sales.md" in await ask(tmp_path, question, Viewer(queue="sales"))
    assert "secret.md" not in await ask(tmp_path, question, Viewer(frozenset({"supervisor"})))
    assert "secret.md" in await ask(tmp_path, question, Viewer(frozenset({"supervisor"}), "complaints"))


async def test_wrong_rights_are_refused_not_guessed(tmp_path: Path, folder: Path) -> None:
    (folder / "secret.md").write_text("---\nrights: {a: b}\n---\n# Secret\n\nlasagne\n")
    (folder / "torn.md").write_text("---\nrights: [a\n---\n# Torn\n\nlasagne\n")
    report = await ingest(folder, BaseStore(tmp_path, "shop", "faq"), HashingEmbedder())
    assert {entry.source for entry in report.skipped} >= {"torn.md"}
    (folder / "access.yaml").write_text("- no mapping\n")
    with pytest.raises(UnreadableFile):
        await ingest(folder, BaseStore(tmp_path, "shop", "faq"), HashingEmbedder())


async def test_searches_during_swaps_see_one_generation_each(tmp_path: Path, folder: Path) -> None:
    store = BaseStore(tmp_path, "shop", "faq")
    await ingest(folder, store, HashingEmbedder())
    base = KnowledgeBase(tmp_path, "shop", "faq", HashingEmbedder())
    answers: list[Answer] = []
    done = asyncio.Event()

    async def search() -> None:
        while not done.is_set():
            answers.append(await base.search(build_query("refund for returned jacket")))
            await asyncio.to_thread(lambda: None)  # let the ingest's threads run

    searching = asyncio.create_task(search())
    for number in range(2, 8):
        (folder / "refund.md").write_text(REFUND.replace("five", str(number)))
        await ingest(folder, store, HashingEmbedder())
    done.set()
    await searching
    for answer in answers:
        told = "five" if answer.generation == 1 else str(answer.generation)
        assert f" {told} working" in answer.results[0].text


async def test_a_base_deleted_during_search_is_a_typed_error(tmp_path: Path, folder: Path) -> None:
    store = BaseStore(tmp_path, "shop", "faq")
    await ingest(folder, store, HashingEmbedder())
    base = KnowledgeBase(tmp_path, "shop", "faq", HashingEmbedder())
    opened = base.generation()
    store.delete()
    assert opened.dense.vectors.sum() != 0  # what is mapped stays readable
    with pytest.raises(NoSuchBase):
        await base.search(build_query("refund"))
