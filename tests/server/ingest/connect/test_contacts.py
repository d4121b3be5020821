import json

import pytest

from server.ingest.connect.contacts import AgentConnected, Contact, ContactEnded, Irrelevant, MediaStarted, read_event
from server.wire.errors import BadMessage

ARN = "arn:aws:kinesisvideo:us-east-1:123456789012:stream/connect-contact-1/1"


def flow_event(**changes):
    data = {
        "ContactId": "d111f871-5fe7-40b1-b5f7-6b67060de0c2",
        "InitialContactId": "d111f871-5fe7-40b1-b5f7-6b67060de0c2",
        "Channel": "VOICE",
        "Attributes": {"AgentId": "anna", "streamAudioFromCustomer": "true"},
        "CustomerEndpoint": {"Address": "+15550100", "Type": "TELEPHONE_NUMBER"},
        "MediaStreams": {
            "Customer": {
                "Audio": {
                    "StreamARN": ARN,
                    "StartTimestamp": "1726677688724",
                    "StartFragmentNumber": "91343852333181531502161607852955530730504675150",
                    "StopTimestamp": None,
                }
            }
        },
    } | changes
    return {"Name": "ContactFlowEvent", "Details": {"ContactData": data, "Parameters": {}}}


def read(tree):
    return read_event(json.dumps(tree).encode())


def test_a_contact_flow_begins_a_contact():
    assert read(flow_event()) == MediaStarted(
        Contact(
            contact_id="d111f871-5fe7-40b1-b5f7-6b67060de0c2",
            stream_arn=ARN,
            start_ms=1726677688724.0,
            start_fragment="91343852333181531502161607852955530730504675150",
            agent_id="anna",
        )
    )


def test_a_function_may_send_only_what_matters():
    event = read({"contact_id": "c1", "stream_arn": ARN, "start_ms": 1726677688724, "language": "es"})
    assert event == MediaStarted(Contact(contact_id="c1", stream_arn=ARN, start_ms=1726677688724, language="es"))


@pytest.mark.parametrize(
    ("stamp", "start_ms"),
    [(1726677688.724, 1726677688724.0), ("2024-09-18T16:41:28.724Z", 1726677688724.0), (1726677688724, 1726677688724)],
)
def test_connect_writes_times_in_several_ways(stamp, start_ms):
    event = flow_event()
    event["Details"]["ContactData"]["MediaStreams"]["Customer"]["Audio"]["StartTimestamp"] = stamp
    assert read(event).contact.start_ms == pytest.approx(start_ms)


@pytest.mark.parametrize(
    ("detail", "event"),
    [
        ({"eventType": "DISCONNECTED", "contactId": "c1", "channel": "VOICE"}, ContactEnded("c1")),
        (
            {
                "eventType": "CONNECTED_TO_AGENT",
                "contactId": "c1",
                "channel": "VOICE",
                "agentInfo": {"agentArn": "arn:aws:connect:us-east-1:1:instance/i-1/agent/a-77"},
            },
            AgentConnected("c1", "a-77", is_by_arn=True),
        ),
        ({"eventType": "QUEUED", "contactId": "c1", "channel": "VOICE"}, Irrelevant()),
        ({"eventType": "DISCONNECTED", "contactId": "c1", "channel": "CHAT"}, Irrelevant()),
    ],
)
def test_eventbridge_tells_of_a_contact(detail, event):
    assert read({"detail-type": "Amazon Connect Contact Event", "source": "aws.connect", "detail": detail}) == event


def test_a_function_may_say_who_took_it():
    event = read({"contact_id": "c1", "agent_id": "anna"})
    assert event == AgentConnected("c1", "anna", is_by_arn=False)


@pytest.mark.parametrize(
    ("tree", "field"),
    [
        ([1], None),
        ({}, "contact_id"),
        ({"contact_id": "../x", "stream_arn": ARN, "start_ms": 1}, "contact_id"),
        ({"contact_id": "c1", "stream_arn": "http://elsewhere", "start_ms": 1}, "stream_arn"),
        ({"detail": {"eventType": "DISCONNECTED"}}, "detail.contactId"),
        (flow_event(MediaStreams={}), "Details.ContactData.MediaStreams.Customer"),
    ],
)
def test_a_wrong_event_names_its_field(tree, field):
    with pytest.raises(BadMessage) as caught:
        read(tree)
    assert caught.value.field == field
