"""Identity: who acts, for which tenant, in which roles, until when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from server.wire.errors import Forbidden
from server.wire.ids import AgentId, TenantId

Role = Literal["agent", "supervisor", "telephony", "admin", "operator"]
"""`agent` sees own calls, `supervisor` the teams named in the token, `telephony` feeds calls in, `admin` a whole
tenant; `operator` runs the server, and sees no call."""
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True, slots=True)
class Identity:
    """Someone known.

    Attributes:
        tenant_id: The one tenant whose data they may touch.
        agent_id: The agent they are; None for machines and pure supervisors.
        roles: What they are.
        teams: Teams a supervisor looks after.
        expires_s: When it ends, on the process's monotonic clock; None: with the process.
        is_anonymous: No authentication is configured; everyone on this machine is this one.
    """

    tenant_id: TenantId
    agent_id: AgentId | None
    roles: frozenset[Role]
    teams: frozenset[str] = frozenset()
    expires_s: float | None = None
    is_anonymous: bool = False

    def is_expired(self, now_s: float) -> bool:
        """Whether the identity has ended."""
        return self.expires_s is not None and now_s >= self.expires_s

    def is_same_person(self, other: Identity) -> bool:
        """Whether `other` may take over a socket of this one: same tenant, same agent, roles aside."""
        return (self.tenant_id, self.agent_id) == (other.tenant_id, other.agent_id)


def check_tenant(identity: Identity, requested: str | None) -> TenantId:
    """The tenant to act for: the identity's own, which a request may repeat but never change.

    Raises:
        Forbidden: `requested` is another one; names the field `tenant_id`.
    """
    if requested is not None and requested != identity.tenant_id:
        raise Forbidden("this is not your tenant", field="tenant_id")
    return identity.tenant_id
