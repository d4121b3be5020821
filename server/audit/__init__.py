"""Who read what, in a chain that cannot be changed unseen.

read, list, follow, erase ──▶ AuditLog ──link──▶ audit.jsonl (fsync) ──▶ cueline audit verify | export
"""
