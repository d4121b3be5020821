"""All contacts that this process reads: begun by events, ended by events, taken over from processes that died.

    event ──▶ cursor on disk ──▶ answered ──▶ consumer, until the contact is over

An event may reach any process: its end is left in the folder for whoever reads the contact. An event may come twice, or
an end before its beginning. Source: PROTOCOLS b2; contact events are neither ordered nor unique.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from server.config.settings import ConnectSettings
from server.ingest.audio_client import AudioClient
from server.ingest.connect.consumer import ContactConsumer
from server.ingest.connect.contacts import Contact
from server.ingest.connect.cursor import Claim, Cursor, CursorFolder, snapshot
from server.ingest.connect.kvs import KinesisVideo
from server.ingest.connect.sides import Sides, start_message
from server.metrics import Metrics
from server.wire.errors import Conflict, Overloaded
from server.wire.ids import AgentId, TenantId
from server.wire.ingest import AudioStart

log = logging.getLogger(__name__)

LOOK_EVERY_S = 2.0
"""How often a process looks for contacts that another one left, or ends that another one was told of: nothing tells
a process that its neighbour died."""

Key = tuple[TenantId, str]
Tokens = Callable[[TenantId], str | None]


@dataclass(slots=True)
class _Reading:
    consumer: ContactConsumer
    task: asyncio.Task[None]
    told_agent_id: AgentId | None = None
    """What another process left word of, so that it is passed on once."""


class ConnectService:
    """Reads contacts. `start`, then events, then `stop`.

    Args:
        folder: Cursors; shared by the processes that stand in for each other.
        kinesis: Where the audio is; opened by the caller.
        settings: Limits.
        metrics: Counts.
        tokens: Bearer token for a tenant's calls, None where the server is anonymous.
    """

    def __init__(
        self,
        folder: CursorFolder,
        kinesis: KinesisVideo,
        settings: ConnectSettings,
        metrics: Metrics,
        tokens: Tokens,
    ) -> None:
        self._folder = folder
        self._kinesis = kinesis
        self._settings = settings
        self._metrics = metrics
        self._tokens = tokens
        self._readings: dict[Key, _Reading] = {}
        self._beginning: set[Key] = set()
        self._looking: asyncio.Task[None] | None = None
        metrics.kvs_contacts.set_function(lambda: len(self._readings))

    @property
    def num_contacts(self) -> int:
        """Contacts being read by this process."""
        return len(self._readings)

    async def start(self) -> None:
        """Take over what nobody reads, and keep looking."""
        self._looking = asyncio.create_task(self._look(), name="connect-look")

    async def stop(self) -> None:
        """Let go of every contact as it is; another process goes on."""
        tasks = [reading.task for reading in self._readings.values()]
        if self._looking is not None:
            tasks.append(self._looking)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def begin(self, tenant_id: TenantId, contact: Contact) -> None:
        """Read a contact; returns when its cursor is on disk, so that an accepted contact is never forgotten.

        A contact that is being read, here or elsewhere, or that is over, changes nothing.

        Raises:
            Overloaded: As many are being read as this process reads.
        """
        key = (tenant_id, contact.contact_id)
        if key in self._readings or key in self._beginning:
            return
        self._check_room()
        self._beginning.add(key)
        try:
            try:
                claim = await asyncio.to_thread(self._folder.claim, *key)
            except Conflict:
                return
            await self._open(key, claim, contact)
        finally:
            self._beginning.discard(key)

    async def end(self, tenant_id: TenantId, contact_id: str) -> None:
        """A contact is over: whoever reads it reads what is still on the way and ends the call."""
        reading = self._readings.get((tenant_id, contact_id))
        if reading is not None:
            reading.consumer.end()
        else:
            await asyncio.to_thread(self._folder.announce_end, tenant_id, contact_id)

    async def assign(self, tenant_id: TenantId, contact_id: str, agent_id: AgentId) -> None:
        """An agent took a contact: whoever reads it tells the server."""
        reading = self._readings.get((tenant_id, contact_id))
        if reading is not None:
            await reading.consumer.assign(agent_id)
        else:
            await asyncio.to_thread(self._folder.announce_agent, tenant_id, contact_id, agent_id)

    def _check_room(self) -> None:
        if len(self._readings) + len(self._beginning) >= self._settings.max_contacts:
            raise Overloaded(f"this process reads {self._settings.max_contacts} contacts at once")

    async def _open(self, key: Key, claim: Claim, contact: Contact | None) -> None:
        """Begin a claimed contact, or go on with it; None: only if its cursor says that there is something left."""
        try:
            cursor = await asyncio.to_thread(claim.load)
            if cursor is None and contact is not None:
                cursor = Cursor(tenant_id=key[0], contact=contact)
                await asyncio.to_thread(claim.save, snapshot(cursor))
            if cursor is None or cursor.is_over:
                claim.release()
                return
            cursor.agent_id = cursor.agent_id or await asyncio.to_thread(self._folder.agent, *key)
            cursor.is_ending = cursor.is_ending or await asyncio.to_thread(self._folder.has_end, *key)
        except BaseException:
            claim.release()
            raise
        consumer = ContactConsumer(cursor, claim, self._kinesis, self._sides(cursor), self._settings, self._metrics)
        task = asyncio.create_task(consumer.run(), name=f"contact-{key[1]}")
        self._readings[key] = _Reading(consumer, task)
        task.add_done_callback(lambda done: self._finished(key, claim, done))
        log.info("reading a contact", extra={"contact": key[1], "resumed": bool(cursor.marks)})

    def _sides(self, cursor: Cursor) -> Sides:
        contact = cursor.contact

        def connect(start: AudioStart) -> AudioClient:
            return AudioClient(self._settings.server_url, start, token=self._tokens(cursor.tenant_id))

        return Sides(
            connect,
            start_message(
                contact.contact_id, cursor.tenant_id, contact.agent_id, contact.customer_id, contact.language
            ),
        )

    def _finished(self, key: Key, claim: Claim, task: asyncio.Task[None]) -> None:
        self._readings.pop(key, None)
        claim.release()
        if not task.cancelled() and task.exception() is not None:
            log.error("reading a contact failed", extra={"contact": key[1]}, exc_info=task.exception())
        elif not task.cancelled():
            log.info("a contact is over", extra={"contact": key[1]})

    async def _look(self) -> None:
        while True:
            try:
                await self._take_over()
            except OSError:
                log.exception("the folder of cursors cannot be read")
            await asyncio.sleep(LOOK_EVERY_S)

    async def _take_over(self) -> None:
        for tenant_id, contact_id in await asyncio.to_thread(lambda: list(self._folder.waiting(time.time()))):
            key = (TenantId(tenant_id), contact_id)
            reading = self._readings.get(key)
            if reading is not None:
                agent_id = await asyncio.to_thread(self._folder.agent, *key)
                if agent_id is not None and agent_id != reading.told_agent_id:
                    reading.told_agent_id = agent_id
                    await reading.consumer.assign(agent_id)
                if await asyncio.to_thread(self._folder.has_end, *key):
                    reading.consumer.end()
            elif key not in self._beginning and len(self._readings) < self._settings.max_contacts:
                self._beginning.add(key)
                try:
                    claim = await asyncio.to_thread(self._folder.claim, *key)
                    await self._open(key, claim, None)
                except Conflict:
                    pass  # another process has it
                finally:
                    self._beginning.discard(key)
