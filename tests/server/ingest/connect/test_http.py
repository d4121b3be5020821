import json
import time

import pytest

from server.auth.tokens import SharedKeyAuthenticator, issue_token
from server.ingest.connect.http import EVENTS_PATH, EventDoor
from server.metrics import Metrics
from server.wire.errors import Overloaded
from tests.server.ingest.connect.test_contacts import flow_event

KEY = "k" * 32
ENDED = {"detail": {"eventType": "DISCONNECTED", "contactId": "c1", "channel": "VOICE"}}


class Service:
    num_contacts = 0

    def __init__(self):
        self.told = []
        self.is_full = False

    async def begin(self, tenant_id, contact):
        if self.is_full:
            raise Overloaded("full")
        self.told.append((tenant_id, contact.contact_id, "begin"))

    async def assign(self, tenant_id, contact_id, agent_id):
        self.told.append((tenant_id, contact_id, agent_id))

    async def end(self, tenant_id, contact_id):
        self.told.append((tenant_id, contact_id, "end"))


def token(*roles):
    return issue_token(KEY, tenant_id="acme", agent_id="a1", roles=roles, ttl_s=60, wall_s=time.time())


async def ask(door, body=b"", *, method="POST", path=EVENTS_PATH, bearer=None, client="127.0.0.1"):
    headers = [(b"authorization", f"Bearer {bearer}".encode())] if bearer else []
    scope = {"type": "http", "method": method, "path": path, "headers": headers, "client": (client, 1)}
    sent = []

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        sent.append(message)

    await door(scope, receive, send)
    return sent[0]["status"], sent[1]["body"]


@pytest.fixture
def service():
    return Service()


@pytest.fixture
def door(service):
    return EventDoor(service, SharedKeyAuthenticator(KEY), Metrics(), "scraper")


async def test_events_begin_and_end_contacts_of_the_senders_tenant(service, door):
    event = json.dumps(flow_event(ContactId="c1")).encode()
    assert (await ask(door, event, bearer=token("telephony")))[0] == 202
    assert (await ask(door, json.dumps(ENDED).encode(), bearer=token("telephony")))[0] == 202
    assert service.told == [("acme", "c1", "begin"), ("acme", "c1", "end")]


async def test_an_agent_by_arn_counts_only_where_ids_are_connects_own(service, door):
    arn = "arn:aws:connect:us-east-1:1:instance/i-1/agent/a-77"
    detail = {"eventType": "CONNECTED_TO_AGENT", "contactId": "c1", "channel": "VOICE", "agentInfo": {"agentArn": arn}}
    by_arn = EventDoor(service, SharedKeyAuthenticator(KEY), Metrics(), agents_by_arn=True)
    for asked in (door, by_arn):
        assert (await ask(asked, json.dumps({"detail": detail}).encode(), bearer=token("telephony")))[0] == 202
    await ask(door, b'{"contact_id": "c1", "agent_id": "anna"}', bearer=token("telephony"))
    assert service.told == [("acme", "c1", "a-77"), ("acme", "c1", "anna")]


@pytest.mark.parametrize(("bearer", "status"), [(None, 401), ("nonsense", 401), ("supervisor", 403), ("agent", 403)])
async def test_who_may_not_bring_calls_in_may_not_send_events(service, door, bearer, status):
    bearer = token(bearer) if bearer in ("supervisor", "agent") else bearer
    assert (await ask(door, json.dumps(ENDED).encode(), bearer=bearer))[0] == status
    assert service.told == []


async def test_a_full_process_asks_to_be_asked_again(service, door):
    service.is_full = True
    status, body = await ask(door, json.dumps(flow_event()).encode(), bearer=token("telephony"))
    assert (status, json.loads(body)["retryable"]) == (503, True)


async def test_wrong_events_are_answered(door):
    status, body = await ask(door, b"{}", bearer=token("telephony"))
    assert (status, json.loads(body)["field"]) == (400, "contact_id")
    assert (await ask(door, bytes(300_000), bearer=token("telephony")))[0] == 413
    assert (await ask(door, path="/elsewhere"))[0] == 404


async def test_metrics_are_for_this_machine_or_the_scraper(door):
    assert (await ask(door, method="GET", path="/metrics"))[0] == 200
    assert (await ask(door, method="GET", path="/metrics", client="10.0.0.9"))[0] == 401
    assert (await ask(door, method="GET", path="/metrics", client="10.0.0.9", bearer="scraper"))[0] == 200
    assert (await ask(door, method="GET", path="/healthz"))[0] == 200
