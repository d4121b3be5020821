"""What an identity may do: one table, deny by default.

A right is a row: action, kind of resource, and the rules of which one must hold. What no row names is denied, and
another tenant's resource is denied before any row is looked at. Source: DESIGN 11.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from server.auth.identity import Identity
from server.wire.errors import Forbidden
from server.wire.ids import AgentId, TenantId

Action = Literal["subscribe", "ingest", "read", "list", "ask", "say", "receipt", "erase", "operate"]
ResourceKind = Literal["call", "agent", "tenant", "server"]


@dataclass(frozen=True, slots=True)
class Resource:
    """Something that a right is asked for.

    Attributes:
        kind: `call` (its channel, its conversation, its audio), `agent` (an agent's channel) `tenant` (all of it) or
            `server` (what all tenants share: its models).
        tenant_id: Owner.
        agent_id: Whose call, or which agent; None while nobody's.
        team: Team that the agent belongs to; empty if unknown.
    """

    kind: ResourceKind
    tenant_id: TenantId
    agent_id: AgentId | None = None
    team: str = ""


Rule = Callable[[Identity, Resource], bool]


def anonymous(identity: Identity, resource: Resource) -> bool:
    """No authentication is configured: all of the default tenants."""
    return identity.is_anonymous


def own(identity: Identity, resource: Resource) -> bool:
    """An agent's own channel and calls."""
    return "agent" in identity.roles and identity.agent_id is not None and identity.agent_id == resource.agent_id


def team(identity: Identity, resource: Resource) -> bool:
    """A supervisor's teams."""
    return "supervisor" in identity.roles and resource.team != "" and resource.team in identity.teams


def telephony(identity: Identity, resource: Resource) -> bool:
    """Machines that bring calls in."""
    return "telephony" in identity.roles


def staff(identity: Identity, resource: Resource) -> bool:
    """People who talk to customers, or lead those who do."""
    return bool(identity.roles & {"agent", "supervisor"})


def admin(identity: Identity, resource: Resource) -> bool:
    """Administrators of the tenant."""
    return "admin" in identity.roles


def operator(identity: Identity, resource: Resource) -> bool:
    """Who runs the server."""
    return "operator" in identity.roles


RIGHTS: dict[tuple[Action, ResourceKind], tuple[Rule, ...]] = {
    ("subscribe", "call"): (anonymous, own, team, admin),
    ("subscribe", "agent"): (anonymous, own, team, admin),
    ("receipt", "call"): (anonymous, own, team),
    ("ask", "call"): (anonymous, own, team),
    ("ask", "tenant"): (anonymous, staff, admin),
    ("say", "call"): (anonymous, own),
    ("ingest", "call"): (anonymous, own, telephony),
    ("read", "call"): (anonymous, own, team, admin),
    ("list", "tenant"): (anonymous, admin),
    ("list", "agent"): (anonymous, own, team, admin),
    ("read", "tenant"): (anonymous, admin),
    ("erase", "call"): (anonymous, admin),
    ("operate", "tenant"): (anonymous, admin),
    ("read", "server"): (anonymous, operator),
    ("operate", "server"): (anonymous, operator),
}


def may(identity: Identity, action: Action, resource: Resource) -> bool:
    """Whether this identity has that right."""
    if identity.tenant_id != resource.tenant_id:
        return False
    return any(rule(identity, resource) for rule in RIGHTS.get((action, resource.kind), ()))


def require(identity: Identity, action: Action, resource: Resource) -> None:
    """Refuse what `may` denies.

    Raises:
        Forbidden: Not allowed.
    """
    if not may(identity, action, resource):
        raise Forbidden(f"you may not {action} here")
