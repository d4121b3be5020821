"""The tables, for SQLite and PostgreSQL alike. Migrations make them; a test compares both.

Audio times are integer milliseconds on the call's clock, wall times floating milliseconds since the Unix epoch. Every
table begins its key with tenant and conversation, so that a tenant's rows lie together and no query can do without it.
"""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Boolean, Column, Double, Index, Integer, LargeBinary, MetaData, String, Table

metadata = MetaData()


def _owner() -> tuple[Column[str], Column[str]]:
    return (
        Column("tenant_id", String(128), primary_key=True),
        Column("conversation_id", String(128), primary_key=True),
    )


conversations = Table(
    "conversations",
    metadata,
    *_owner(),
    Column("revision", Integer, nullable=False),
    Column("agent_id", String(128)),
    Column("state", String(32), nullable=False),
    Column("policy", String(128), nullable=False),
    Column("language", String(35), nullable=False),
    Column("started_ms", Double, nullable=False),
    Column("ended_ms", Double),
    Column("customer_id", String(128)),
    Index("ix_conversations_started", "tenant_id", "started_ms"),
    Index("ix_conversations_customer", "tenant_id", "customer_id"),
)

utterances = Table(
    "utterances",
    metadata,
    *_owner(),
    Column("utterance_id", String(128), primary_key=True),
    Column("revision", BigInteger, nullable=False),
    Column("speaker", String(16), nullable=False),
    Column("start_ms", BigInteger, nullable=False),
    Column("end_ms", BigInteger, nullable=False),
    Column("language", String(35), nullable=False),
    Column("confidence", Double, nullable=False),
    Column("is_final", Boolean, nullable=False),
    Column("origin", String(16), nullable=False),
    Column("stages_ms", JSON, nullable=False),
    Column("content", LargeBinary, nullable=False),  # {"text", "words"}, sealed
)

actions = Table(
    "actions",
    metadata,
    *_owner(),
    Column("action_id", String(256), primary_key=True),
    Column("revision", Integer, nullable=False),
    Column("type", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("stages_ms", JSON, nullable=False),
    Column("content", LargeBinary, nullable=False),  # the whole card, sealed: it quotes the call
)

receipts = Table(
    "receipts",
    metadata,
    *_owner(),
    Column("action_id", String(256), primary_key=True),
    Column("event", String(16), primary_key=True),
    Column("agent_id", String(128)),
    Column("at_ms", Double, nullable=False),
    Column("painted_at_ms", Double),
)

gaps = Table(
    "gaps",
    metadata,
    *_owner(),
    Column("speaker", String(16), primary_key=True),
    Column("from_ms", BigInteger, primary_key=True),
    Column("revision", Integer, nullable=False),
    Column("to_ms", BigInteger),
    Column("cause", String(64), nullable=False),
    Column("state", String(16), nullable=False),
)

# An acknowledgement only ever moves forward, so how far it reached is its own revision.
coverage = Table(
    "coverage",
    metadata,
    *_owner(),
    Column("speaker", String(16), primary_key=True),
    Column("revision", BigInteger, nullable=False),
)

# What was erased: the receipt, and the tombstone that keeps late records out.
erasures = Table(
    "erasures",
    metadata,
    *_owner(),
    Column("receipt_id", String(64), nullable=False),
    Column("reason", String(16), nullable=False),
    Column("requested_by", String(256), nullable=False),
    Column("at_ms", Double, nullable=False),
    Column("num_rows", JSON, nullable=False),
    Index("ix_erasures_receipt", "tenant_id", "receipt_id"),
)
