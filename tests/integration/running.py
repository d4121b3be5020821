"""A real server in its own process, on loopback and a free port."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

READY_TIMEOUT_S = 60.0


@dataclass
class RunningServer:
    """A started server; `url` is `http://127.0.0.1:port`."""

    process: subprocess.Popen[str]
    url: str
    data: Path
    lines: list[str] = field(default_factory=list)

    @property
    def ws(self) -> str:
        return self.url.replace("http", "ws", 1)

    def get(self, path: str) -> dict:
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return msgspec.json.decode(answer.read())

    def metrics(self) -> dict[str, float]:
        with urllib.request.urlopen(self.url + "/metrics", timeout=10) as answer:
            text = answer.read().decode()
        pairs = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(timeout=30)

    @property
    def log(self) -> str:
        return "".join(self.lines)


@contextlib.contextmanager
def serve(data: Path, *, workers: int = 1, **environment: str) -> Iterator[RunningServer]:
    """Start `cueline serve` over a data directory and stop it at the end."""
    words = ["serve", "--port", "0", "--workers", str(workers)]
    process = subprocess.Popen(
        [sys.executable, "-c", "from server.cli import main; main()", *words],
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "CUELINE_DATA_DIR": str(data), **environment},
    )
    server = RunningServer(process, "", data)
    is_ready = threading.Event()

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            server.lines.append(line)
            if "agent app" in line:
                server.url = line.split()[-1].rstrip("/")
                if workers == 1:
                    is_ready.set()
            if f"{workers} workers are ready" in line:
                is_ready.set()
        is_ready.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        is_ready.wait(READY_TIMEOUT_S)
        if not server.url:
            raise RuntimeError(f"the server did not start:\n{server.log}")
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=20)
        if process.poll() is None:
            process.kill()
            process.wait()
        reader.join(timeout=5)
        if process.stderr is not None:
            process.stderr.close()


def rss_bytes(pid: int) -> int:
    """Resident memory of a process and its children."""
    total = 0
    for number in [pid, *children(pid)]:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            status = Path(f"/proc/{number}/status").read_text()
            total += next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) * 1024
    return total


def children(pid: int) -> list[int]:
    """Processes below a process."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, IndexError):
                if int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1]) == pid:
                    found += [int(entry.name), *children(int(entry.name))]
    return found


def wait_until(condition, timeout_s: float = 10.0) -> bool:
    """Poll something that has no event, such as another process's metrics."""
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        if condition():
            return True
        threading.Event().wait(0.05)
    return False
