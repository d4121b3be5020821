import pytest

from server.auth.desk import TicketDesk
from server.auth.rate import RateLimiter
from server.auth.tickets import Tickets
from server.auth.tokens import AnonymousAuthenticator, SharedKeyAuthenticator, issue_token
from server.wire.errors import BadMessage, Forbidden, TooLarge, TooManyRequests, Unauthorised

KEY = "k" * 32


def desk() -> tuple[TicketDesk, Tickets]:
    tickets = Tickets()
    limiter = RateLimiter(1.0, 2.0)
    authenticator = SharedKeyAuthenticator(KEY, wall_s=lambda: 1.8e9, now_s=lambda: 0.0)
    return TicketDesk(authenticator, tickets, limiter=limiter, clock=lambda: 0.0), tickets


def bearer(agent_id: str = "a1") -> str:
    token = issue_token(KEY, tenant_id="t", agent_id=agent_id, roles=["agent"], ttl_s=60, wall_s=1.8e9)
    return f"Bearer {token}"


def test_a_token_buys_a_ticket() -> None:
    at, tickets = desk()
    answer = at.issue(b'{"tenant_id": "t"}', authorization=bearer())
    assert answer.expires_in_s == 60.0
    assert tickets.redeem(answer.ticket, 1.0).agent_id == "a1"


@pytest.mark.parametrize("body", [b"", b" ", b"{}", b'{"unknown": 1}'])
def test_the_body_may_say_nothing(body: bytes) -> None:
    assert desk()[0].issue(body, authorization=bearer()).ticket


def test_an_identity_draws_tickets_at_a_rate_of_its_own() -> None:
    at, _ = desk()
    for _ in range(2):
        at.issue(b"", authorization=bearer())
    with pytest.raises(TooManyRequests):
        at.issue(b"", authorization=bearer())
    at.issue(b"", authorization=bearer("a2"))


def test_without_authentication_there_is_no_rate() -> None:
    at = TicketDesk(AnonymousAuthenticator("t"), Tickets(), limiter=RateLimiter(1.0, 1.0))
    assert len({at.issue(b"").ticket for _ in range(5)}) == 5


def test_bad_requests() -> None:
    at, tickets = desk()
    with pytest.raises(Unauthorised):
        at.issue(b"")
    with pytest.raises(BadMessage) as caught:
        at.issue(b'{"tenant_id": 3}', authorization=bearer())
    assert caught.value.field == "tenant_id"
    with pytest.raises(BadMessage):
        at.issue(b"{", authorization=bearer())
    with pytest.raises(TooLarge):
        at.issue(b" " * 5000, authorization=bearer())
    with pytest.raises(Forbidden, match="tenant"):
        at.issue(b'{"tenant_id": "u"}', authorization=bearer())
    with pytest.raises(Forbidden, match="origin"):
        at.issue(b"", authorization=bearer(), origin="https://evil.example", host="cueline.example")
    assert len(tickets) == 0
