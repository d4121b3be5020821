"""What a keyring needs of whoever holds the tenants' keys.

The tenant's key itself never leaves its provider: it wraps and unwraps data keys, which do the sealing (envelope
encryption). Source: NIST SP 800-57 part 1, section 5.3; AWS KMS developer guide, "envelope encryption".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from server.wire.ids import TenantId

DATA_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class DataKey:
    """A key that seals, and its wrapped form, which may lie beside what it sealed."""

    plain: bytes = field(repr=False)
    wrapped: bytes = field(repr=False)


class KeyProvider(Protocol):
    """Holds one key a tenant."""

    async def create(self, tenant_id: TenantId) -> DataKey:
        """A new data key of a tenant; the tenant's own key is made with the first one.

        Raises:
            Gone: The tenant's key was destroyed; it is not made anew.
            Unavailable: Try again.
        """

    async def unwrap(self, tenant_id: TenantId, wrapped: bytes) -> bytes:
        """The plain data key.

        Raises:
            Gone: The tenant's key was destroyed.
            Unavailable: Try again.
        """

    async def is_destroyed(self, tenant_id: TenantId) -> bool:
        """Whether the tenant's key was destroyed. Raises `Unavailable` when that cannot be known now."""

    async def destroy(self, tenant_id: TenantId) -> str:
        """Destroy the tenant's key for good; says what became of it. Idempotent."""

    async def close(self) -> None:
        """Disconnect."""
