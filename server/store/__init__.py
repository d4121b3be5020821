"""Durable records: schema, migrations, stores, outbox."""
