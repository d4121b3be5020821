"""The older part of a tape on disk, where a long outage would take too much memory.

The file has no name and its key lives in this process alone: after a crash nobody reads it. Blocking: call it from a
worker thread.
"""

from __future__ import annotations

import os
import tempfile

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

_TAG_BYTES = 16
_NONCE_BYTES = 12


class Spool:
    """Records of equal length in order of their numbers; a full spool overwrites the oldest.

    Args:
        folder: Where the file lives; None: the system's temporary folder.
        record_bytes: Length of each record.
        max_records: Records kept.

    Raises:
        OSError: The file cannot be made.
    """

    def __init__(self, folder: str | None, record_bytes: int, max_records: int) -> None:
        self._record_bytes = record_bytes
        self._max_records = max_records
        self._cipher = ChaCha20Poly1305(ChaCha20Poly1305.generate_key())
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - lives as long as the call
        self._num_written = 0

    def append(self, record: bytes) -> None:
        """Write the next record.

        Raises:
            OSError: The disk is full, or worse. Nothing was appended.
        """
        assert len(record) == self._record_bytes
        number = self._num_written
        # A number is used once under this key, which is all that its nonce has to be.
        sealed = self._cipher.encrypt(number.to_bytes(_NONCE_BYTES, "big"), record, None)
        if os.pwrite(self._file.fileno(), sealed, self._offset(number)) != len(sealed):
            raise OSError("a spool record was not written whole")
        self._num_written += 1

    def read(self, number: int) -> bytes:
        """Read a record that is still there.

        Raises:
            OSError: The disk fails.
            cryptography.exceptions.InvalidTag: These are not the bytes that were written.
        """
        sealed = os.pread(self._file.fileno(), self._record_bytes + _TAG_BYTES, self._offset(number))
        return self._cipher.decrypt(number.to_bytes(_NONCE_BYTES, "big"), sealed, None)

    def close(self) -> None:
        """Give file and key up. Idempotent."""
        self._file.close()

    def _offset(self, number: int) -> int:
        return number % self._max_records * (self._record_bytes + _TAG_BYTES)
