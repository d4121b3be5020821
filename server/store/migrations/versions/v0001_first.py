"""Conversations, utterances, actions, receipts, gaps."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "conversations",
        sa.Column("tenant_id", sa.String(128), primary_key=True),
        sa.Column("conversation_id", sa.String(128), primary_key=True),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("agent_id", sa.String(128)),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("policy", sa.String(128), nullable=False),
        sa.Column("language", sa.String(35), nullable=False),
        sa.Column("started_ms", sa.Double, nullable=False),
        sa.Column("ended_ms", sa.Double),
    )
    op.create_index("ix_conversations_started", "conversations", ["tenant_id", "started_ms"])
    op.create_table(
        "utterances",
        sa.Column("tenant_id", sa.String(128), primary_key=True),
        sa.Column("conversation_id", sa.String(128), primary_key=True),
        sa.Column("utterance_id", sa.String(128), primary_key=True),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("speaker", sa.String(16), nullable=False),
        sa.Column("start_ms", sa.BigInteger, nullable=False),
        sa.Column("end_ms", sa.BigInteger, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("words", sa.JSON, nullable=False),
        sa.Column("language", sa.String(35), nullable=False),
        sa.Column("confidence", sa.Double, nullable=False),
        sa.Column("is_final", sa.Boolean, nullable=False),
        sa.Column("origin", sa.String(16), nullable=False),
        sa.Column("stages_ms", sa.JSON, nullable=False),
    )
    op.create_table(
        "actions",
        sa.Column("tenant_id", sa.String(128), primary_key=True),
        sa.Column("conversation_id", sa.String(128), primary_key=True),
        sa.Column("action_id", sa.String(256), primary_key=True),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("type", sa.String(16), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("action", sa.JSON, nullable=False),
        sa.Column("stages_ms", sa.JSON, nullable=False),
    )
    op.create_table(
        "receipts",
        sa.Column("tenant_id", sa.String(128), primary_key=True),
        sa.Column("conversation_id", sa.String(128), primary_key=True),
        sa.Column("action_id", sa.String(256), primary_key=True),
        sa.Column("event", sa.String(16), primary_key=True),
        sa.Column("agent_id", sa.String(128)),
        sa.Column("at_ms", sa.Double, nullable=False),
        sa.Column("painted_at_ms", sa.Double),
    )
    op.create_table(
        "gaps",
        sa.Column("tenant_id", sa.String(128), primary_key=True),
        sa.Column("conversation_id", sa.String(128), primary_key=True),
        sa.Column("speaker", sa.String(16), primary_key=True),
        sa.Column("from_ms", sa.BigInteger, primary_key=True),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("to_ms", sa.BigInteger),
        sa.Column("cause", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
    )
    op.create_table(
        "coverage",
        sa.Column("tenant_id", sa.String(128), primary_key=True),
        sa.Column("conversation_id", sa.String(128), primary_key=True),
        sa.Column("speaker", sa.String(16), primary_key=True),
        sa.Column("revision", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    for table in ("coverage", "gaps", "receipts", "actions", "utterances", "conversations"):
        op.drop_table(table)
