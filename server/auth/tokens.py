"""From the `Authorization` header to an identity, and back for development.

    none configured   anonymous, this machine only
    shared key        HS256, for development and small installations
    key set           RS256 and ES256, signed by an identity provider

Tokens never reach a log or an error.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey, RSAKey
from joserfc.jws import extract_compact

from server.auth.claims import ID, LEEWAY_S, ClaimRules, bearer, identity_of, verified
from server.auth.identity import Identity, Role, check_tenant
from server.auth.key_set import KeySet
from server.wire.errors import BadRequest, CuelineError, Forbidden, Unauthorised
from server.wire.ids import AgentId, TenantId

__all__ = [
    "LEEWAY_S",
    "AnonymousAuthenticator",
    "Authenticator",
    "KeySetAuthenticator",
    "SharedKeyAuthenticator",
    "issue_token",
]

ALGORITHM = "HS256"


class Authenticator(Protocol):
    """Turns credentials into an identity."""

    async def prepare(self, authorization: str | None) -> None:
        """Fetch what it takes to judge these credentials, if that is not at hand. Never raises.

        Called once a request or connection, before `authenticate`, which never waits.
        """

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

    async def prepare(self, authorization: str | None) -> None:
        """See `Authenticator`."""

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
        rules: What a token has to say besides who it is.
        wall_s: Wall clock, seconds since the Unix epoch.
        now_s: Monotonic clock, for `Identity.expires_s`.
    """

    def __init__(
        self,
        shared_key: str,
        rules: ClaimRules | None = None,
        *,
        wall_s: Callable[[], float] = time.time,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._key = OctKey.import_key(shared_key)
        self._rules = rules or ClaimRules()
        self._wall_s = wall_s
        self._now_s = now_s

    async def prepare(self, authorization: str | None) -> None:
        """See `Authenticator`."""

    def authenticate(self, authorization: str | None, tenant_id: str | None = None) -> Identity:
        """See `Authenticator`."""
        claims = verified(bearer(authorization), self._key, [ALGORITHM], self._rules, self._wall_s())
        identity = identity_of(claims, self._rules, wall_s=self._wall_s(), now_s=self._now_s())
        check_tenant(identity, tenant_id)
        return identity


class KeySetAuthenticator:
    """RS256 and ES256 tokens of an identity provider, whose key set says which of its keys holds now.

    Args:
        keys: Started.
        rules: What a token has to say besides who it is.
        wall_s: Wall clock, seconds since the Unix epoch.
        now_s: Monotonic clock, for `Identity.expires_s`.
    """

    def __init__(
        self,
        keys: KeySet,
        rules: ClaimRules | None = None,
        *,
        wall_s: Callable[[], float] = time.time,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys = keys
        self._rules = rules or ClaimRules()
        self._wall_s = wall_s
        self._now_s = now_s

    async def prepare(self, authorization: str | None) -> None:
        """Look for the key that signed this token; see `Authenticator`."""
        try:
            kid = _kid(bearer(authorization))
        except CuelineError:
            return
        await self._keys.look_for(kid)

    def authenticate(self, authorization: str | None, tenant_id: str | None = None) -> Identity:
        """See `Authenticator`."""
        token = bearer(authorization)
        key = self._keys.find(_kid(token))
        if key is None:
            raise Unauthorised("the token is not valid")
        # The algorithm is the key's, never the token's: a public key must not become an HMAC secret.
        algorithm = "RS256" if isinstance(key, RSAKey) else "ES256"
        claims = verified(token, key, [algorithm], self._rules, self._wall_s())
        identity = identity_of(claims, self._rules, wall_s=self._wall_s(), now_s=self._now_s())
        check_tenant(identity, tenant_id)
        return identity


def _kid(token: str) -> str | None:
    try:
        kid = extract_compact(token.encode()).protected.get("kid")
    except (JoseError, ValueError):
        raise Unauthorised("the token is not valid") from None
    if kid is not None and not isinstance(kid, str):
        raise Unauthorised("the token is not valid")
    return kid


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
        if value is not None and not ID.match(value):
            raise BadRequest("is not an id: letters, digits and ._:@+- only", field=field)
    if ttl_s <= 0:
        raise BadRequest("must be above 0", field="ttl")
    claims: dict[str, Any] = {"tenant": tenant_id, "roles": list(roles), "iat": int(wall_s), "exp": int(wall_s + ttl_s)}
    if agent_id is not None:
        claims["agent"] = agent_id
    if teams:
        claims["teams"] = list(teams)
    return jwt.encode({"alg": ALGORITHM}, claims, OctKey.import_key(shared_key))
