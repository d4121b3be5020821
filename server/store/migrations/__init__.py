"""Schema versions, oldest first, for SQLite and PostgreSQL alike; run at every start by `server.store.migrate`.

A new version is a new file in `versions/`: `revision` is the next number, `down_revision` the one before.
"""
