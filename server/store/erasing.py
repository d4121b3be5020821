"""Erasing a conversation from the database, for good: its rows go, and a tombstone stays.

The tombstone is the receipt. It also keeps out what comes late: another process's journal may still hold records of a
conversation that was erased meanwhile. Appliers and erasers lock each other out, so that no record slips between.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec
from sqlalchemy import delete, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from server.store import schema
from server.store.contract import ErasureRecord

ConversationKey = tuple[str, str]

_TABLES = tuple(table for table in schema.metadata.sorted_tables if table is not schema.erasures)
"""Every table but the tombstones: each holds something of a conversation, and no later one can be forgotten here."""


async def erased_among(connection: AsyncConnection, keys: Collection[ConversationKey]) -> set[ConversationKey]:
    """Which of these conversations were erased."""
    table = schema.erasures
    query = select(table.c.tenant_id, table.c.conversation_id).where(
        tuple_(table.c.tenant_id, table.c.conversation_id).in_(list(keys))
    )
    return {(found[0], found[1]) for found in await connection.execute(query)}


async def erase(connection: AsyncConnection, insert: Any, record: ErasureRecord) -> None:
    """Delete all rows of a conversation and leave its tombstone; a second time only deletes what came between."""
    num_rows = {}
    for table in _TABLES:
        ours = (table.c.tenant_id == record.tenant_id) & (table.c.conversation_id == record.conversation_id)
        num_rows[table.name] = (await connection.execute(select(func.count()).select_from(table).where(ours))).scalar()
        if num_rows[table.name]:
            await connection.execute(delete(table).where(ours))
    row = {**msgspec.structs.asdict(record), "num_rows": num_rows}
    await connection.execute(insert(schema.erasures).on_conflict_do_nothing(), row)
