"""Signatures over parts of an HTTP request, HMAC-SHA256 with a shared secret. Pure.

    Signature-Input: sig1=("@request-target" "@authority" "x-api-key");keyid="…";created=…    what was signed
    Signature: sig1=:base64:                                                                   the signature

Source: draft-ietf-httpbis-message-signatures-11, as Genesys AudioHook uses it (its later form is RFC 9421).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Collection, Mapping

from server.wire.errors import Unauthorised

MAX_AGE_S = 10.0
MAX_SKEW_S = 3.0
MIN_NONCE_CHARS = 22
"""128 bits in base64."""

_INPUT = re.compile(
    r'^\s*([a-z*][a-z0-9_.*-]*)=(\(((?:"[^"\\]*"\s?)*)\)((?:;[a-z*][a-z0-9_.*-]*=(?:"[^"\\]*"|\d+))*))\s*$'
)
_COMPONENT = re.compile(r'"([^"\\]*)"')
_PARAMETER = re.compile(r';([a-z*][a-z0-9_.*-]*)=(?:"([^"\\]*)"|(\d+))')
_SIGNATURE = re.compile(r"^\s*([a-z*][a-z0-9_.*-]*)=:([A-Za-z0-9+/=]*):\s*$")


def verify(
    headers: Mapping[str, str],
    target: str,
    required: Collection[str],
    secret_of: Callable[[str], bytes | None],
    now_s: float,
) -> str:
    """Check a request's signature.

    Args:
        headers: By lower-case name.
        target: Path and query, as they were sent.
        required: Components that have to be signed.
        secret_of: The secret of a key id, None for one that is unknown.
        now_s: Wall time, seconds since the Unix epoch.

    Returns:
        The key id that signed.

    Raises:
        Unauthorised: Not signed, not for these components, too old, or not by that key.
    """
    stated = _INPUT.match(headers.get("signature-input", ""))
    sent = _SIGNATURE.match(headers.get("signature", ""))
    if stated is None or sent is None or stated[1] != sent[1]:
        raise Unauthorised("the request is not signed", field="Signature")
    components = _COMPONENT.findall(stated[3])
    parameters: dict[str, str] = {name: text or number for name, text, number in _PARAMETER.findall(stated[4])}
    _check_parameters(parameters, now_s)
    if len(set(components)) != len(components) or not set(required) <= set(components):
        raise Unauthorised("the signature leaves out what has to be signed", field="Signature-Input")
    lines = [f'"{name}": {_component(name, headers, target)}' for name in components]
    lines.append(f'"@signature-params": {stated[2]}')
    key_id = parameters.get("keyid", "")
    # An unknown key is checked as long as a known one.
    secret = secret_of(key_id)
    expected = hmac.new(secret or b"unknown", "\n".join(lines).encode("latin-1"), hashlib.sha256).digest()
    try:
        given = base64.b64decode(sent[2], validate=True)
    except binascii.Error:
        given = b""
    if not hmac.compare_digest(given, expected) or not secret:
        raise Unauthorised("the signature is not valid", field="Signature")
    return key_id


def _check_parameters(parameters: Mapping[str, str], now_s: float) -> None:
    if parameters.get("alg", "hmac-sha256") != "hmac-sha256" or len(parameters.get("nonce", "")) < MIN_NONCE_CHARS:
        raise Unauthorised("the signature has another algorithm, or no nonce", field="Signature-Input")
    try:
        created_s, expires_s = int(parameters["created"]), int(parameters.get("expires", 2**62))
    except (KeyError, ValueError):
        raise Unauthorised("the signature does not say when it was made", field="Signature-Input") from None
    if not created_s - MAX_SKEW_S <= now_s <= min(created_s + MAX_AGE_S, expires_s) + MAX_SKEW_S:
        raise Unauthorised("the signature is too old, or from the future", field="Signature-Input")


def _component(name: str, headers: Mapping[str, str], target: str) -> str:
    derived = {"@request-target": target, "@authority": headers.get("host", "").lower()}
    value = derived.get(name) if name.startswith("@") else headers.get(name)
    if not value:
        raise Unauthorised("the signature covers what the request does not have", field="Signature-Input")
    return value.strip()
