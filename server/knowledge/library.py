"""The tenants' knowledge bases of this process: opened, searched in threads, kept in step with their folders.

    paths.knowledge/<base>/… ──at start, and when a file changes──▶ ingest ─▶ new generation
    query ─▶ vectors (the engine remembers those of utterances) ─▶ search in a thread ─▶ Answer

A base that somebody filled by hand (`cueline kb ingest`, REST) is theirs: the server's folder no longer touches it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from inference.embedding import vectors_of
from inference.engine import Engine
from inference.errors import InferenceError
from inference.request import EmbeddingArray, RowClass
from retrieval.apart import MAX_INLINE_BYTES, ingest_apart, size_bytes
from retrieval.article import Viewer
from retrieval.conversation import Query
from retrieval.errors import BaseBusy, DamagedIndex, EmptyFolder, NoSuchBase, RetrievalError
from retrieval.ingest import FOLDER, Report, ingest
from retrieval.manifest import Embedder, EncoderIdentity, Manifest, read_origin
from retrieval.search import Answer, KnowledgeBase
from retrieval.store import BaseStore, bases, tenants
from server.knowledge.upload import unpack

log = logging.getLogger(__name__)

WATCH_INTERVAL_S = 20.0
"""How soon an edited article is seen; an ingest of what changed takes a second. Within a minute was asked for."""
SEARCH_THREADS = 2
"""Searches are short and hold the interpreter lock half of the time: more threads would only wait for each other."""

Stamps = tuple[tuple[str, int, int], ...]
Wanted = Callable[[], Iterable[tuple[str, str]]]
"""Tenants with the names of their bases, as their policies name them now."""


@dataclass(frozen=True, slots=True)
class LiveEmbedder:
    """Embeds for somebody who waits: among the finals, and from memory where the words were just annotated.

    Attributes:
        engine: Started.
        identity: Of the model it serves.
    """

    engine: Engine
    identity: EncoderIdentity

    async def embed(self, texts: Sequence[str]) -> EmbeddingArray:
        """Return `[texts, dims] float32`, L2-normalised; one batch for all that are new."""
        of = self.identity  # the index has vectors of no other version
        return await vectors_of(self.engine, of.model, texts, of.version, of.output, RowClass.FINAL)


class Library:
    """Event-loop thread only, but for `store`.

    Args:
        data: The data directory.
        folder: Holds a folder of articles for each base that the server fills itself.
        searching: Embeds for searches.
        ingesting: Embeds for ingests, behind all live work.
    """

    def __init__(self, data: Path, folder: Path, searching: Embedder, ingesting: Embedder) -> None:
        self._data = data
        self._folder = folder
        self._searching = searching
        self._ingesting = ingesting
        self._threads = ThreadPoolExecutor(SEARCH_THREADS, thread_name_prefix="knowledge")
        self._bases: dict[tuple[str, str], KnowledgeBase] = {}
        self._stamps: dict[tuple[str, str], Stamps] = {}
        self._troubles: dict[tuple[str, str], str] = {}
        self._watch: asyncio.Task[None] | None = None

    async def start(self, wanted_bases: Wanted) -> None:
        """Make the bases that policies name hold what their folders hold, and keep it so.

        Args:
            wanted_bases: Asked now and again, since policies change. A base whose folder cannot be read is told and
                left as it is.
        """
        wanted = frozenset(wanted_bases())
        await self._keep_in_step(wanted)
        await asyncio.gather(*(self._open(tenant, name) for tenant, name in sorted(wanted)))
        await asyncio.to_thread(self._check_others, wanted)
        self._watch = asyncio.create_task(self._follow(wanted_bases), name="knowledge-watch")

    async def stop(self) -> None:
        """Stop following the folders; searches under way are finished."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        await asyncio.to_thread(self._threads.shutdown)

    def names(self, tenant: str, name: str) -> tuple[str, ...]:
        """Names in a base's public articles, for recognisers. Raises as `base`."""
        return self.base(tenant, name).names

    def base(self, tenant: str, name: str) -> KnowledgeBase:
        """Return a base of a tenant; it may not have been filled yet.

        Raises:
            BadQuery: If the name is none.
        """
        base = self._bases.get((tenant, name))
        if base is None:
            base = KnowledgeBase(self._data, tenant, name, self._searching, self._threads)
            if base.store.folder.is_dir():  # a name that somebody made up is not kept
                self._bases[tenant, name] = base
        return base

    async def search(
        self, tenant: str, name: str, query: Query, *, top_k: int = 3, viewer: Viewer | None = None
    ) -> Answer:
        """Search one of the tenant's bases, with the sentences that answer.

        Raises:
            RetrievalError: As `KnowledgeBase.search`.
            InferenceError: The engine takes no more.
        """
        return await self.base(tenant, name).search(query, top_k=top_k, viewer=viewer, highlights=True)

    async def manifests(self, tenant: str) -> list[Manifest]:
        """What the tenant's bases say of themselves; one that cannot be read is left out, and told in the log."""
        return await asyncio.to_thread(self._manifests, tenant)

    async def fill(self, tenant: str, name: str, archive: bytes) -> Report:
        """Make a base hold what a ZIP of articles holds. From then on it is its owner's, no folder touches it.

        Raises:
            RetrievalError: As `ingest`.
            BadRequest: The archive cannot be used.
            TooLarge: Too much in it.
        """
        store = self.store(tenant, name)
        folder = TemporaryDirectory(prefix="cueline-kb-")
        try:
            await asyncio.to_thread(unpack, archive, Path(folder.name))
            return await self._ingest(Path(folder.name), store)
        except EmptyFolder as error:  # the sender knows an archive, no folder
            raise EmptyFolder(error.message, field="body") from error
        finally:
            await asyncio.to_thread(folder.cleanup)  # thousands of files, and calls go on meanwhile

    async def rollback(self, tenant: str, name: str) -> int:
        """Search the generation before the current one again. Raises `RetrievalError`."""
        return await asyncio.to_thread(self.store(tenant, name).rollback)

    async def remove(self, tenant: str, name: str) -> None:
        """Remove a base; searches under way finish on what they have. Raises `RetrievalError`."""
        store = self.store(tenant, name)
        await asyncio.to_thread(store.current)
        await asyncio.to_thread(store.delete)
        self._bases.pop((tenant, name), None)

    def _manifests(self, tenant: str) -> list[Manifest]:
        found = []
        for name in bases(self._data, tenant):
            try:
                found.append(BaseStore(self._data, tenant, name).manifest())
            except RetrievalError as error:
                log.warning("a knowledge base cannot be read", extra={"kb": name, "code": error.code})
        return found

    def store(self, tenant: str, name: str) -> BaseStore:
        """Return the files of a base. Raises as `base`."""
        return BaseStore(self._data, tenant, name)

    async def _ingest(self, folder: Path, store: BaseStore, origin: str = "") -> Report:
        is_small = await asyncio.to_thread(size_bytes, folder) <= MAX_INLINE_BYTES
        work = ingest if is_small else ingest_apart  # a large one would make searches wait
        return await work(folder, store, self._ingesting, origin=origin)

    # Folders

    async def _follow(self, wanted: Wanted) -> None:
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            await self._keep_in_step(wanted())

    async def _keep_in_step(self, wanted: Iterable[tuple[str, str]]) -> None:
        for tenant, name in sorted(set(wanted)):
            trouble = ""
            try:
                await self._ingest_changed(tenant, name)
            except BaseBusy:  # another process of this server does it, and this one will find it done
                log.debug("a knowledge base is being filled by another process", extra={"kb": name})
            except Exception as error:  # whatever it is, other bases are followed on, and this one is tried again
                is_known = isinstance(error, RetrievalError | InferenceError | OSError)
                trouble = str(error) if is_known else type(error).__name__
                if trouble != self._troubles.get((tenant, name)):  # once, not with every look at the folder
                    log.error(
                        "a knowledge base could not be brought up to date",
                        extra={"kb": name, "reason": trouble},
                        exc_info=not is_known,
                    )
            self._troubles[tenant, name] = trouble

    def _check_others(self, wanted: Collection[tuple[str, str]]) -> None:
        """Tell which bases that no policy names cannot be searched: nobody else would, before somebody asks them."""
        for tenant in tenants(self._data):
            for name in bases(self._data, tenant):
                if (tenant, name) in wanted:
                    continue
                try:
                    self.store(tenant, name).manifest().check_encoder(self._searching.identity, tenant)
                except RetrievalError as error:
                    _tell_unsearchable(tenant, name, error)

    async def _open(self, tenant: str, name: str) -> None:
        """Open what is current: the first question need not, and calls have its names."""
        try:
            await asyncio.to_thread(self.base(tenant, name).generation)
        except NoSuchBase:
            log.info("a knowledge base holds nothing yet", extra={"kb": name})
        except RetrievalError as error:
            _tell_unsearchable(tenant, name, error)

    async def _ingest_changed(self, tenant: str, name: str) -> None:
        folder = self._folder / name
        stamps = await asyncio.to_thread(_stamps, folder)
        if not stamps or self._stamps.get((tenant, name)) == stamps:
            return
        store = BaseStore(self._data, tenant, name)
        if not await asyncio.to_thread(_is_ours, store):
            return
        report = await self._ingest(folder, store, FOLDER)
        self._stamps[tenant, name] = stamps
        for skipped in report.skipped:
            log.warning("an article was left out", extra={"kb": name, "source": skipped.source, "why": skipped.reason})
        if report.is_changed:
            counts = {"articles": report.manifest.articles, "passages": report.manifest.passages}
            log.info("knowledge base filled", extra={"kb": name, "generation": report.manifest.generation, **counts})
        elif await asyncio.to_thread(lambda: store.is_rolled_back):
            log.info("a knowledge base stays rolled back until its folder changes", extra={"kb": name})


def _tell_unsearchable(tenant: str, name: str, error: RetrievalError) -> None:
    log.warning("a knowledge base cannot be searched", extra={"tenant": tenant, "kb": name, "reason": error.message})


def _is_ours(store: BaseStore) -> bool:
    """Whether the server's folder fills the base: nobody has yet, the server did before, or nothing says who did.

    Where the current manifest cannot be read, the newest generation that can be says whose the base is. One without any
    answers nobody, so nothing is lost with it.
    """
    try:
        newest_first = [store.current(), *reversed(store.generations())]
    except NoSuchBase:
        return True
    except DamagedIndex:
        newest_first = list(reversed(store.generations()))
    origins = (read_origin(store.path(generation)) for generation in newest_first)
    return next((origin for origin in origins if origin is not None), FOLDER) == FOLDER


def _stamps(folder: Path) -> Stamps:
    """Name, time and size of every file: what changes when an article does."""
    if not folder.is_dir():
        return ()
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    stats = [(path.relative_to(folder).as_posix(), path.stat()) for path in files]
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats)
