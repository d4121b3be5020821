"""A real tritonserver as a child process, on ports of its own; `make triton` installs what it needs."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_READY_S = 60.0
_STOP_S = 10.0


class TritonMissing(Exception):
    """What the tests need is not installed; says what."""


class TritonServer:
    """One server over one repository; may be killed and started again on the same ports.

    Args:
        repository: For the Python backend, see `inference.backends.triton_repository`.
        folder: Where its log goes.
        tools: Folder with `triton/` and `triton-models/`; default: `TRITON_TOOLS`, else `build/`.
    """

    def __init__(self, repository: Path, folder: Path, tools: Path | None = None) -> None:
        self._tools = tools or Path(os.environ.get("TRITON_TOOLS", _ROOT / "build"))
        self._root = self._tools / "triton" / "pytriton" / "tritonserver"
        self._python = self._tools / "triton-models" / "bin"
        for needed in (self._root / "bin" / "tritonserver", self._python / "python3"):
            if not needed.exists():
                raise TritonMissing(f"no {needed.name} in {self._tools.name}/; `make triton` installs it")
        stub = self._root / "python_backend_stubs" / "3.11" / "triton_python_backend_stub"
        # Beside the backend its relative library path still holds; elsewhere the server would wait for it for ever.
        if not (self._root / "backends" / "python" / stub.name).exists():
            shutil.copy2(stub, self._root / "backends" / "python")
        self._repository = repository
        self._log = folder / "tritonserver.log"
        self._http, self._grpc = _free_ports(2)
        self._shared = f"cueline_triton_{self._grpc}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its gRPC address, as the backend takes it."""
        return f"127.0.0.1:{self._grpc}"

    def start(self) -> None:
        """Start and wait until every model is ready; blocks for 2 to 5 s.

        Raises:
            RuntimeError: With the end of the server's log, if it ends or does not get ready.
        """
        # Two Pythons of one version may lie on a machine: the stub has to load the one its standard library is of.
        lib_dir = subprocess.run(
            [self._python / "python3", "-c", "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    self._root / "bin" / "tritonserver",
                    f"--model-repository={self._repository}",
                    f"--backend-directory={self._root / 'backends'}",
                    "--http-address=127.0.0.1",
                    f"--http-port={self._http}",
                    "--grpc-address=127.0.0.1",
                    f"--grpc-port={self._grpc}",
                    "--allow-metrics=false",
                    f"--backend-config=python,shm-region-prefix-name={self._shared}",
                    "--model-control-mode=explicit",
                    "--load-model=*",
                    "--exit-timeout-secs=5",
                ],
                env={**os.environ, "PATH": f"{self._python}:{os.environ['PATH']}", "LD_LIBRARY_PATH": lib_dir},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline_s = time.monotonic() + _READY_S
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                self.stop()
                raise RuntimeError(f"tritonserver is not ready:\n{self._log.read_text('utf-8')[-3000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End the server and its stubs, politely first."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_S)
        self.kill()

    def kill(self) -> None:
        """End the server and its stubs at once."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None
        for left in Path("/dev/shm").glob(f"{self._shared}*"):
            left.unlink(missing_ok=True)  # a killed server leaves its shared memory behind

    def kill_stubs(self) -> None:
        """End the processes in which models run; the server lives on and fails every request."""
        for pid in self._stubs():
            os.kill(pid, signal.SIGKILL)

    def pause(self) -> None:
        """Let the server hang: connections stay open, nothing answers."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGCONT)

    def _stubs(self) -> list[int]:
        assert self._process is not None
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                name, _, rest = (entry / "stat").read_text().partition(") ")
                is_ours = int(rest.split()[2]) == self._process.pid  # process group
                if is_ours and "triton_python" in name:
                    found.append(int(entry.name))
        return found

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._http}/v2/health/ready", timeout=1.0) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
