import pytest
from joserfc import jwt
from joserfc.jwk import OctKey

from server.auth.claims import MAX_LIFE_S
from server.auth.identity import Identity, check_tenant
from server.auth.tokens import LEEWAY_S, AnonymousAuthenticator, SharedKeyAuthenticator, issue_token
from server.wire.errors import BadRequest, CuelineError, Forbidden, Unauthorised
from server.wire.ids import AgentId, TenantId

KEY = "0123456789abcdef0123456789abcdef"
WALL_S = 1_800_000_000.0


def authenticator(wall_s: float = WALL_S, key: str = KEY) -> SharedKeyAuthenticator:
    return SharedKeyAuthenticator(key, wall_s=lambda: wall_s, now_s=lambda: 1000.0)


def token(**changes: object) -> str:
    arguments = {"tenant_id": "t", "agent_id": "a1", "roles": ["agent"], "ttl_s": 3600.0, "wall_s": WALL_S} | changes
    return issue_token(KEY, **arguments)  # type: ignore[arg-type]


def signed(claims: dict[str, object], alg: str = "HS256") -> str:
    return jwt.encode({"alg": alg}, claims, OctKey.import_key(KEY), algorithms=[alg])


def test_a_token_says_who_when_and_what() -> None:
    bearer = f"Bearer {token(roles=['agent', 'supervisor'], teams=['north'])}"
    assert authenticator().authenticate(bearer) == Identity(
        tenant_id=TenantId("t"),
        agent_id=AgentId("a1"),
        roles=frozenset({"agent", "supervisor"}),
        teams=frozenset({"north"}),
        expires_s=1000.0 + 3600.0 + LEEWAY_S,
    )


def test_a_machine_needs_no_agent() -> None:
    identity = authenticator().authenticate(f"bearer {token(agent_id=None, roles=['telephony'])}", "t")
    assert identity.agent_id is None


def test_another_tenant_is_refused_by_name() -> None:
    with pytest.raises(Forbidden) as caught:
        authenticator().authenticate(f"Bearer {token()}", "other")
    assert caught.value.field == "tenant_id"


def test_an_expired_token_is_refused_after_the_leeway() -> None:
    assert authenticator(WALL_S + 3600 + LEEWAY_S - 1).authenticate(f"Bearer {token()}")
    with pytest.raises(Unauthorised, match="expired"):
        authenticator(WALL_S + 3600 + LEEWAY_S + 1).authenticate(f"Bearer {token()}")


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Basic YTpi",
        "Bearer x",
        "Bearer a.b.c",
        "Bearer " + "x" * 10_000,
        "Bearer " + "é.é.é",
        "Bearer eyJhbGciOiJub25lIn0.eyJ0ZW5hbnQiOiJ0IiwiZXhwIjoxOTAwMDAwMDAwfQ.",
        "Bearer " + signed({"tenant": "t", "exp": int(WALL_S) + 60}, "HS512"),
        "Bearer " + signed({"tenant": "t"}),
        "Bearer " + signed({"exp": int(WALL_S) + 60}),
        "Bearer " + signed({"tenant": "t", "exp": "soon"}),
        "Bearer " + signed({"tenant": "../t", "exp": int(WALL_S) + 60}),
        "Bearer " + signed({"tenant": ["t"], "exp": int(WALL_S) + 60}),
        "Bearer " + signed({"tenant": "t", "agent": "a b", "exp": int(WALL_S) + 60}),
        "Bearer " + signed({"tenant": "t", "roles": "admin", "exp": int(WALL_S) + 60}),
        "Bearer " + signed({"tenant": "t", "teams": [1], "exp": int(WALL_S) + 60}),
    ],
)
def test_bad_credentials_are_refused_and_not_repeated(authorization: str | None) -> None:
    with pytest.raises(Unauthorised) as caught:
        authenticator().authenticate(authorization)
    assert caught.value.__cause__ is None
    if authorization and len(authorization) > 12:
        assert authorization[7:] not in str(caught.value)


def test_a_token_that_never_ends_is_good_for_as_long_as_clocks_can_tell() -> None:
    identity = authenticator().authenticate("Bearer " + signed({"tenant": "t", "exp": 10**400}))
    assert identity.expires_s == pytest.approx(1000.0 + MAX_LIFE_S, rel=1e-6)


def test_another_key_is_refused() -> None:
    with pytest.raises(Unauthorised):
        authenticator(key="f" * 32).authenticate(f"Bearer {token()}")


def test_unknown_roles_give_nothing() -> None:
    bearer = "Bearer " + signed({"tenant": "t", "roles": ["root", "agent"], "exp": int(WALL_S) + 60})
    assert authenticator().authenticate(bearer).roles == {"agent"}


@pytest.mark.parametrize(
    ("changes", "field"), [({"tenant_id": "a/b"}, "tenant"), ({"agent_id": ""}, "agent"), ({"ttl_s": 0.0}, "ttl")]
)
def test_a_token_that_could_not_be_used_is_not_issued(changes: dict[str, object], field: str) -> None:
    with pytest.raises(BadRequest) as caught:
        token(**changes)
    assert caught.value.field == field


def test_without_authentication_everyone_is_the_default_agent() -> None:
    anonymous = AnonymousAuthenticator("car_service", "agent", tenants=["retail_bank"])
    identity = anonymous.authenticate(None)
    assert (identity.tenant_id, identity.agent_id, identity.is_anonymous) == ("car_service", "agent", True)
    assert anonymous.authenticate("Bearer whatever", "retail_bank").tenant_id == "retail_bank"
    with pytest.raises(CuelineError) as caught:
        anonymous.authenticate(None, "nobody")
    assert caught.value.field == "tenant_id"


def test_check_tenant() -> None:
    identity = AnonymousAuthenticator("t").authenticate(None)
    assert check_tenant(identity, None) == check_tenant(identity, "t") == "t"
    with pytest.raises(Forbidden):
        check_tenant(identity, "u")
