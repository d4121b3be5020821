"""From the `Authorization` header to an identity, and back for development.

Two authenticators today: none configured (anonymous, this machine only) and an HS256 shared key. A key set is a
third class of the same contract. Tokens never reach a log or an error.

Source: RFC 7519 (JWT), RFC 6750 (bearer tokens).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

from joserfc import jwt
from joserfc.errors import ExpiredTokenError, JoseError
from joserfc.jwk import OctKey

from server.auth.identity import ROLES, Identity, Role, check_tenant
from server.wire.errors import BadRequest, Forbidden, Unauthorised
from server.wire.ids import ID_PATTERN, AgentId, TenantId

ALGORITHM = "HS256"
LEEWAY_S = 30
"""How far the clocks of token issuer and server may disagree."""
MAX_TOKEN_CHARS = 8192

_ID = re.compile(ID_PATTERN)


class Authenticator(Protocol):
    """Turns credentials into an identity."""

    def authenticate(self, authorization: str | None, tenant_id: str | None = None) -> Identity:
        """Identify the bearer of an `Authorization` header.

        Args:
            authorization: The header's value, None if there was none.
            tenant_id: Tenant that the request names, None if it names none.

        Raises:
            Unauthorised: No, bad or expired credentials.
            Forbidden: The request names a tenant that is not theirs.
        """


class AnonymousAuthenticator:
    """Everyone is the default agent. Only for addresses that no other machine reaches, which `config` ensures.

    Args:
        default_tenant: Tenant of a request that names none.
        agent_id: Agent that everyone is.
        tenants: Further tenants that a request may name.
    """

    def __init__(self, default_tenant: str, agent_id: str = "agent", tenants: Collection[str] = ()) -> None:
        self._default_tenant = default_tenant
        self._agent_id = AgentId(agent_id)
        self._tenants = frozenset(tenants) | {default_tenant}

    def authenticate(self, authorization: str | None, tenant_id: str | None = None) -> Identity:
        """See `Authenticator`; credentials are not looked at."""
        if tenant_id is not None and tenant_id not in self._tenants:
            raise Forbidden("this server has no such tenant", field="tenant_id")
        return Identity(
            tenant_id=TenantId(tenant_id or self._default_tenant),
            agent_id=self._agent_id,
            roles=frozenset({"agent"}),
            is_anonymous=True,
        )


class SharedKeyAuthenticator:
    """HS256 tokens of one shared key; for development and small installations.

    Args:
        shared_key: At least 32 bytes.
        wall_s: Wall clock, seconds since the Unix epoch.
        now_s: Monotonic clock, for `Identity.expires_s`.
    """

    def __init__(
        self, shared_key: str, *, wall_s: Callable[[], float] = time.time, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._key = OctKey.import_key(shared_key)
        self._wall_s = wall_s
        self._now_s = now_s

    def authenticate(self, authorization: str | None, tenant_id: str | None = None) -> Identity:
        """See `Authenticator`."""
        claims = self._claims(_bearer(authorization))
        identity = Identity(
            tenant_id=TenantId(_id_claim(claims, "tenant")),
            agent_id=AgentId(_id_claim(claims, "agent")) if claims.get("agent") is not None else None,
            roles=_roles(claims),
            teams=frozenset(_strings_claim(claims, "teams")),
            expires_s=self._now_s() + (claims["exp"] - self._wall_s()) + LEEWAY_S,
        )
        check_tenant(identity, tenant_id)
        return identity

    def _claims(self, token: str) -> dict[str, Any]:
        registry = jwt.JWTClaimsRegistry(
            now=lambda: int(self._wall_s()), leeway=LEEWAY_S, exp={"essential": True}, tenant={"essential": True}
        )
        # Errors are raised without their cause: it may quote parts of the token.
        try:
            claims = jwt.decode(token, self._key, algorithms=[ALGORITHM]).claims
            registry.validate(claims)
        except ExpiredTokenError:
            raise Unauthorised("the token has expired") from None
        except (JoseError, ValueError):
            raise Unauthorised("the token is not valid") from None
        return claims


def issue_token(
    shared_key: str,
    *,
    tenant_id: str,
    agent_id: str | None,
    roles: Sequence[Role],
    teams: Sequence[str] = (),
    ttl_s: float,
    wall_s: float,
) -> str:
    """Sign a token that `SharedKeyAuthenticator` with the same key accepts.

    Args:
        shared_key: At least 32 bytes.
        tenant_id: Claim `tenant`.
        agent_id: Claim `agent`; None leaves it out.
        roles: Claim `roles`.
        teams: Claim `teams`.
        ttl_s: Life from now.
        wall_s: Now, seconds since the Unix epoch.

    Raises:
        BadRequest: An id with characters that ids cannot have, or a life that is not positive.
    """
    for field, value in (("tenant", tenant_id), ("agent", agent_id)):
        if value is not None and not _ID.match(value):
            raise BadRequest("is not an id: letters, digits and ._:@+- only", field=field)
    if ttl_s <= 0:
        raise BadRequest("must be above 0", field="ttl")
    claims: dict[str, Any] = {"tenant": tenant_id, "roles": list(roles), "iat": int(wall_s), "exp": int(wall_s + ttl_s)}
    if agent_id is not None:
        claims["agent"] = agent_id
    if teams:
        claims["teams"] = list(teams)
    return jwt.encode({"alg": ALGORITHM}, claims, OctKey.import_key(shared_key))


def _bearer(authorization: str | None) -> str:
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthorised("a bearer token is required")
    if len(token) > MAX_TOKEN_CHARS:
        raise Unauthorised("the token is not valid")
    return token.strip()


def _id_claim(claims: dict[str, Any], name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or not _ID.match(value):
        raise Unauthorised(f"the token's claim `{name}` is not an id")
    return value


def _strings_claim(claims: dict[str, Any], name: str) -> list[str]:
    value = claims.get(name, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise Unauthorised(f"the token's claim `{name}` is not a list of strings")
    return value


def _roles(claims: dict[str, Any]) -> frozenset[Role]:
    # Roles of other systems share the token; those that we do not know give no right.
    named = _strings_claim(claims, "roles")
    return frozenset(role for role in ROLES if role in named)
