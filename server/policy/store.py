"""The policies of a folder, hot-loaded: a right file replaces the old version, a wrong one is refused and named.

The caller polls; between polls nothing is read. A call keeps the `Policy` it was given: policies are frozen, so pinning
is holding on to one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from server.policy.loading import load_policy
from server.policy.rules import Policy
from server.policy.validation import Graphs
from server.wire.errors import ConfigError, NotFound


@dataclass(frozen=True, slots=True)
class PolicyReload:
    """What one poll found.

    Attributes:
        loaded: Policies that are new or changed, in use from now on.
        refused: Files that are wrong; where there was an older version of the tenant's policy, that one keeps serving.
        removed: Tenants whose file is gone; calls that hold their policy keep it.
    """

    loaded: tuple[Policy, ...] = ()
    refused: tuple[ConfigError, ...] = ()
    removed: tuple[str, ...] = ()


Stamp = tuple[int, int]


class PolicyStore:
    """Serves the newest right policy of every tenant.

    Args:
        folder: Holds one `*.yaml` a tenant.
        graphs: What the product graphs offer, for checking names.
    """

    def __init__(self, folder: Path, graphs: Graphs | None = None) -> None:
        self._folder = folder
        self._graphs = graphs
        self._stamps: dict[str, Stamp] = {}
        self._policies: dict[str, Policy] = {}

    def load(self) -> tuple[Policy, ...]:
        """Load all files at start.

        Raises:
            ConfigError: Any file is wrong, or there is none: half of the tenants is no start.
        """
        reload = self.poll()
        if reload.refused:
            raise reload.refused[0]
        if not self._policies:
            raise ConfigError("holds no policy (*.yaml)", field=self._folder.name)
        return reload.loaded

    def poll(self) -> PolicyReload:
        """Look for files that changed (by time and size) and take them in; reads the disk, so not on the event loop.

        A file that is refused is tried again only when it changes.
        """
        stamps = self._read_stamps()
        loaded: list[Policy] = []
        refused: list[ConfigError] = []
        for name in sorted(stamps):
            if self._stamps.get(name) == stamps[name]:
                continue
            try:
                policy = self._load(name, stamps)
            except ConfigError as error:
                refused.append(error)
            else:
                self._policies[name] = policy
                loaded.append(policy)
        removed = [self._policies.pop(name).tenant for name in sorted(self._policies) if name not in stamps]
        self._stamps = stamps
        return PolicyReload(tuple(loaded), tuple(refused), tuple(removed))

    def get(self, tenant: str) -> Policy:
        """The policy that a call of this tenant is to pin.

        Raises:
            NotFound: The tenant has none.
        """
        for policy in self._policies.values():
            if policy.tenant == tenant:
                return policy
        raise NotFound(f"tenant `{tenant}` has no policy", field="tenant")

    @property
    def policies(self) -> tuple[Policy, ...]:
        """All policies in use, by file name."""
        return tuple(self._policies[name] for name in sorted(self._policies))

    def _read_stamps(self) -> dict[str, Stamp]:
        stamps = {}
        for path in self._folder.glob("*.yaml"):
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue  # gone between listing and looking
            stamps[path.name] = (stat.st_mtime_ns, stat.st_size)
        return stamps

    def _load(self, name: str, stamps: dict[str, Stamp]) -> Policy:
        """Load one file and check it against the others: one policy a tenant."""
        policy = load_policy(self._folder / name, self._graphs)
        for other, known in self._policies.items():
            if other != name and other in stamps and known.tenant == policy.tenant:
                raise ConfigError(f"`{policy.tenant}` has a policy in {other} already", field=f"{name}: tenant")
        return policy
