"""A version's first load, in a process of its own: what crashes, hangs or eats memory there hurts nobody.

    python -m inference.life.trial REPOSITORY MODEL VERSION DEVICE PRECISION ROWS TOKENS

loads, checks the golden inputs and warms every bucket as the engine would, at low priority, and says in one line of
JSON what was wrong; nothing if all is well.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from inference.backends.onnxruntime import CPU, CUDA, OnnxRuntimeBackend, OnnxRuntimeSettings
from inference.batching import BatchingSettings
from inference.errors import ModelError
from inference.fleet import with_precision
from inference.priority import LOADING
from inference.repository import ModelRepository, ModelVersion
from inference.service import Service
from inference.settings import EngineSettings

Trial = Callable[[ModelVersion, float], Awaitable[None]]
"""Tries a version within so many seconds; raises `ModelError`."""

_ROOT = Path(__file__).resolve().parents[2]
_MAX_ANSWER_BYTES = 65_536


class ProcessTrial:
    """A `Trial` on onnxruntime."""

    def __init__(self, settings: EngineSettings, python: str = sys.executable) -> None:
        self._settings = settings
        self._python = python

    async def __call__(self, version: ModelVersion, timeout_s: float) -> None:
        """Load a version in a new process.

        Raises:
            ModelError: If it is refused there, crashes the process, or takes too long.
        """
        where = f"{version.name}/{version.version}"
        settings = self._settings
        arguments: list[Any] = [version.path.parents[1], version.name, version.version, settings.device]
        arguments += [settings.precision, settings.max_batch_rows, settings.max_batch_tokens]
        process = await asyncio.create_subprocess_exec(
            self._python,
            "-m",
            "inference.life.trial",
            *map(str, arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            limit=_MAX_ANSWER_BYTES,
            env={**os.environ, "PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1"},
        )
        try:
            async with asyncio.timeout(timeout_s):
                answer, _ = await process.communicate()
        except TimeoutError:
            raise ModelError(f"was not ready after {timeout_s:g} s", path=where) from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if process.returncode == 0:
            return
        if process.returncode is not None and process.returncode < 0:
            name = signal.Signals(-process.returncode).name
            raise ModelError(f"crashes the process that loads it ({name})", path=where)
        try:
            problem, path, key = msgspec.json.decode(answer, type=tuple[str, str, str])
        except msgspec.DecodeError:
            raise ModelError(f"cannot be loaded (exit status {process.returncode})", path=where) from None
        raise ModelError(problem, path=path, key=key)


def be_expendable() -> None:
    """Let the server have the cores first, and the kernel take this process first where memory runs out."""
    os.nice(LOADING)
    with contextlib.suppress(OSError):  # not Linux
        Path("/proc/self/oom_score_adj").write_text("1000")


def main(arguments: list[str]) -> int:
    """Try one version; see the module. Returns the exit status."""
    repository, model, version, device, precision, rows, tokens = arguments
    be_expendable()
    try:
        found = ModelRepository.open(repository).model(model)
        if (problem := found.problems.get(int(version))) is not None:
            raise problem
        backend = OnnxRuntimeBackend(OnnxRuntimeSettings(CUDA if device == "cuda" else CPU))
        batching = BatchingSettings(max_batch_rows=int(rows), max_padded_tokens=int(tokens))
        described = with_precision(found.versions[int(version)], precision, prefers_half=device == "cuda")
        Service.load(described, backend, batching)
    except ModelError as error:
        sys.stdout.buffer.write(msgspec.json.encode((error.problem, error.path, error.key)))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
