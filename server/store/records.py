"""How a record becomes a row, and which of two records stays. Pure.

Finals rank above interims, then the higher revision wins; receipts stay as they first came. That is an order: records
may be applied twice, in any order and in any batches, and the same is left. It also thins a batch before it is written,
so that of the fifty interims of a batch one reaches the database.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from sqlalchemy import Table

from server.store import schema
from server.store.contract import (
    ActionRecord,
    ConversationRecord,
    CoverageRecord,
    GapRecord,
    ReceiptRecord,
    UtteranceRecord,
)
from server.wire.codec import json_encoder

Row = dict[str, Any]
Kept = ConversationRecord | UtteranceRecord | ActionRecord | ReceiptRecord | GapRecord | CoverageRecord
"""Records that become rows."""


def row(record: Kept) -> tuple[Table, Row]:
    """Table and row of one record."""
    match record:
        case ConversationRecord():
            return schema.conversations, msgspec.structs.asdict(record)
        case UtteranceRecord(utterance=utterance, stages_ms=stages_ms):
            values = msgspec.structs.asdict(utterance)
            content = json_encoder.encode({"text": values.pop("text"), "words": values.pop("words")})
            return schema.utterances, {**values, "content": content, "stages_ms": stages_ms}
        case ActionRecord(action=action):
            return schema.actions, {
                "tenant_id": record.tenant_id,
                "conversation_id": record.conversation_id,
                "action_id": action.id,
                "revision": action.revision,
                "type": action.type,
                "state": action.state,
                "content": json_encoder.encode(action),
                "stages_ms": record.stages_ms,
            }
        case ReceiptRecord():
            return schema.receipts, msgspec.structs.asdict(record)
        case GapRecord(gap=gap):
            return schema.gaps, {
                "tenant_id": record.tenant_id,
                "conversation_id": record.conversation_id,
                "speaker": gap.speaker,
                "from_ms": gap.from_ms,
                "revision": record.revision,
                "to_ms": gap.to_ms,
                "cause": gap.cause,
                "state": gap.state,
            }
        case CoverageRecord():
            return schema.coverage, {
                "tenant_id": record.tenant_id,
                "conversation_id": record.conversation_id,
                "speaker": record.speaker,
                "revision": record.covered_ms,
            }


def replaces(new: Row, old: Row) -> bool:
    """Whether a row takes the place of one with the same key; the upserts say the same in SQL."""
    if "revision" not in new:
        return False
    return bool((new.get("is_final", True), new["revision"]) > (old.get("is_final", True), old["revision"]))


_keys = {table.name: tuple(column.name for column in table.primary_key) for table in schema.metadata.sorted_tables}


def rows(records: Iterable[Kept]) -> dict[str, list[Row]]:
    """Rows to upsert, by table, at most one for each key: what writing all records in turn would leave."""
    kept: dict[str, dict[tuple[Any, ...], Row]] = {}
    for record in records:
        table, new = row(record)
        of_table = kept.setdefault(table.name, {})
        key = tuple([new[name] for name in _keys[table.name]])
        old = of_table.get(key)
        if old is None or replaces(new, old):
            of_table[key] = new
    # In the order of their keys: two processes that write the same rows then never wait for each other in a circle.
    return {name: [of_table[key] for key in sorted(of_table)] for name, of_table in kept.items()}
