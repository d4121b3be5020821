import pytest

from server.auth.origin import OriginPolicy


@pytest.mark.parametrize(
    ("origin", "host", "is_allowed"),
    [
        (None, "cueline.example", True),  # not a browser
        ("https://cueline.example", "cueline.example", True),
        ("http://cueline.example:8080", "cueline.example:8080", True),
        ("HTTPS://Cueline.Example", "cueline.example", True),
        ("https://desktop.example", "cueline.example", True),
        ("https://evil.example", "cueline.example", False),
        ("https://cueline.example:444", "cueline.example", False),
        ("https://cueline.example.evil.example", "cueline.example", False),
        ("null", "cueline.example", False),
        ("file://", "cueline.example", False),
        ("", "cueline.example", False),
        ("https://[", "[", False),
        ("https://cueline.example", None, False),
    ],
)
def test_our_own_pages_and_those_named(origin: str | None, host: str | None, is_allowed: bool) -> None:
    assert OriginPolicy(["https://desktop.example/"]).allows(origin, host) == is_allowed


@pytest.mark.parametrize(
    ("origin", "is_allowed"),
    [
        ("http://127.0.0.1:8080", True),
        ("http://localhost:8080", True),
        ("http://[::1]:8080", True),
        ("http://rebound.example:8080", False),
    ],
)
def test_without_sign_in_a_page_cannot_pass_as_ours_by_its_name(origin: str, is_allowed: bool) -> None:
    host = origin.removeprefix("http://")
    assert OriginPolicy(is_loopback_only=True).allows(origin, host) == is_allowed
    assert OriginPolicy([origin], is_loopback_only=True).allows(origin, "localhost:8080")


@pytest.mark.parametrize(
    ("host", "is_allowed"),
    [
        ("127.0.0.1:8080", True),
        ("localhost", True),
        ("[::1]:8080", True),
        (None, True),
        ("rebound.example:8080", False),
        ("[", False),
        ("", False),
    ],
)
def test_without_sign_in_a_rebound_name_cannot_read(host: str | None, is_allowed: bool) -> None:
    assert OriginPolicy(is_loopback_only=True).allows(None, host) == is_allowed
