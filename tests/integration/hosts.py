"""Several hosts on one machine: a network namespace each, joined by a bridge that can cut one off without a word.

here ──┐
host 0 ├── bridge, with whatever all of them share
host 1 ┘
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator

import pytest


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Hosts:
    """Their addresses are `198.18.*`, which is set apart for tests (RFC 2544)."""

    def __init__(self, num_hosts: int) -> None:
        self._name = f"cl{os.getpid() % 100_000}"
        self._net = f"198.18.{os.getpid() % 250}"
        self.hub = f"{self._name}hub"
        self.names = [f"{self._name}h{number}" for number in range(num_hosts)]

    @property
    def hub_address(self) -> str:
        return f"{self._net}.1"

    def address(self, number: int) -> str:
        return f"{self._net}.{10 + number}"

    def command(self, namespace: str, *words: str) -> list[str]:
        """A command line that runs there."""
        return ["ip", "netns", "exec", namespace, *words]

    def cut_off(self, number: int) -> None:
        """What it sends gets lost, and what is sent to it; nobody is told."""
        _ip("-n", self.hub, "link", "set", f"p{number}", "nomaster")

    def join(self, number: int) -> None:
        """The other way."""
        _ip("-n", self.hub, "link", "set", f"p{number}", "master", "br0")

    def make(self) -> None:
        _ip("netns", "add", self.hub)
        # Of its own: one without takes its lowest port's, and has another when that port is cut off.
        _ip("-n", self.hub, "link", "add", "br0", "address", "02:00:00:00:00:01", "type", "bridge")
        _ip("-n", self.hub, "addr", "add", f"{self.hub_address}/24", "dev", "br0")
        _ip("-n", self.hub, "link", "set", "br0", "up")
        _ip("-n", self.hub, "link", "set", "lo", "up")
        for number, name in enumerate(self.names):
            _ip("netns", "add", name)
            _ip("-n", self.hub, "link", "add", f"p{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("-n", self.hub, "link", "set", f"p{number}", "master", "br0", "up")
            _ip("-n", name, "addr", "add", f"{self.address(number)}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("link", "add", self._name, "type", "veth", "peer", "name", "here", "netns", self.hub)
        _ip("-n", self.hub, "link", "set", "here", "master", "br0", "up")
        _ip("addr", "add", f"{self._net}.100/24", "dev", self._name)
        _ip("link", "set", self._name, "up")

    def remove(self) -> None:
        for name in (*self.names, self.hub):
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("netns", "del", name)
        with contextlib.suppress(subprocess.CalledProcessError):
            _ip("link", "del", self._name)  # mostly gone with its other end


@contextlib.contextmanager
def hosts(num_hosts: int) -> Iterator[Hosts]:
    """Make them; skip where that is not allowed."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need root and iproute2")
    made = Hosts(num_hosts)
    try:
        try:
            made.make()
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
        yield made
    finally:
        made.remove()
