"""The key set against a real HTTP server, and the tokens that its keys sign."""

from __future__ import annotations

import base64
import contextlib
import hmac
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

from server.auth.claims import LEEWAY_S, ClaimRules
from server.auth.key_set import KeySet, parse
from server.auth.tokens import KeySetAuthenticator
from server.wire.errors import ConfigError, Unauthorised

WALL_S = 1_800_000_000.0
RULES = ClaimRules(issuer="https://id.example", audience="cueline")
OLD = RSAKey.generate_key(2048, {"kid": "old"})
NEW = ECKey.generate_key("P-256", {"kid": "new"})


def document(*keys: Any) -> bytes:
    return json.dumps({"keys": [key if isinstance(key, dict) else key.as_dict(private=False) for key in keys]}).encode()


def token(key: Any = OLD, alg: str = "RS256", kid: str | None = "", **changes: Any) -> str:
    claims = {
        "tenant": "t", "agent": "a1", "roles": ["agent"], "iss": "https://id.example", "aud": ["other", "cueline"],
        "exp": int(WALL_S) + 60,
    } | changes  # fmt: skip
    header = {"alg": alg} | ({} if kid is None else {"kid": kid or key.kid})
    return f"Bearer {jwt.encode(header, {k: v for k, v in claims.items() if v is not None}, key, algorithms=[alg])}"


class Provider:
    """What the identity provider publishes, and how often it was asked."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.asked = 0
        self.is_away = False
        self.now_s = 0.0

    async def fetch(self) -> bytes:
        self.asked += 1
        if self.is_away:
            raise OSError("away")
        return self.body

    def keys(self, **limits: float) -> KeySet:
        return KeySet("https://id.example/keys", fetch=self.fetch, now_s=lambda: self.now_s, **limits)


def authenticator(keys: KeySet, wall_s: float = WALL_S, rules: ClaimRules = RULES) -> KeySetAuthenticator:
    return KeySetAuthenticator(keys, rules, wall_s=lambda: wall_s, now_s=lambda: 0.0)


async def started(provider: Provider, **limits: float) -> KeySet:
    keys = provider.keys(**limits)
    await keys.start()
    await keys.stop()  # its clock; the tests turn it themselves
    return keys


@pytest.mark.parametrize(("key", "alg"), [(OLD, "RS256"), (NEW, "ES256")])
async def test_a_token_of_the_provider_is_taken(key: Any, alg: str) -> None:
    identity = authenticator(await started(Provider(document(OLD, NEW)))).authenticate(token(key, alg))
    assert (identity.tenant_id, identity.agent_id, identity.roles) == ("t", "a1", {"agent"})
    assert identity.expires_s == 60 + LEEWAY_S


def hmac_of_public_key() -> str:
    """The classic confusion: the public key, which anyone can read, taken as an HMAC secret."""
    part = base64.urlsafe_b64encode
    claims = {"tenant": "t", "iss": "https://id.example", "aud": "cueline", "exp": int(WALL_S) + 60}
    body = part(b'{"alg":"HS256","kid":"old"}').rstrip(b"=") + b"." + part(json.dumps(claims).encode()).rstrip(b"=")
    digest = hmac.digest(OLD.as_pem(private=False), body, "sha256")
    return f"Bearer {(body + b'.' + part(digest).rstrip(b'=')).decode()}"


@pytest.mark.filterwarnings("ignore")  # the library warns of what is done wrong here on purpose
@pytest.mark.parametrize(
    "bearer",
    [
        lambda: token(RSAKey.generate_key(2048, {"kid": "old"})),
        lambda: token(kid="unknown"),
        lambda: token(kid=None),
        lambda: token(OLD, "RS384"),
        hmac_of_public_key,
        lambda: token(exp=int(WALL_S) - LEEWAY_S - 1),
        lambda: token(exp=None),
        lambda: token(nbf=int(WALL_S) + LEEWAY_S + 60),
        lambda: token(iss="https://evil.example"),
        lambda: token(iss=None),
        lambda: token(aud="other"),
        lambda: token(aud=None),
        lambda: token(tenant=None),
        lambda: "Bearer eyJhbGciOiJub25lIiwia2lkIjoib2xkIn0.e30.",
        lambda: "Bearer " + "a." * 3,
        lambda: "Bearer eyJhbGciOiJSUzI1NiIsImtpZCI6WzFdfQ.e30.AA",
    ],
)
async def test_any_other_token_is_refused(bearer: Any) -> None:
    subject = authenticator(await started(Provider(document(OLD, NEW))))
    text = bearer()
    await subject.prepare(text)
    with pytest.raises(Unauthorised) as caught:
        subject.authenticate(text)
    assert caught.value.__cause__ is None


async def test_claims_may_stand_in_a_namespace() -> None:
    rules = ClaimRules(prefix="https://cueline.example/", audience="cueline")
    subject = authenticator(await started(Provider(document(OLD))), rules=rules)
    spaced = {"https://cueline.example/tenant": "u", "https://cueline.example/roles": ["admin"]}
    identity = subject.authenticate(token(tenant="t", **spaced))
    assert (identity.tenant_id, identity.agent_id, identity.roles) == ("u", None, {"admin"})


async def test_a_new_key_is_fetched_when_it_is_first_seen_and_an_old_one_ends() -> None:
    provider = Provider(document(OLD))
    keys = await started(provider, min_interval_s=10)
    subject = authenticator(keys)
    provider.body = document(NEW)
    provider.now_s = 11
    await subject.prepare(token(NEW, "ES256"))
    assert subject.authenticate(token(NEW, "ES256")).tenant_id == "t"
    with pytest.raises(Unauthorised):
        subject.authenticate(token(OLD))


async def test_made_up_key_ids_cannot_make_us_ask_more_often() -> None:
    provider = Provider(document(OLD))
    keys = await started(provider, min_interval_s=10)
    for number in range(200):
        provider.now_s += 0.1
        await keys.look_for(f"made-up-{number}")
    assert provider.asked <= 1 + 20 / 10


async def test_known_keys_hold_while_the_provider_is_away_but_not_for_ever() -> None:
    provider = Provider(document(OLD))
    keys = await started(provider, max_stale_s=3600)
    provider.is_away = True
    provider.now_s = 3599
    await keys.look_for("unknown")
    assert keys.find("old") is not None
    provider.now_s = 3601
    assert keys.find("old") is None


async def test_a_provider_that_is_away_at_the_start_comes_later() -> None:
    provider = Provider(document(OLD))
    provider.is_away = True
    keys = await started(provider)
    assert keys.find("old") is None
    provider.is_away = False
    provider.now_s = 60
    await keys.look_for("old")
    assert keys.find("old") is not None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b'{"keys": 3}',
        b'{"keys": []}',
        document({"kty": "oct", "k": "c2VjcmV0", "kid": "old"}),
        document({"kty": "RSA", "n": "AQAB", "e": "AQAB"}),
        document(ECKey.generate_key("P-384")),
        document({**OLD.as_dict(private=False), "use": "enc"}),
    ],
)
async def test_what_holds_no_key_for_us_refuses_the_start(body: bytes) -> None:
    with pytest.raises(ConfigError) as caught:
        await started(Provider(body))
    assert caught.value.field == "auth.jwks"


def test_a_key_of_another_kind_beside_ours_is_left_out() -> None:
    assert parse(document({"kty": "OKP", "crv": "Ed25519", "x": "AA"}, {"kty": "new thing"}, NEW)).keys() == {"new"}


async def test_a_file_will_do(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(document(NEW))
    keys = KeySet(str(path))
    await keys.start()
    assert keys.find("new") is not None
    await keys.stop()
    with pytest.raises(ConfigError, match="none"):
        await KeySet(str(tmp_path / "none.json")).start()


@pytest.fixture
def web() -> Iterator[tuple[str, dict[str, tuple[int, bytes]]]]:
    answers: dict[str, tuple[int, bytes]] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers[self.path]
            self.send_response(status)
            if status == 302:
                self.send_header("Location", "/keys")
            self.end_headers()
            with contextlib.suppress(OSError):  # who reads no further than it has to closes
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", answers
    server.shutdown()
    server.server_close()
    thread.join()


async def test_it_is_fetched_over_http(web: tuple[str, dict[str, tuple[int, bytes]]]) -> None:
    url, answers = web
    answers["/keys"] = (200, document(OLD))
    keys = KeySet(f"{url}/keys")
    await keys.start()
    assert keys.find("old") is not None
    await keys.stop()


@pytest.mark.parametrize(("status", "body"), [(500, b""), (302, b""), (200, b" " * 300_000)])
async def test_other_answers_are_none(
    web: tuple[str, dict[str, tuple[int, bytes]]], status: int, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    url, answers = web
    answers["/keys"] = (200, document(OLD))
    answers["/other"] = (status, body)
    keys = KeySet(f"{url}/other")
    with contextlib.suppress(ConfigError):
        await keys.start()
        assert "does not answer" in caplog.text
    await keys.stop()
    assert keys.find("old") is None
