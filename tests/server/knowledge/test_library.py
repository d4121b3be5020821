"""Bases of this process: filled from folders, followed, and whose they are."""

import logging

import pytest

from retrieval.conversation import build_query
from retrieval.errors import BadQuery, NoSuchBase
from retrieval.ingest import ingest
from retrieval.manifest import MANIFEST
from retrieval.store import BaseStore
from server.knowledge.library import Library
from tests.retrieval.hashing_embedder import HashingEmbedder
from tests.server.knowledge.test_upload import archive

QUESTION = build_query("refund for a returned jacket")


def library_of(tmp_path, articles):
    embedder = HashingEmbedder()
    return Library(tmp_path, articles.parent, embedder, embedder)


async def test_a_base_that_nobody_filled_holds_what_its_folder_holds(tmp_path, articles):
    library = library_of(tmp_path, articles)
    await library.start(lambda: [("shop", "faq"), ("shop", "no_such_folder")])
    answer = await library.search("shop", "faq", QUESTION)
    assert answer.results[0].source == "refund.md"
    start, end = answer.results[0].highlights[0]
    assert "five working days" in answer.results[0].text[start:end]
    await library.stop()


async def test_its_names_are_known_before_anybody_asks_but_not_those_of_articles_for_a_few(tmp_path, articles):
    (articles / "plan.md").write_text("# Plan\n\nDrivers buy the AutoCare Plus plan.\n")
    (articles / "secret.md").write_text("---\nrights: [staff]\n---\n# Secret\n\nAsk for Project Falcon first.\n")
    library = library_of(tmp_path, articles)
    await library.start(lambda: [("shop", "faq"), ("shop", "none")])
    assert library.names("shop", "faq") == ("AutoCare Plus",)
    assert library.names("shop", "none") == ()
    await library.stop()


async def test_an_edit_is_taken_in_and_the_rest_left(tmp_path, articles):
    library = library_of(tmp_path, articles)
    await library.start(lambda: [("shop", "faq")])
    (articles / "refund.md").write_text("# Refund status\n\nA refund for a returned jacket takes nine working days.\n")
    await library._keep_in_step([("shop", "faq")])
    answer = await library.search("shop", "faq", QUESTION)
    assert "nine" in answer.results[0].text
    assert library.store("shop", "faq").current() == 2
    await library._keep_in_step([("shop", "faq")])
    assert library.store("shop", "faq").current() == 2
    await library.stop()


async def test_a_rollback_holds_over_a_restart_until_the_folder_says_something_else(tmp_path, articles):
    bases = [("shop", "faq")]
    library = library_of(tmp_path, articles)
    await library.start(lambda: bases)
    refund = articles / "refund.md"
    refund.write_text("# Refund status\n\nA refund for a returned jacket takes nine working days.\n")
    await library._keep_in_step(bases)
    assert await library.rollback("shop", "faq") == 1
    await library.stop()

    library = library_of(tmp_path, articles)
    await library.start(lambda: bases)
    assert "five working days" in (await library.search("shop", "faq", QUESTION)).results[0].text
    refund.write_text("# Refund status\n\nA refund for a returned jacket takes seven working days.\n")
    await library._keep_in_step(bases)
    assert "seven working days" in (await library.search("shop", "faq", QUESTION)).results[0].text
    assert library.store("shop", "faq").current() == 3
    await library.stop()


async def test_a_base_filled_by_hand_is_left_alone(tmp_path, articles):
    own = tmp_path / "own"
    own.mkdir()
    (own / "own.md").write_text("# Own\n\nA refund for a returned jacket is our own affair.\n")
    await ingest(own, BaseStore(tmp_path, "shop", "faq"), HashingEmbedder())
    library = library_of(tmp_path, articles)
    await library.start(lambda: [("shop", "faq")])
    answer = await library.search("shop", "faq", QUESTION)
    assert [result.source for result in answer.results] == ["own.md"]
    await library.stop()


async def test_another_encoder_has_the_servers_own_bases_made_again(tmp_path, articles):
    await ingest(articles, BaseStore(tmp_path, "shop", "faq"), HashingEmbedder(version=1), origin="folder")
    embedder = HashingEmbedder(version=2)
    library = Library(tmp_path, articles.parent, embedder, embedder)
    await library.start(lambda: [("shop", "faq")])
    assert (await library.search("shop", "faq", QUESTION)).results
    await library.stop()


@pytest.mark.parametrize("manifest", [b"{torn", b'{"format": 1}', None])
async def test_a_base_whose_manifest_cannot_be_read_is_made_again(manifest, tmp_path, articles):
    store = BaseStore(tmp_path, "shop", "faq")
    await ingest(articles, store, HashingEmbedder(), origin="folder")
    damage(store, manifest)
    library = library_of(tmp_path, articles)
    await library.start(lambda: [("shop", "faq")])
    assert (await library.search("shop", "faq", QUESTION)).results[0].source == "refund.md"
    assert (store.current(), store.manifest().origin) == (2, "folder")
    await library.stop()


async def test_but_not_where_an_older_generation_says_that_it_is_somebody_elses(tmp_path, articles, caplog):
    store = BaseStore(tmp_path, "shop", "faq")
    await ingest(articles, store, HashingEmbedder())
    (articles / "plan.md").write_text("# Plan\n\nDrivers buy the AutoCare Plus plan.\n")
    await ingest(articles, store, HashingEmbedder())
    damage(store, b"{torn")
    library = library_of(tmp_path, articles)
    await library.start(lambda: [("shop", "faq")])
    assert store.current() == 2
    assert "cannot be searched" in caplog.text
    await library.stop()


async def test_nor_where_one_of_an_older_format_says_so(tmp_path, articles, caplog):
    store = BaseStore(tmp_path, "shop", "faq")
    await ingest(articles, store, HashingEmbedder())
    damage(store, b'{"format": 2, "base": "faq", "origin": ""}')
    library = library_of(tmp_path, articles)
    await library.start(lambda: [("shop", "faq")])
    assert store.current() == 1
    (told,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "format 2" in told.reason
    assert "cueline kb ingest DIR --kb faq --tenant shop" in told.reason
    await library.stop()


def damage(store, manifest):
    file = store.path(store.current()) / MANIFEST
    if manifest is None:
        file.unlink()
    else:
        file.write_bytes(manifest)


async def test_a_base_that_no_policy_names_is_told_of_when_it_cannot_be_searched(tmp_path, articles, caplog):
    for tenant, name, version in (("shop", "old", 1), ("other", "new", 2), ("shop", "torn", 2), ("shop", "faq", 2)):
        await ingest(articles, BaseStore(tmp_path, tenant, name), HashingEmbedder(version))
    damage(BaseStore(tmp_path, "shop", "torn"), b"{torn")
    embedder = HashingEmbedder(version=2)
    library = Library(tmp_path, articles.parent, embedder, embedder)
    await library.start(lambda: [("shop", "faq")])
    told = {record.kb: record.reason for record in caplog.records if record.levelno >= logging.WARNING}
    assert told.keys() == {"old", "torn"}
    assert all(f"cueline kb ingest DIR --kb {name} --tenant shop" in reason for name, reason in told.items())
    await library.stop()


async def test_a_base_that_a_changed_policy_names_is_filled(tmp_path, articles):
    wanted = []
    library = library_of(tmp_path, articles)
    await library.start(lambda: wanted)
    with pytest.raises(NoSuchBase):
        await library.search("shop", "faq", QUESTION)
    wanted.append(("shop", "faq"))
    await library._keep_in_step(wanted)
    assert (await library.search("shop", "faq", QUESTION)).results
    await library.stop()


async def test_the_same_trouble_is_told_once(tmp_path, articles, caplog):
    for file in articles.iterdir():
        file.unlink()
    (articles / "scan.pdf").write_bytes(b"no pdf")
    library = library_of(tmp_path, articles)
    await library.start(lambda: [("shop", "faq")])
    await library._keep_in_step([("shop", "faq")])
    assert caplog.text.count("could not be brought up to date") == 1
    (articles / "refund.md").write_text("# Refund\n\nA refund for a returned jacket takes five days.\n")
    await library._keep_in_step([("shop", "faq")])
    assert (await library.search("shop", "faq", QUESTION)).results
    (articles / "refund.md").unlink()
    await library._keep_in_step([("shop", "faq")])
    assert caplog.text.count("could not be brought up to date") == 2
    await library.stop()


async def test_an_archive_of_what_the_folder_holds_makes_the_base_its_senders(tmp_path, articles):
    library = library_of(tmp_path, articles)
    await library.start(lambda: [("shop", "faq")])
    sent = archive(**{path.name: path.read_text() for path in articles.iterdir()})
    report = await library.fill("shop", "faq", sent)
    assert (report.articles_same, report.manifest.origin) == (2, "")
    (articles / "refund.md").write_text("# Refund status\n\nA refund for a returned jacket takes nine working days.\n")
    await library._keep_in_step([("shop", "faq")])
    assert library.store("shop", "faq").current() == report.manifest.generation
    await library.stop()


async def test_a_folder_that_cannot_be_read_stops_nothing(tmp_path, articles, caplog):
    for file in articles.iterdir():
        file.unlink()
    (articles / "scan.pdf").write_bytes(b"no pdf")
    library = library_of(tmp_path, articles)
    await library.start(lambda: [("shop", "faq")])
    assert "could not be brought up to date" in caplog.text
    await library.stop()


async def test_two_processes_fill_a_base_once(tmp_path, articles, caplog):
    library = library_of(tmp_path, articles)
    with BaseStore(tmp_path, "shop", "faq").writing():  # the other one is at it
        await library.start(lambda: [("shop", "faq")])
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    await library._keep_in_step([("shop", "faq")])
    assert (await library.search("shop", "faq", QUESTION)).results
    await library.stop()


async def test_bases_belong_to_their_tenant(library):
    with pytest.raises(NoSuchBase):
        await library.search("other", "faq", QUESTION)
    with pytest.raises(BadQuery):
        await library.search("shop", "../shop/faq", QUESTION)
