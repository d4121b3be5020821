"""What Alembic executes for every command, on the connection that `server.store.migrate` hands in."""

from alembic import context

from server.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    compare_type=True,
    transactional_ddl=True,  # SQLite too: the store begins its transactions itself
)
with context.begin_transaction():
    context.run_migrations()
