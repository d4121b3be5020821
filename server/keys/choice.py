"""The key provider that the configuration names."""

from __future__ import annotations

from pathlib import Path

from server.config.settings import KeysSettings
from server.keys.local import LocalKeys
from server.keys.provider import KeyProvider
from server.wire.errors import ConfigError


async def open_provider(settings: KeysSettings, data_path: Path) -> KeyProvider:
    """Open it.

    Args:
        settings: Which.
        data_path: The data directory, which holds local keys unless the configuration names another folder.

    Raises:
        ConfigError: It cannot be used.
    """
    if settings.provider == "kms":
        try:
            from server.keys.kms import KmsKeys
        except ImportError as error:
            raise ConfigError("needs the extra aws: pip install 'cueline[aws]'", field="keys.provider") from error
        kms = KmsKeys(settings.kms_key, settings.region, settings.endpoint_url)
        await kms.open()
        return kms
    local = LocalKeys(Path(settings.folder) if settings.folder else data_path / "keys", data_path / "keys.seen")
    local.open()
    return local
