"""TLS with certificates made here, over a real handshake."""

from __future__ import annotations

import asyncio
import datetime
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from server.app.tls import Renewal, tls_context
from server.config.settings import Settings, TlsSettings
from server.main import Server
from server.wire.errors import ConfigError


def issue(folder: Path, name: str = "localhost") -> TlsSettings:
    """A self-signed certificate and its key, in files."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder.mkdir(exist_ok=True)
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(pem)
    return TlsSettings(certificate=str(folder / "cert.pem"), key=str(folder / "key.pem"))


@asynccontextmanager
async def listening(context: ssl.SSLContext) -> AsyncIterator[int]:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


async def peer_name(port: int, client: ssl.SSLContext) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname="localhost")
    try:
        if await reader.read() != b"hello":
            raise ConnectionError("the server ended it")  # where TLS 1.3 says that a certificate was missing
        found = dict(pair[0] for pair in writer.get_extra_info("peercert")["subject"])
    finally:
        writer.close()
    return str(found["commonName"])


async def serial(port: int) -> int:
    """Of the certificate that is served, whoever signed it."""
    client = ssl.create_default_context()
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client)
    found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return x509.load_der_x509_certificate(found).serial_number


def _serial(settings: TlsSettings) -> int:
    return x509.load_pem_x509_certificate(Path(settings.certificate).read_bytes()).serial_number


def trusting(settings: TlsSettings) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=settings.certificate)


async def test_a_client_that_trusts_the_certificate_connects(tmp_path: Path) -> None:
    settings = issue(tmp_path)
    async with listening(tls_context(settings)) as port:
        assert await peer_name(port, trusting(settings)) == "localhost"


async def test_old_protocols_are_refused(tmp_path: Path) -> None:
    settings = issue(tmp_path)
    client = trusting(settings)
    client.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        client.minimum_version = client.maximum_version = ssl.TLSVersion.TLSv1_1
    async with listening(tls_context(settings)) as port:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await peer_name(port, client)


async def test_client_certificates_are_required_where_their_authority_is_named(tmp_path: Path) -> None:
    settings, friend = issue(tmp_path / "server"), issue(tmp_path / "friend", "friend")
    asking = TlsSettings(certificate=settings.certificate, key=settings.key, client_ca=friend.certificate)
    async with listening(tls_context(asking)) as port:
        client = trusting(settings)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await peer_name(port, client)
        client.load_cert_chain(friend.certificate, friend.key)
        assert await peer_name(port, client) == "localhost"


async def test_a_renewed_certificate_is_taken_up_and_a_broken_one_is_not(tmp_path: Path) -> None:
    settings = issue(tmp_path)
    context = tls_context(settings)
    renewal = Renewal(context, settings)
    old = _serial(settings)
    async with listening(context) as port:
        (tmp_path / "cert.pem").write_text("half a file")
        renewal.look()
        assert await serial(port) == old
        (tmp_path / "cert.pem").unlink()
        renewal.look()
        assert await serial(port) == old
        issue(tmp_path)
        renewal.look()
        assert await serial(port) == _serial(settings) != old


@pytest.mark.parametrize(("spoil", "field"), [("cert.pem", "tls.certificate"), ("key.pem", "tls.certificate")])
def test_a_file_that_does_not_load_is_named(tmp_path: Path, spoil: str, field: str) -> None:
    settings = issue(tmp_path)
    (tmp_path / spoil).write_text("nothing")
    with pytest.raises(ConfigError) as caught:
        tls_context(settings)
    assert caught.value.field == field


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    settings = issue(tmp_path)
    (tmp_path / "key.pem").unlink()
    with pytest.raises(ConfigError, match=r"key\.pem") as caught:
        tls_context(settings)
    assert caught.value.field == "tls.key"


async def test_a_certificate_that_is_not_there_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.pem")
    loading: list[str] = []
    settings = Settings(data_dir=str(tmp_path / "data"), tls=TlsSettings(certificate=missing, key=missing))
    with pytest.raises(ConfigError) as refused:
        await Server(settings, loading.append).run(dry_run=True)
    assert refused.value.field == "tls.certificate"
    assert loading == []
