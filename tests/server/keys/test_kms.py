"""The AWS client against a local service with KMS's own rules: contexts, states, ciphertexts that only it can open."""

from __future__ import annotations

import base64
import http.server
import json
import secrets
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from server.keys.keyring import Keyring
from server.wire.errors import ConfigError, Gone, Unavailable
from server.wire.ids import TenantId

kms = pytest.importorskip("server.keys.kms", reason="needs the extra aws")

T, U = TenantId("car_service"), TenantId("retail_bank")


class FakeKms:
    """`TrentService` of the AWS JSON 1.1 protocol."""

    def __init__(self) -> None:
        self.keys = {f"alias/cueline-{name}": AESGCM(secrets.token_bytes(32)) for name in (T, U)}
        self.states = dict.fromkeys(self.keys, "Enabled")
        self.is_throttling = False

    def answer(self, operation: str, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        key_id = request["KeyId"]
        if self.is_throttling:
            return 400, {"__type": "ThrottlingException"}
        if key_id not in self.keys:
            return 400, {"__type": "NotFoundException"}
        if operation == "DescribeKey":
            return 200, {"KeyMetadata": {"KeyId": key_id, "KeyState": self.states[key_id]}}
        if operation == "ScheduleKeyDeletion":
            self.states[key_id] = "PendingDeletion"
            return 200, {"KeyId": key_id, "KeyState": "PendingDeletion"}
        if self.states[key_id] != "Enabled":
            return 400, {"__type": "KMSInvalidStateException"}
        cipher, context = self.keys[key_id], json.dumps(request["EncryptionContext"]).encode()
        if operation == "GenerateDataKey":
            plain, nonce = secrets.token_bytes(32), secrets.token_bytes(12)
            blob = nonce + cipher.encrypt(nonce, plain, context)
            return 200, {"Plaintext": _text(plain), "CiphertextBlob": _text(blob), "KeyId": key_id}
        blob = base64.b64decode(request["CiphertextBlob"])
        try:
            return 200, {"Plaintext": _text(cipher.decrypt(blob[:12], blob[12:], context)), "KeyId": key_id}
        except Exception:
            return 400, {"__type": "InvalidCiphertextException"}


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FakeKms, str]]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    fake = FakeKms()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, body = fake.answer(self.headers["X-Amz-Target"].removeprefix("TrentService."), request)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: Any) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield fake, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
async def provider(service: tuple[FakeKms, str]) -> AsyncIterator[Any]:
    provider = kms.KmsKeys("alias/cueline-{tenant}", "eu-central-1", service[1])
    await provider.open()
    yield provider
    await provider.close()


async def test_keys_of_the_service_seal_and_open(provider: Any) -> None:
    keys = Keyring(provider)
    await keys.check([T, U])
    sealed = keys.seal(T, b"words", b"row")
    assert await Keyring(provider).open(sealed, b"row") == b"words"


async def test_a_wrapped_key_of_one_tenant_opens_for_no_other(provider: Any) -> None:
    wrapped = (await provider.create(T)).wrapped
    with pytest.raises(Gone):
        await provider.unwrap(U, wrapped)


async def test_a_key_that_is_destroyed_is_gone_from_now_on(provider: Any) -> None:
    keys = Keyring(provider)
    await keys.check([T, U])
    sealed = keys.seal(T, b"words", b"row")
    assert "7 days" in await provider.destroy(T)
    await provider.destroy(T)
    assert await provider.is_destroyed(T)
    assert not await provider.is_destroyed(U)
    await keys.check([])
    with pytest.raises(Gone):
        await keys.open(sealed, b"row")
    with pytest.raises(Gone):
        keys.seal(T, b"words", b"row")


@pytest.mark.slow
async def test_a_service_that_is_busy_is_tried_again(provider: Any, service: tuple[FakeKms, str]) -> None:
    keys = Keyring(provider)
    await keys.check([T])
    service[0].is_throttling = True
    await keys.check([T])
    assert keys.seal(T, b"words", b"row")
    with pytest.raises(Unavailable):
        await provider.create(T)


async def test_a_tenant_without_a_key_and_a_key_for_all_are_told(provider: Any) -> None:
    with pytest.raises(ConfigError, match="no key for this tenant"):
        await provider.create(TenantId("nobody"))
    with pytest.raises(ConfigError, match="one key a tenant"):
        await kms.KmsKeys("alias/one-for-all").open()
