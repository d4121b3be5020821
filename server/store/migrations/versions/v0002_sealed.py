"""Words in one column that can be sealed; whose conversation it is; tombstones of what was erased."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_PAGE = 500


def upgrade() -> None:
    op.add_column("conversations", sa.Column("customer_id", sa.String(128)))
    op.create_index("ix_conversations_customer", "conversations", ["tenant_id", "customer_id"])
    for table, key, columns in (
        ("utterances", "utterance_id", ("text", "words")),
        ("actions", "action_id", ("action",)),
    ):
        op.add_column(table, sa.Column("content", sa.LargeBinary))
        _move(table, ("tenant_id", "conversation_id", key), columns)
        with op.batch_alter_table(table) as batch:
            batch.alter_column("content", existing_type=sa.LargeBinary(), nullable=False)
            for column in columns:
                batch.drop_column(column)
    op.create_table(
        "erasures",
        sa.Column("tenant_id", sa.String(128), primary_key=True),
        sa.Column("conversation_id", sa.String(128), primary_key=True),
        sa.Column("receipt_id", sa.String(64), nullable=False),
        sa.Column("reason", sa.String(16), nullable=False),
        sa.Column("requested_by", sa.String(256), nullable=False),
        sa.Column("at_ms", sa.Double, nullable=False),
        sa.Column("num_rows", sa.JSON, nullable=False),
    )
    op.create_index("ix_erasures_receipt", "erasures", ["tenant_id", "receipt_id"])


def _move(name: str, key: tuple[str, ...], columns: tuple[str, ...]) -> None:
    """Put old columns into the new one, plain: they are sealed when they are next written, or erased in their time."""
    kinds = {"text": sa.Text, "words": sa.JSON, "action": sa.JSON}
    table = sa.Table(
        name,
        sa.MetaData(),
        *(sa.Column(column, sa.String, primary_key=True) for column in key),
        *(sa.Column(column, kinds[column]) for column in columns),
        sa.Column("content", sa.LargeBinary),
    )
    connection = op.get_bind()
    missing = sa.select(table).where(table.c.content.is_(None)).limit(_PAGE)
    while found := connection.execute(missing).mappings().all():
        for row in found:
            values = {column: row[column] for column in columns}
            content = json.dumps(values if len(columns) > 1 else values[columns[0]], ensure_ascii=False).encode()
            ours = sa.and_(*(table.c[column] == row[column] for column in key))
            connection.execute(table.update().where(ours).values(content=content))


def downgrade() -> None:
    raise NotImplementedError("what was sealed cannot be unsealed without its keys; restore the backup from before")
