"""From a token's claims to an identity; the same for every way of signing. Pure.

    tenant (required) · agent · roles · teams · exp (required) · nbf · iat · iss · aud

An identity provider that has to put its own claims into a namespace names it once (`auth.claims_prefix`). Errors are
raised without their cause: it may quote parts of the token.

Source: RFC 7519 (JWT), RFC 6750 (bearer tokens).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from joserfc import jwt
from joserfc.errors import ExpiredTokenError, JoseError

from server.auth.identity import ROLES, Identity, Role
from server.wire.errors import Unauthorised
from server.wire.ids import ID_PATTERN, AgentId, TenantId

LEEWAY_S = 30
"""How far the clocks of token issuer and server may disagree."""
MAX_TOKEN_CHARS = 8192
MAX_LIFE_S = 100 * 365.25 * 86_400
"""A token may be meant to be good for ever: what ends later ends then, in numbers that clocks and tickets can hold."""

ID = re.compile(ID_PATTERN)


@dataclass(frozen=True, slots=True)
class ClaimRules:
    """What a token has to say besides who it is.

    Attributes:
        prefix: Before `tenant`, `agent`, `roles` and `teams`, such as `https://cueline.example/`.
        issuer: Value of `iss`; empty: any.
        audience: Member of `aud`; empty: any.
    """

    prefix: str = ""
    issuer: str = ""
    audience: str = ""


def bearer(authorization: str | None) -> str:
    """The token of an `Authorization` header.

    Raises:
        Unauthorised: There is none.
    """
    scheme, _, token = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthorised("a bearer token is required")
    if len(token) > MAX_TOKEN_CHARS:
        raise Unauthorised("the token is not valid")
    return token.strip()


def verified(token: str, key: Any, algorithms: list[str], rules: ClaimRules, wall_s: float) -> dict[str, Any]:
    """The claims of a token that this key signed and that holds now.

    Raises:
        Unauthorised: Any other.
    """
    options: dict[str, Any] = {"exp": {"essential": True}, f"{rules.prefix}tenant": {"essential": True}}
    if rules.issuer:
        options["iss"] = {"essential": True, "value": rules.issuer}
    if rules.audience:
        options["aud"] = {"essential": True, "value": rules.audience}
    registry = jwt.JWTClaimsRegistry(now=lambda: int(wall_s), leeway=LEEWAY_S, **options)
    try:
        claims = jwt.decode(token, key, algorithms=algorithms).claims
        registry.validate(claims)
    except ExpiredTokenError:
        raise Unauthorised("the token has expired") from None
    except (JoseError, ValueError):
        raise Unauthorised("the token is not valid") from None
    return claims


def identity_of(claims: dict[str, Any], rules: ClaimRules, *, wall_s: float, now_s: float) -> Identity:
    """Who the claims say it is.

    Args:
        claims: Verified.
        rules: Where they are.
        wall_s: Now, seconds since the Unix epoch.
        now_s: Now, monotonic, the clock of `Identity.expires_s`.

    Raises:
        Unauthorised: A claim is no id or no list.
    """
    agent = f"{rules.prefix}agent"
    return Identity(
        tenant_id=TenantId(_id(claims, f"{rules.prefix}tenant")),
        agent_id=AgentId(_id(claims, agent)) if claims.get(agent) is not None else None,
        roles=_roles(_strings(claims, f"{rules.prefix}roles")),
        teams=frozenset(_strings(claims, f"{rules.prefix}teams")),
        expires_s=now_s + (min(claims["exp"], wall_s + MAX_LIFE_S) - wall_s) + LEEWAY_S,
    )


def _id(claims: dict[str, Any], name: str) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or not ID.match(value):
        raise Unauthorised(f"the token's claim `{name}` is not an id")
    return value


def _strings(claims: dict[str, Any], name: str) -> list[str]:
    value = claims.get(name, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise Unauthorised(f"the token's claim `{name}` is not a list of strings")
    return value


def _roles(named: list[str]) -> frozenset[Role]:
    # Roles of other systems share the token; those that we do not know give no right.
    return frozenset(role for role in ROLES if role in named)
