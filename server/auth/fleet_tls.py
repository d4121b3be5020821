"""Encryption among the processes of a fleet, with a certificate that each makes alike from the secret they share.

    secret ─▶ Ed25519 key ─▶ certificate, the same bytes everywhere: served by each, and trusted by each alone

The certificate of the port cannot serve for this: hosts may have one each, its authority's other customers are not of
the fleet, and it is renewed on one host before the other. Who knows the secret can make passes and tickets anyway.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import ssl
import tempfile
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

_PURPOSE = b"cueline fleet tls"
_BEGIN = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
_END = datetime.datetime(9999, 12, 31, tzinfo=datetime.UTC)
"""The secret is what ends; a clock that is wrong should not part a fleet."""


def certificate_of(secret: bytes) -> tuple[bytes, bytes]:
    """Certificate and private key that belong to a secret, PEM; the same bytes in every process."""
    key = Ed25519PrivateKey.from_private_bytes(HKDF(SHA256(), 32, salt=None, info=_PURPOSE).derive(secret))
    public = key.public_key()
    digest = hashlib.sha256(public.public_bytes_raw()).digest()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"cueline fleet {digest[:8].hex()}")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(int.from_bytes(digest[:16], "big") | 1)
        .not_valid_before(_BEGIN)
        .not_valid_after(_END)
        .sign(key, algorithm=None)
    )
    return certificate.public_bytes(Encoding.PEM), key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


class FleetTls:
    """How a process listens for the others and reaches them.

    Attributes:
        server: Of the private listener.
        client: Trusts the fleet's certificates and no other, whatever the host is called.
    """

    def __init__(self, secrets: Sequence[bytes]) -> None:
        """Begin.

        Args:
            secrets: See `use`.
        """
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.client.check_hostname = False
        for context in (self.server, self.client):
            context.minimum_version = ssl.TLSVersion.TLSv1_3
        self.server.set_alpn_protocols(["http/1.1"])
        self.use(secrets)

    def use(self, secrets: Sequence[bytes]) -> None:
        """Take what the fleet shares now. Connections that are open go on.

        Args:
            secrets: The newest first; it is served, all are trusted.
        """
        for index, secret in enumerate(secrets):
            certificate, key = certificate_of(secret)
            self.client.load_verify_locations(cadata=certificate.decode())
            if index == 0:
                _load(self.server, certificate + key)


def _load(context: ssl.SSLContext, pem: bytes) -> None:
    """Give a context its certificate; `ssl` takes it from a file only, so it is one that this user alone may read."""
    descriptor, path = tempfile.mkstemp(prefix="cueline-fleet-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(pem)
        context.load_cert_chain(path)
    finally:
        os.unlink(path)
