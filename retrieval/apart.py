"""An ingest in a process of its own: reading and indexing hold the interpreter lock, and searches would wait for it.

    here: ingest_apart ──what to do──▶ python -m retrieval.apart: read ▸ chunk ▸ index ▸ swap
                       ◀──texts──────
                       ──vectors────▶  (the encoder stays here, behind all live work)
                       ◀──report or error

Frames both ways: length in four bytes, then MessagePack.
"""

from __future__ import annotations

import asyncio
import os
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np

from inference.request import EmbeddingArray
from retrieval.errors import RetrievalError, rebuild
from retrieval.ingest import Progress, Report, ingest
from retrieval.manifest import Embedder, EncoderIdentity
from retrieval.store import BaseStore

NICENESS = 10
MAX_INLINE_BYTES = 1 << 20
"""A folder up to this size is read and indexed in less time than an interpreter takes to start."""
_LENGTH = struct.Struct("<I")


class _Task(msgspec.Struct, frozen=True, tag="task"):
    folder: str
    data: str
    tenant: str
    base: str
    encoder: EncoderIdentity
    origin: str


class _Texts(msgspec.Struct, frozen=True, tag="texts"):
    texts: list[str]


class _Vectors(msgspec.Struct, frozen=True, tag="vectors"):
    rows: bytes


class _Progress(msgspec.Struct, frozen=True, tag="progress"):
    stage: str
    done: int
    total: int


class _Done(msgspec.Struct, frozen=True, tag="done"):
    report: Report


class _Failed(msgspec.Struct, frozen=True, tag="failed"):
    code: str
    message: str
    field: str | None


_Frame = _Task | _Texts | _Vectors | _Progress | _Done | _Failed
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Frame)


async def ingest_apart(
    folder: Path, store: BaseStore, embedder: Embedder, progress: Progress | None = None, *, origin: str = ""
) -> Report:
    """Do what `ingest` does, beside this process; ends with it.

    Raises:
        RetrievalError: As `ingest`; or the process ended without an answer.
    """
    packages = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "retrieval.apart",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": packages, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    task = _Task(os.fspath(folder), os.fspath(store.data), store.tenant, store.base, embedder.identity, origin)
    try:
        process.stdin.write(_framed(task))
        while True:
            (length,) = _LENGTH.unpack(await process.stdout.readexactly(_LENGTH.size))
            match _decoder.decode(await process.stdout.readexactly(length)):
                case _Texts(texts):
                    process.stdin.write(_framed(_Vectors((await embedder.embed(texts)).astype(np.float32).tobytes())))
                    await process.stdin.drain()
                case _Progress(stage, done, total) if progress is not None:
                    progress(stage, done, total)
                case _Done(report):
                    return report
                case _Failed(code, message, field):
                    raise rebuild(code, message, field)
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        raise RetrievalError(f"the ingest of {store.base} was ended from outside; the base is as it was") from error
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def size_bytes(folder: Path) -> int:
    """Return what the files of a folder weigh."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _framed(frame: _Frame) -> bytes:
    encoded = _encoder.encode(frame)
    return _LENGTH.pack(len(encoded)) + encoded


@dataclass(frozen=True, slots=True)
class _Pipe:
    """The far end's embedder: asks the process that started it."""

    reader: BinaryIO
    writer: BinaryIO
    identity: EncoderIdentity

    def send(self, frame: _Frame) -> None:
        self.writer.write(_framed(frame))
        self.writer.flush()

    def receive(self) -> Any:
        (length,) = _LENGTH.unpack(self.reader.read(_LENGTH.size))
        return _decoder.decode(self.reader.read(length))

    async def embed(self, texts: Sequence[str]) -> EmbeddingArray:
        """Wait for the answer; nothing else runs here."""
        self.send(_Texts(list(texts)))
        rows = np.frombuffer(self.receive().rows, np.float32)
        return rows.reshape(len(texts), self.identity.dims)


def main() -> None:
    """Do one task from standard input; whoever started this may be gone at any time."""
    os.nice(NICENESS)
    writer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not stand among the frames
    pipe = _Pipe(sys.stdin.buffer, writer, EncoderIdentity("", 0, "", 0))
    task: _Task = pipe.receive()
    pipe = _Pipe(pipe.reader, writer, task.encoder)
    store = BaseStore(Path(task.data), task.tenant, task.base)

    def tell(stage: str, done: int, total: int) -> None:
        pipe.send(_Progress(stage, done, total))

    try:
        report = asyncio.run(ingest(Path(task.folder), store, pipe, tell, origin=task.origin))
    except RetrievalError as error:
        pipe.send(_Failed(error.code, error.message, error.field))
    else:
        pipe.send(_Done(report))


if __name__ == "__main__":
    try:
        main()
    except (BrokenPipeError, struct.error):  # nobody is waiting any more
        os._exit(1)
