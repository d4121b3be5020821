"""Folder → new generation of a base, touching what changed.

folder ─▶ files ─▶ articles ─▶ passages ─▶ vectors (those of equal text are taken over) ─▶ index ─▶ calibrate ─▶ swap
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np

from inference.request import EmbeddingArray
from retrieval.access import idle, is_rules_file, narrowed_by, read_rules
from retrieval.anchors import OFF_TOPIC, PHRASES, Anchors
from retrieval.article import Article, Audience
from retrieval.chunking import Passage, chunk, part_texts
from retrieval.content import Content
from retrieval.dense import DenseIndex, kind_for
from retrieval.errors import DamagedIndex, EmptyFolder, NoSuchBase, UnreadableFile
from retrieval.generation import Generation, write_generation
from retrieval.lexical import LexicalIndex
from retrieval.manifest import Calibration, Embedder, Manifest
from retrieval.names import names as names_in
from retrieval.readers import READERS, read_file
from retrieval.scoring import PART_WEIGHTS, candidates, lexical_scores, score
from retrieval.store import BaseStore
from retrieval.words import query_terms

FOLDER = "folder"
"""Origin of a base that the server fills from its own folder, and keeps in step with it."""
EMBED_BLOCK = 512
THRESHOLD_QUANTILE = 0.95
"""Share of off-topic questions whose evidence lies below the threshold."""
MIN_THRESHOLD = 0.3
"""A base of one article resembles nothing; this much, questions resemble any."""

Progress = Callable[[str, int, int], None]
"""Stage (`read`, `embed`, `index`), done, total."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that was left out.

    Attributes:
        source: Its relative path.
        reason: Why.
    """

    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """What an ingest did.

    Attributes:
        manifest: Of the generation that is current now.
        is_changed: False: nothing was written, because the folder said what the base held already or, where the
            server follows it, what somebody rolled back. Where only the base's owner is another now, a generation is
            written, of the same articles.
        articles_new: Articles that were not there before.
        articles_changed: Articles with other text, title or audience than before.
        articles_same: Articles taken over.
        articles_gone: Articles that are no more.
        passages_embedded: Texts of passages and parts that went through the encoder.
        skipped: Files left out, with reasons.
    """

    manifest: Manifest
    is_changed: bool
    articles_new: int
    articles_changed: int
    articles_same: int
    articles_gone: int
    passages_embedded: int
    skipped: tuple[Skipped, ...]


_Item = tuple[tuple[float, str], ...]
"""What one vector is the sum of: texts with their weights."""


@dataclass(slots=True)
class _Before:
    """What the generation before offers."""

    by_source: dict[str, tuple[str, ...]] = field(default_factory=dict)
    vectors: dict[_Item, EmbeddingArray] = field(default_factory=dict)
    digest: str = ""
    manifest: Manifest | None = None


async def ingest(
    folder: Path, store: BaseStore, embedder: Embedder, progress: Progress | None = None, *, origin: str = ""
) -> Report:
    """Make a base hold what a folder holds. A search meanwhile sees the base as it was, then as it is.

    Args:
        folder: Read recursively; hidden files and links out of it are left out.
        store: Where to.
        embedder: The encoder that searches will use.
        progress: Called now and then, from this task or from its worker thread.
        origin: Noted in the manifest: `FOLDER`, or empty for an ingest by hand.

    Raises:
        EmptyFolder: If the folder is missing or has no readable file; the base stays as it was.
        UnreadableFile: If an `access.yaml` cannot be read: rights that are not understood must not be guessed.
        BaseBusy: If another ingest of this base is running.
        Unwritable: If there is no room for the new generation, or no permission to write it.
    """
    tell = progress or (lambda stage, done, total: None)
    with store.writing() as target:
        articles, skipped, num_files = await asyncio.to_thread(read_folder, folder, tell)
        before = await asyncio.to_thread(_before, store, embedder)
        passages = await asyncio.to_thread(lambda: [passage for article in articles for passage in chunk(article)])
        content = Content.of(passages)
        digest = _digest(passages)
        by_source = _by_source(passages)
        is_known = before.manifest is not None and (digest, origin) == (before.digest, before.manifest.origin)
        # What somebody went back from does not come again by itself: the folder has to say something else.
        is_undone = origin == FOLDER and digest == await asyncio.to_thread(_undone, store)
        if before.manifest is not None and (is_known or is_undone):
            return Report(before.manifest, False, 0, 0, len(by_source), 0, 0, skipped)
        items = [_passage_item(passage) for passage in passages]
        items += [_part_item(content.part(number)) for number in range(content.num_parts)]
        vectors, num_embedded = await _embed(items, before, embedder, tell)
        anchors = await embedder.embed(PHRASES)
        public = [passage.text for passage in passages if passage.audience == Audience()]
        generation = max(store.generations(), default=0) + 1
        draft = Manifest(
            base=store.base,
            generation=generation,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            encoder=embedder.identity,
            index=kind_for(len(passages)),
            files=num_files,
            articles=len(by_source),
            passages=len(passages),
            parts=content.num_parts,
            calibration=Calibration(0.0, 0.0, 0.0),
            digest=digest,
            sizes_bytes={},
            origin=origin,
            names=await asyncio.to_thread(names_in, public),
        )
        tell("index", 0, 1)
        with store.write_errors():
            manifest = await asyncio.to_thread(_write, target, content, vectors, anchors, draft)
            await asyncio.to_thread(store.publish, target, generation)
        tell("index", 1, 1)
    common = by_source.keys() & before.by_source.keys()
    same = sum(by_source[source] == before.by_source[source] for source in common)
    return Report(
        manifest,
        True,
        len(by_source.keys() - common),
        len(common) - same,
        same,
        len(before.by_source.keys() - common),
        num_embedded,
        skipped,
    )


def read_folder(folder: Path, tell: Progress) -> tuple[list[Article], tuple[Skipped, ...], int]:
    """Read every file of a folder, in the order of their paths.

    Returns:
        Articles, files left out, and the number of files read.

    Raises:
        EmptyFolder: If nothing could be read.
        UnreadableFile: If an `access.yaml` cannot be.
    """
    if not folder.is_dir():
        is_there = folder.exists()
        raise EmptyFolder("is a file; name the folder it lies in" if is_there else "no such folder", field="DIR")
    sources = {path.relative_to(folder).as_posix(): path for path in sorted(_files(folder))}
    rules = [rule for source, path in sources.items() if is_rules_file(path) for rule in read_rules(path, source)]
    sources = {source: path for source, path in sources.items() if not is_rules_file(path)}
    articles: list[Article] = []
    skipped: list[Skipped] = []
    num_files = 0
    for number, (source, path) in enumerate(sources.items(), 1):
        try:
            found = read_file(path, source)
        except UnreadableFile as error:
            skipped.append(Skipped(source, error.reason))
        else:
            num_files += 1
            articles.extend(
                replace(article, audience=narrowed_by(rules, source, article.audience))
                for article in found
                if article.has_text
            )
            skipped.extend(Skipped(article.source, "has no text") for article in found if not article.has_text)
        tell("read", number, len(sources))
    if not sources:
        raise EmptyFolder("holds no file", field="DIR")
    if not articles:
        known = ", ".join(READERS)
        why = f"; {skipped[0].source}: {skipped[0].reason}" if skipped else ""
        raise EmptyFolder(f"no file in it can be read (known: {known}){why}", field="DIR")
    skipped += [Skipped(rule.source, f"`{rule.pattern}` covers no file") for rule in idle(rules, list(sources))]
    return articles, tuple(skipped), num_files


def _files(folder: Path) -> Iterator[Path]:
    root = folder.resolve()
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(parent) / name
            # A link may point at anything of the machine; only what lies in the folder belongs to it.
            if not name.startswith(".") and path.resolve().is_relative_to(root):
                yield path


def _before(store: BaseStore, embedder: Embedder) -> _Before:
    """Read what can be taken over; nothing from another encoder or a damaged base, which an ingest mends."""
    try:
        opened = Generation.open(store, store.current())
    except (NoSuchBase, DamagedIndex):
        return _Before()
    content = opened.content
    before = _Before(_by_source(content.passages))
    if not opened.manifest.encoder.is_like(embedder.identity):
        return before
    before.digest, before.manifest = opened.manifest.digest, opened.manifest
    for number, passage in enumerate(content.passages):
        before.vectors[_passage_item(passage)] = opened.dense.vectors[number]
    for number in range(content.num_parts):
        before.vectors[_part_item(content.part(number))] = opened.part_vectors[number]
    return before


def _undone(store: BaseStore) -> str:
    """Digest of the newest generation where somebody went back from it; empty where nobody did."""
    try:
        return store.manifest(store.generations()[-1]).digest if store.is_rolled_back else ""
    except (NoSuchBase, DamagedIndex):
        return ""


def _passage_item(passage: Passage) -> _Item:
    return ((1.0, passage.embedded),)


def _part_item(passages: Sequence[Passage]) -> _Item:
    return tuple(zip(PART_WEIGHTS, part_texts(passages), strict=True))


def _by_source(passages: Sequence[Passage]) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for passage in passages:
        found.setdefault(passage.source, []).extend((passage.id, repr(_audience_key(passage.audience))))
    return {source: tuple(ids) for source, ids in found.items()}


def _audience_key(audience: Audience) -> tuple[list[str], list[str]]:
    return sorted(audience.rights), sorted(audience.queues)


def _digest(passages: Sequence[Passage]) -> str:
    digest = hashlib.sha256()
    for passage in passages:
        digest.update(f"{passage.id} {passage.part} {_audience_key(passage.audience)}\n".encode())
    return digest.hexdigest()[:16]


async def _embed(
    items: Sequence[_Item], before: _Before, embedder: Embedder, tell: Progress
) -> tuple[EmbeddingArray, int]:
    vectors = np.zeros((len(items), embedder.identity.dims), np.float32)
    missing: dict[str, list[tuple[int, float]]] = {}
    for number, item in enumerate(items):
        known = before.vectors.get(item)
        if known is not None:
            vectors[number] = known
            continue
        for weight, text in item:
            missing.setdefault(text, []).append((number, weight))
    # Neighbours in length share a batch without padding; the engine forms the batches.
    todo = sorted(missing, key=len)
    tell("embed", 0, len(todo))
    for start in range(0, len(todo), EMBED_BLOCK):
        block = todo[start : start + EMBED_BLOCK]
        for text, vector in zip(block, await embedder.embed(block), strict=True):
            for number, weight in missing[text]:
                vectors[number] += weight * vector
        tell("embed", start + len(block), len(todo))
    return vectors, len(todo)


def _write(
    folder: Path, content: Content, vectors: EmbeddingArray, anchors: EmbeddingArray, draft: Manifest
) -> Manifest:
    num = len(content.passages)
    write_generation(folder, content, vectors[:num], vectors[num:], anchors)
    sizes = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
    dense = DenseIndex.load(folder, draft.index, vectors.shape[1], content.audience_of)
    lexical = LexicalIndex.load(folder, content.num_parts)
    opened = Generation(draft, content, dense, vectors[num:], Anchors.of(anchors), lexical)
    manifest = msgspec.structs.replace(draft, calibration=calibrate(opened), sizes_bytes=sizes)
    manifest.write(folder)
    return manifest


def calibrate(generation: Generation) -> Calibration:
    """Find the evidence that questions reach which the base does not answer."""
    reached = []
    for vector, phrase in zip(generation.anchors.off_topic, OFF_TOPIC, strict=True):
        lexical = lexical_scores(generation, [query_terms(phrase)])
        chosen = candidates(generation, vector[None], lexical, None)
        reached.append(float(score(generation, chosen, vector[None], lexical).parts.max()))
    threshold = max(float(np.quantile(reached, THRESHOLD_QUANTILE)), MIN_THRESHOLD)
    return Calibration(threshold, float(np.median(reached)), max(reached))
