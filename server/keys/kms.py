"""Tenants' keys in AWS KMS, the extra `aws`: the key never leaves the service, and each use of it is logged there.

The tenant is part of every request's encryption context, so that a wrapped key of one tenant opens for no other.
Source: AWS KMS API reference, `GenerateDataKey`, `Decrypt`, `DescribeKey`, `ScheduleKeyDeletion`.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError

from server.keys.provider import DataKey
from server.wire.errors import ConfigError, Gone, Unavailable
from server.wire.ids import TenantId

TIMEOUT_S = 3.0
PENDING_DAYS = 7
"""The least that KMS allows between asking for a key's end and its end. It is disabled from the first moment on."""

_DESTROYED = frozenset({"KMSInvalidStateException", "DisabledException", "InvalidCiphertextException"})


class KmsKeys:
    """`KeyProvider` on AWS KMS. Credentials come from the environment, as for every AWS client.

    Args:
        key_id: Key id or alias; `{tenant}` in it stands for the tenant's name.
        region: Empty: from the environment.
        endpoint_url: Empty: the service's own.
    """

    def __init__(self, key_id: str, region: str = "", endpoint_url: str = "") -> None:
        self._key_id = key_id
        self._region = region
        self._endpoint_url = endpoint_url
        self._stack = AsyncExitStack()
        self._client: Any = None

    async def open(self) -> None:
        """Connect.

        Raises:
            ConfigError: No region, no credentials.
        """
        if "{tenant}" not in self._key_id:
            raise ConfigError("needs {tenant} in it: one key a tenant", field="keys.kms_key")
        try:
            self._client = await self._stack.enter_async_context(
                get_session().create_client(
                    "kms",
                    region_name=self._region or None,
                    endpoint_url=self._endpoint_url or None,
                    config=AioConfig(connect_timeout=TIMEOUT_S, read_timeout=TIMEOUT_S, retries={"max_attempts": 2}),
                )
            )
        except (BotoCoreError, ValueError) as error:
            raise ConfigError(str(error), field="keys") from None

    async def create(self, tenant_id: TenantId) -> DataKey:
        """See `KeyProvider`. The tenant's key has to exist: who may make keys is not the server's to decide."""
        answer = await self._ask(
            "generate_data_key", tenant_id, KeySpec="AES_256", EncryptionContext={"tenant": tenant_id}
        )
        return DataKey(answer["Plaintext"], answer["CiphertextBlob"])

    async def unwrap(self, tenant_id: TenantId, wrapped: bytes) -> bytes:
        """See `KeyProvider`."""
        answer = await self._ask("decrypt", tenant_id, CiphertextBlob=wrapped, EncryptionContext={"tenant": tenant_id})
        plain: bytes = answer["Plaintext"]
        return plain

    async def is_destroyed(self, tenant_id: TenantId) -> bool:
        """See `KeyProvider`."""
        try:
            state = (await self._ask("describe_key", tenant_id))["KeyMetadata"]["KeyState"]
        except Gone:
            return True
        return state in ("PendingDeletion", "Disabled")

    async def destroy(self, tenant_id: TenantId) -> str:
        """See `KeyProvider`. Disabled now, deleted after a week, within which an administrator can take it back."""
        answer = await self._ask("describe_key", tenant_id)
        metadata = answer["KeyMetadata"]
        if metadata["KeyState"] != "PendingDeletion":
            try:
                await self._client.schedule_key_deletion(KeyId=metadata["KeyId"], PendingWindowInDays=PENDING_DAYS)
            except ClientError as error:
                raise _told(error) from error
        return f"the KMS key of {tenant_id} is disabled, and deleted after {PENDING_DAYS} days"

    async def close(self) -> None:
        """Disconnect."""
        await self._stack.aclose()

    async def _ask(self, operation: str, tenant_id: TenantId, **arguments: Any) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = await getattr(self._client, operation)(
                KeyId=self._key_id.replace("{tenant}", tenant_id), **arguments
            )
        except ClientError as error:
            raise _told(error) from error
        except BotoCoreError as error:
            raise Unavailable("the key service does not answer") from error
        return answer


def _told(error: ClientError) -> Exception:
    code = error.response.get("Error", {}).get("Code", "")
    if code in _DESTROYED:
        return Gone("the key of this tenant was destroyed")
    if code == "NotFoundException":
        return ConfigError("the key service has no key for this tenant", field="keys.kms_key")
    return Unavailable(f"the key service refuses: {code}")
