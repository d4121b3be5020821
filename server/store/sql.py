"""The store on SQLAlchemy Core: SQLite by default, PostgreSQL in production, one schema for both.

Batches are upserted in one transaction, `ON CONFLICT … DO UPDATE … WHERE` the revision is higher, so that applying
twice changes nothing. Errors are of three sorts: the database is away (`Unavailable`, try again), the database or its
schema is wrong (`ConfigError`, at the start), a record that it will not take (raised as it is; the outbox isolates it).

A database server that is away at the start does not hold the start up: the schema is brought up to date by the first
transaction that reaches it, and the outbox keeps the records until then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import Table, and_, exc, func, not_, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from server.keys.keyring import Keyring
from server.store import schema
from server.store.contract import UNANSWERED, ConversationRecord, ErasureRecord, Record, owner_of
from server.store.database import MAX_CONNECTIONS, STATEMENT_TIMEOUT_S, open_database
from server.store.erasing import erase, erased_among
from server.store.migrate import migrate
from server.store.records import Kept, rows
from server.store.sealing import Sealer
from server.wire.errors import ConfigError, Unavailable
from server.wire.ids import AgentId, TenantId

logger = logging.getLogger(__name__)


class SqlStore:
    """`Store` on a database.

    Args:
        url: Where it is, and how it may be used: see `open_database`.
        password: See there.
        max_connections: See there.
        statement_timeout_s: See there.
        keys: Seal customer words; None: they lie there as they are.

    Raises:
        ConfigError: Not a URL of a database that this server can use.
    """

    def __init__(
        self,
        url: str,
        *,
        password: str = "",
        max_connections: int = MAX_CONNECTIONS,
        statement_timeout_s: float = STATEMENT_TIMEOUT_S,
        keys: Keyring | None = None,
    ) -> None:
        self._database = open_database(
            url, password=password, max_connections=max_connections, statement_timeout_s=statement_timeout_s
        )
        self._sealer = Sealer(keys)
        # Built once: of the event loop's time for a batch, making and hashing the statements was the half.
        self._upserts = [(table, self._upsert(table)) for table in schema.metadata.sorted_tables]
        self._is_open = False
        self._is_migrated = False
        self._migrating = asyncio.Lock()

    async def start(self) -> None:
        """Connect and migrate to the newest schema.

        Raises:
            ConfigError: The schema is newer than the code, the file is no database or is damaged, or the server
                does not know us.
        """
        self._is_open = True
        try:
            await self._database.prepare()
            await self._migrate()
        except Exception as error:
            refused = self._database.start_error(error)
            if refused is None:
                reason = str(getattr(error, "orig", None) or error or type(error).__name__).partition("\n")[0]
                logger.warning(
                    "the database does not answer; records wait on the disk", extra={**self._where, "reason": reason}
                )
                return
            await self.stop()
            raise refused from error

    async def apply(self, records: Sequence[Record]) -> None:
        """Upsert a batch in one transaction.

        Raises:
            Unavailable: It should be tried again.
            Exception: The database refuses a record of this batch.
        """
        erasures = [record for record in records if isinstance(record, ErasureRecord)]
        gone = {owner_of(record) for record in erasures}
        kept: list[Kept] = [r for r in records if not isinstance(r, ErasureRecord) and owner_of(r) not in gone]
        async with self._transaction(is_writing=True) as connection:
            await self._database.lock_erasing(connection, is_eraser=bool(erasures))
            gone |= await erased_among(connection, {owner_of(record) for record in kept})
            batch = rows(record for record in kept if owner_of(record) not in gone)
            for table, upsert in self._upserts:
                if table.name in batch and (written := await self._sealer.sealed(table, batch[table.name])):
                    await connection.execute(upsert, written)
            for record in erasures:
                await erase(connection, self._database.insert, record)
        if erasures:
            try:
                await self._database.forget_freed()
            except exc.SQLAlchemyError:
                logger.warning("freed pages stay in the database's journal for now", extra=self._where)

    async def conversations(self, tenant_id: TenantId, *, limit: int, before_ms: float | None) -> list[dict[str, Any]]:
        """Newest first; `before_ms` is the `started_ms` of the last one of the page before."""
        table = schema.conversations
        query = select(table).where(table.c.tenant_id == tenant_id)
        if before_ms is not None:
            query = query.where(table.c.started_ms < before_ms)
        query = query.order_by(table.c.started_ms.desc(), table.c.conversation_id.desc()).limit(limit)
        async with self._transaction() as connection:
            return [dict(found) for found in (await connection.execute(query)).mappings()]

    async def conversation(self, tenant_id: TenantId, conversation_id: str) -> dict[str, Any] | None:
        """One conversation with its utterances (highest revisions, audio order), actions, gaps and receipts."""
        async with self._transaction() as connection:

            async def of(table: Table, *order: str) -> list[dict[str, Any]]:
                query = select(table).where(table.c.tenant_id == tenant_id, table.c.conversation_id == conversation_id)
                result = await connection.execute(query.order_by(*(table.c[name] for name in order)))
                return [
                    {name: value for name, value in found.items() if name not in ("tenant_id", "conversation_id")}
                    for found in result.mappings()
                ]

            found = await of(schema.conversations)
            if not found:
                return None
            utterances = await of(schema.utterances, "start_ms", "speaker", "utterance_id")
            actions = await of(schema.actions, "action_id")
            gaps = await of(schema.gaps, "from_ms", "speaker")
            receipts = await of(schema.receipts, "at_ms", "action_id", "event")
        # Opened after the transaction: a key service that is slow must not hold a connection.
        owner = {"tenant_id": tenant_id, "conversation_id": conversation_id}
        for said in utterances:
            said |= await self._sealer.opened(schema.utterances, {**owner, **said})
            del said["content"]
        for card in actions:
            card["action"] = await self._sealer.opened(schema.actions, {**owner, **card})
            del card["content"]
        return {
            **owner,
            **found[0],
            "utterances": utterances,
            "actions": actions,
            "gaps": gaps,
            "receipts": receipts,
        }

    async def unanswered(self, tenant_id: TenantId, limit: int) -> list[dict[str, Any]]:
        """Questions that the knowledge base did not answer, of the newest calls first."""
        table, calls = schema.actions, schema.conversations
        same_call = (table.c.tenant_id == calls.c.tenant_id) & (table.c.conversation_id == calls.c.conversation_id)
        query = (
            select(table)
            .join(calls, same_call)
            .where(table.c.tenant_id == tenant_id, table.c.action_id.startswith(UNANSWERED, autoescape=True))
            .order_by(calls.c.started_ms.desc(), table.c.action_id)
            .limit(limit)
        )
        async with self._transaction() as connection:
            found = [dict(row) for row in (await connection.execute(query)).mappings()]
        questions = []
        for row in found:
            card = await self._sealer.opened(schema.actions, row)
            asked = {"question": card["title"], "evidence": card.get("evidence", [])}
            questions.append({"conversation_id": row["conversation_id"], **asked})
        return questions

    async def agent_of(self, tenant_id: TenantId, conversation_id: str) -> tuple[bool, AgentId | None]:
        """Whether there is such a conversation, and whose it is."""
        table = schema.conversations
        query = select(table.c.agent_id).where(
            table.c.tenant_id == tenant_id, table.c.conversation_id == conversation_id
        )
        async with self._transaction() as connection:
            found = (await connection.execute(query)).first()
        return (False, None) if found is None else (True, found[0])

    async def of_customer(self, tenant_id: TenantId, customer_id: str) -> list[str]:
        """Conversations of a customer."""
        table = schema.conversations
        query = select(table.c.conversation_id).where(
            table.c.tenant_id == tenant_id, table.c.customer_id == customer_id
        )
        async with self._transaction() as connection:
            return [found[0] for found in await connection.execute(query)]

    async def begun_before(self, tenant_id: TenantId, before_ms: float, limit: int) -> list[str]:
        """Conversations that began before that, oldest first."""
        table = schema.conversations
        query = (
            select(table.c.conversation_id)
            .where(table.c.tenant_id == tenant_id, table.c.started_ms < before_ms)
            .order_by(table.c.started_ms)
            .limit(limit)
        )
        async with self._transaction() as connection:
            return [found[0] for found in await connection.execute(query)]

    async def unended(self, tenant_id: TenantId, limit: int) -> list[ConversationRecord]:
        """Conversations that began and did not end, newest first."""
        table = schema.conversations
        query = (
            select(table)
            .where(table.c.tenant_id == tenant_id, table.c.state != "ended")
            .order_by(table.c.started_ms.desc())
            .limit(limit)
        )
        async with self._transaction() as connection:
            found = (await connection.execute(query)).mappings()
            return [ConversationRecord(**row) for row in found]

    async def tenants(self) -> list[TenantId]:
        """Tenants that have conversations here."""
        async with self._transaction() as connection:
            found = await connection.execute(select(schema.conversations.c.tenant_id).distinct())
            return [row[0] for row in found]

    async def erasures(self, tenant_id: TenantId, receipt_id: str) -> list[dict[str, Any]]:
        """What was erased for that receipt, with the number of rows by table."""
        table = schema.erasures
        query = (
            select(table)
            .where(table.c.tenant_id == tenant_id, table.c.receipt_id == receipt_id)
            .order_by(table.c.conversation_id)
        )
        async with self._transaction() as connection:
            return [dict(found) for found in (await connection.execute(query)).mappings()]

    async def has_action(self, tenant_id: TenantId, conversation_id: str, action_id: str) -> bool:
        """Whether that card was published in that conversation."""
        table = schema.actions
        query = select(table.c.revision).where(
            table.c.tenant_id == tenant_id,
            table.c.conversation_id == conversation_id,
            table.c.action_id == action_id,
        )
        async with self._transaction() as connection:
            return (await connection.execute(query)).first() is not None

    async def covered_ms(self, tenant_id: TenantId, conversation_id: str, speaker: str) -> int:
        """What was acknowledged of that side, at least to its last stored final, else 0: where a source resumes."""
        utterances, coverage = schema.utterances, schema.coverage
        final_ms = select(func.max(utterances.c.end_ms)).where(
            utterances.c.tenant_id == tenant_id,
            utterances.c.conversation_id == conversation_id,
            utterances.c.speaker == speaker,
            utterances.c.is_final,
        )
        acknowledged_ms = select(coverage.c.revision).where(
            coverage.c.tenant_id == tenant_id,
            coverage.c.conversation_id == conversation_id,
            coverage.c.speaker == speaker,
        )
        async with self._transaction() as connection:
            found = [(await connection.execute(query)).scalar() or 0 for query in (final_ms, acknowledged_ms)]
        return max(found)

    async def revisions(self, tenant_id: TenantId, conversation_id: str) -> dict[str, tuple[int, bool]]:
        """Utterance id to (highest stored revision, is_final), so that a resumed call never goes back."""
        table = schema.utterances
        query = select(table.c.utterance_id, table.c.revision, table.c.is_final).where(
            table.c.tenant_id == tenant_id, table.c.conversation_id == conversation_id
        )
        async with self._transaction() as connection:
            return {found[0]: (found[1], found[2]) for found in await connection.execute(query)}

    async def stop(self) -> None:
        """Finish and disconnect."""
        self._is_open = False
        await self._database.engine.dispose()

    @property
    def _where(self) -> dict[str, str]:
        return {"place": self._database.place}

    @asynccontextmanager
    async def _transaction(self, *, is_writing: bool = False) -> AsyncIterator[AsyncConnection]:
        """One transaction on the newest schema; what the database has against it is told apart.

        Raises:
            Unavailable: The database is away.
            Exception: It refuses a value.
        """
        if not self._is_open:
            raise Unavailable("the store is not running")
        try:
            if not self._is_migrated:
                await self._migrate()
            async with self._database.transaction(is_writing=is_writing) as connection:
                yield connection
        except (exc.SQLAlchemyError, OSError, TimeoutError) as error:
            if self._database.is_refusal(error):
                raise
            raise Unavailable("the store does not answer") from error
        except ConfigError as error:
            # Found out late, by a database that was away at the start. The records are not at fault.
            logger.critical("the database cannot be used", extra=self._where, exc_info=error)
            raise Unavailable("the store cannot be used") from error

    async def _migrate(self) -> None:
        async with self._migrating:
            if not self._is_migrated:
                async with self._database.transaction(is_writing=True) as connection:
                    await self._database.lock_schema(connection)
                    await connection.run_sync(migrate)
                self._is_migrated = True

    def _upsert(self, table: Table) -> Any:
        statement = self._database.insert(table)
        key = [column.name for column in table.primary_key]
        if "revision" not in table.c:
            return statement.on_conflict_do_nothing(index_elements=key)
        new = statement.excluded
        is_newer = new.revision > table.c.revision
        if "is_final" in table.c:
            is_newer = or_(and_(new.is_final, not_(table.c.is_final)), and_(new.is_final == table.c.is_final, is_newer))
        values = {column.name: new[column.name] for column in table.c if column.name not in key}
        return statement.on_conflict_do_update(index_elements=key, set_=values, where=is_newer)
