"""Customer words between a row in memory and a row at rest.

    row ──content: JSON──▶ sealed by the tenant's key, bound to the row's own key ──▶ database

Without a keyring, and in rows from before there was one, content is the plain JSON; its first byte tells them apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Table

from server.keys.keyring import SEALED, Keyring
from server.store.records import Row
from server.wire.errors import Gone
from server.wire.ids import TenantId


class Sealer:
    """Seals and opens the column `content` of rows.

    Args:
        keys: None: at rest as in memory.
    """

    def __init__(self, keys: Keyring | None) -> None:
        self._keys = keys

    async def sealed(self, table: Table, rows: Sequence[Row]) -> list[Row]:
        """Rows as they are written. Those whose tenant's key was destroyed are left out: nobody could read them.

        Raises:
            Unavailable: A key is not at hand now.
        """
        if self._keys is None or "content" not in table.c:
            return list(rows)
        for tenant_id in {TenantId(row["tenant_id"]) for row in rows}:
            await self._keys.prepare(tenant_id)
        written = []
        for row in rows:
            try:
                content = self._keys.seal(TenantId(row["tenant_id"]), row["content"], _context(table, row))
            except Gone:
                continue
            written.append({**row, "content": content})
        return written

    async def opened(self, table: Table, row: Row) -> Any:
        """What `content` says.

        Raises:
            Gone: The tenant's key was destroyed.
            Unavailable: The key is not at hand now.
            ValueError: The content was put into another row than the one it was written for.
        """
        content = bytes(row["content"])
        if content[:1] == bytes([SEALED]):
            if self._keys is None:
                raise Gone("this is sealed, and the server has no keys")
            content = await self._keys.open(content, _context(table, row))
        return msgspec.json.decode(content)


def _context(table: Table, row: Row) -> bytes:
    return "/".join([table.name, *(str(row[column.name]) for column in table.primary_key)]).encode()
