"""The records of this process, and the one file that it shares with the other processes of its server.

    keep ─▶ own ─flush, merged─▶ file ─others─▶ the keeper follows ─▶ take

Where two processes decide about one model before either has seen the other's decision, the file gets what `merge` makes
of both, and each follows that.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from inference.errors import ModelError
from inference.life.file import Records, read_records, update_records
from inference.life.merge import merged
from inference.life.record import Record

_log = logging.getLogger(__name__)


class Ledger:
    """Event-loop thread only.

    Attributes:
        records: What is so in this process, by model.
    """

    def __init__(self, file: Path) -> None:
        """Read what earlier processes left.

        Args:
            file: Of the records.

        Raises:
            ModelError: If it is damaged.
        """
        self.records: Records = read_records(file)
        self._common = dict(self.records)  # by model, what the decisions of this process and of the file started from
        self._file = file
        self._unwritten: set[str] = set()
        self._using = asyncio.Lock()
        self._writes: set[asyncio.Task[None]] = set()

    def keep(self, model: str, record: Record) -> None:
        """Take down what was decided here; `flush` tells the others."""
        self.records[model] = record
        self._unwritten.add(model)

    def take(self, model: str, record: Record) -> None:
        """Take down what another process decided and this one has carried out."""
        self.records[model] = self._common[model] = record
        self._unwritten.discard(model)

    def flush(self) -> asyncio.Future[None]:
        """Write what was decided here, whether or not somebody waits for it.

        What cannot be written is logged, and written with the next decision or look.
        """
        task = asyncio.get_running_loop().create_task(self._write())
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)
        return asyncio.shield(task)  # never cut short: its thread would go on, and might overtake the next

    async def close(self) -> None:
        """Wait for what is being written."""
        await asyncio.gather(*self._writes)

    async def _write(self) -> None:
        async with self._using:
            own = {model: self.records[model] for model in self._unwritten}
            if not own:
                return
            known, common = dict(self.records), dict(self._common)

            def change(found: Records) -> Records:
                news = {
                    model: merged(common.get(model, Record()), record, found[model]) if model in found else record
                    for model, record in own.items()
                }
                return {**known, **found, **news}

            try:
                await asyncio.to_thread(update_records, self._file, change)
            except (OSError, ModelError) as error:
                _log.error("records of models cannot be written", extra={"reason": str(error)})
                return
            self._common |= own
            self._unwritten -= {model for model, record in own.items() if self.records[model] is record}

    async def others(self) -> Records:
        """Return what others decided and this process has not carried out yet; no model it decided about since."""
        await self.flush()
        async with self._using:  # so that no decision made here is written after the file was read
            try:
                found = await asyncio.to_thread(read_records, self._file)
            except ModelError as error:
                _log.error("records of models cannot be read; what serves stays", extra={"reason": str(error)})
                return {}
            return {
                model: record
                for model, record in found.items()
                if model not in self._unwritten and record != self.records.get(model, record)
            }
