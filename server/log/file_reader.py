"""What the embedded log's files say, opened: the thread reads, the loop asks for keys, the thread opens.

    file ──thread──▶ outline ──loop──▶ data keys, from memory or from the key service ──thread──▶ contents

The thread has no way to a key service, and the loop no time for a file; a key service that is away holds up neither.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from server.keys.keyring import DataCipher, Keyring
from server.log.contract import ChannelKey
from server.log.files import ChannelFiles, Job
from server.log.frames import Contents, Outline, contents
from server.store.group_commit import GroupCommit
from server.wire.errors import Unavailable

logger = logging.getLogger(__name__)

T = TypeVar("T")


class FileReader:
    """Reads channels' files. Used from the event loop.

    Args:
        files: The files.
        writer: Their thread.
        keys: What sealed them; None: nothing did.
    """

    def __init__(self, files: ChannelFiles, writer: GroupCommit[Job], keys: Keyring | None) -> None:
        self._files = files
        self._writer = writer
        self._keys = keys

    async def outline(self, key: ChannelKey) -> Outline | None:
        """Where a channel stands, without any key; None if it has no file.

        Raises:
            Unavailable: It cannot be read at present.
        """
        found = await self._in_thread(key, partial(self._files.read, key))
        if found is not None and found.skipped_bytes:
            _tell_damage(key, found.skipped_bytes)
        return found

    async def read(self, key: ChannelKey) -> Contents | None:
        """A channel's entries, whatever that takes; None if it has no file.

        Raises:
            Gone: The tenant's key was destroyed.
            Unavailable: The file cannot be read at present, or a key is not at hand now.
        """
        outlined = await self.outline(key)
        if outlined is None:
            return None
        ciphers = {}
        for header, value in outlined.sealed().items():
            if self._keys is None:
                raise Unavailable("this channel is sealed, and this process has no keys")
            ciphers[header] = await self._keys.cipher_of(value)
        return await self._opened(key, outlined, ciphers)

    async def opened_now(self, key: ChannelKey, outlined: Outline) -> Contents | None:
        """Its entries, if all keys are in memory. Raises `Unavailable` as `outline` does."""
        ciphers = {}
        for header, value in outlined.sealed().items():
            cipher = None if self._keys is None else self._keys.cipher_now(value)
            if cipher is None:
                return None
            ciphers[header] = cipher
        return await self._opened(key, outlined, ciphers)

    async def _opened(self, key: ChannelKey, outlined: Outline, ciphers: dict[bytes, DataCipher]) -> Contents:
        found = await self._in_thread(key, partial(contents, key, outlined, ciphers))
        if found.skipped_bytes > outlined.skipped_bytes:
            _tell_damage(key, found.skipped_bytes)
        return found

    async def _in_thread(self, key: ChannelKey, job: Callable[[], T]) -> T:
        try:
            return await self._writer.run_in_thread(job)
        except OSError as error:
            logger.error("a channel cannot be read", extra={"channel": key.channel, "error": str(error)})
            raise Unavailable("the log of this channel cannot be read at present") from error


def _tell_damage(key: ChannelKey, skipped_bytes: int) -> None:
    logger.error("a channel is damaged", extra={"channel": key.channel, "skipped_bytes": skipped_bytes})
