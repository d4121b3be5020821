"""Customer words at rest are sealed by a key of their tenant, so that destroying the key is erasing the words.

KeyProvider (file | AWS KMS) ──data key, wrapped by the tenant's key──▶ Keyring ──seal, open──▶ outbox, store
"""
