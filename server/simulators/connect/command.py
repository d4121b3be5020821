"""`cueline connect-simulator`: plays Amazon Connect, so that the way in can be tried without an account."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import click
import numpy as np
import soxr
import uvloop

from server.ingest.connect.fragments import SAMPLE_RATE_HZ
from server.ingest.connect.http import EVENTS_PATH
from server.ingest.connect.listen import listening
from server.replay.recording import Recording, read_sides, read_stereo
from server.simulators.connect import media
from server.simulators.connect.faults import KINDS, Kind, at_random
from server.simulators.connect.service import KinesisVideoSimulator
from server.simulators.connect.stream import SimulatedStream
from server.wire.clock import wall_ms
from server.wire.errors import CuelineError, Unavailable

ARN = "arn:aws:kinesisvideo:us-east-1:123456789012:stream/connect-simulated-contact/1"
BYTES_PER_S = 2 * 2 * SAMPLE_RATE_HZ
EVENT_TIMEOUT_S = 10.0
LINGER_S = 5.0
"""After the contact's end: what was read until it broke has to be read again."""


@click.command("connect-simulator")
@click.option("--customer", type=click.Path(path_type=Path), help="The customer's side, one channel.")
@click.option("--agent", type=click.Path(path_type=Path), help="The agent's side, one channel.")
@click.option("--call", "stereo", type=click.Path(path_type=Path), help="Both in one: customer left, agent right.")
@click.option("--consumer", default="http://127.0.0.1:8090", show_default=True, help="Where contact events go.")
@click.option("--token", envvar="CUELINE_TOKEN", help="Bearer token for the events, where the consumer wants one.")
@click.option("--port", type=int, default=8099, show_default=True, help="Port of the simulated Kinesis Video Streams.")
@click.option("--contact", help="Contact id; a fresh one by default.")
@click.option("--agent-id", help="Whose call it is.")
@click.option("--faults", help=f"Comma-separated: {', '.join(KINDS)}; or all.")
@click.option("--every", "every_s", default=5.0, show_default=True, help="Mean seconds of audio between faults.")
@click.option("--seed", default=0, show_default=True, help="Of the faults.")
def connect_simulator(
    customer: Path | None,
    agent: Path | None,
    stereo: Path | None,
    consumer: str,
    token: str | None,
    port: int,
    contact: str | None,
    agent_id: str | None,
    faults: str | None,
    every_s: float,
    seed: int,
) -> None:
    """Play a recorded call as Amazon Connect does: contact event, video stream in real time, contact event.

    \b
    cueline connect-kvs --endpoint-url http://127.0.0.1:8099
    cueline connect-simulator --call call.wav
    """  # noqa: D301  # click's mark for lines to be left as they are is the character, not its name
    if stereo is not None and customer is None and agent is None:
        recording = read_stereo(stereo)
    elif stereo is None and customer is not None and agent is not None:
        recording = read_sides(customer, agent)
    else:
        raise click.UsageError("name both --customer and --agent, or one two-channel file with --call")
    chosen = _kinds(faults)
    simulator = KinesisVideoSimulator(at_random(chosen, int(every_s * BYTES_PER_S), seed) if chosen else None)
    contact_id = contact or f"connect-{secrets.token_hex(4)}"
    uvloop.run(_play(simulator, recording, contact_id, agent_id, consumer.rstrip("/"), token, port))


def _kinds(text: str | None) -> tuple[Kind, ...]:
    names = set((text or "").split(",")) - {""}
    if names == {"all"}:
        return KINDS
    if names - set(KINDS):
        raise click.UsageError(f"--faults knows {', '.join(KINDS)} and all")
    return tuple(kind for kind in KINDS if kind in names)


async def _play(
    simulator: KinesisVideoSimulator,
    recording: Recording,
    contact_id: str,
    agent_id: str | None,
    consumer: str,
    token: str | None,
    port: int,
) -> None:
    stream = simulator.streams[ARN] = SimulatedStream(wall_ms)
    async with listening(simulator, "127.0.0.1", port, field="port") as simulator.url:
        click.echo(f"  Kinesis Video Streams  {simulator.url}", err=True)
        zero_ms = round(wall_ms())
        await tell(consumer, token, flow_event(contact_id, zero_ms, stream.next_number, agent_id))
        click.echo(f"  contact {contact_id} has begun", err=True)
        num_blocks = await stream_recording(stream, recording, contact_id, zero_ms)
        await tell(consumer, token, disconnected(contact_id))
        click.echo(
            f"  contact is over: {num_blocks * media.BLOCK_BYTES // 2} samples a side, "
            f"{len(simulator.selectors)} GetMedia calls",
            err=True,
        )
        await asyncio.sleep(LINGER_S)


async def stream_recording(stream: SimulatedStream, recording: Recording, contact_id: str, zero_ms: int) -> int:
    """Write blocks on an absolute schedule, each when its last sample would have been spoken."""
    sides = [
        soxr.resample(recording.samples[:, side], recording.sample_rate_hz, SAMPLE_RATE_HZ).astype("<i2")
        for side in (0, 1)
    ]
    step = media.BLOCK_BYTES // 2
    num_blocks = -(-max(len(side) for side in sides) // step)
    padded = [np.pad(side, (0, num_blocks * step - len(side))) for side in sides]
    began_s = time.monotonic()
    for index in range(num_blocks):
        await asyncio.sleep(max(0.0, began_s + (index + 1) * media.BLOCK_MS / 1000 - time.monotonic()))
        blocks = [
            (track.number, side[index * step : (index + 1) * step].tobytes())
            for track, side in zip(media.TRACKS, padded, strict=True)
        ]
        stream.write(contact_id, zero_ms + index * media.BLOCK_MS, blocks)
    stream.end_fragment()
    return num_blocks


def flow_event(contact_id: str, start_ms: int, start_fragment: str, agent_id: str | None) -> dict[str, Any]:
    """What a contact flow hands to its Lambda function after "Start media streaming"."""
    audio = {"StreamARN": ARN, "StartTimestamp": str(start_ms), "StartFragmentNumber": start_fragment}
    return {
        "Name": "ContactFlowEvent",
        "Details": {
            "ContactData": {
                "ContactId": contact_id,
                "InitialContactId": contact_id,
                "Channel": "VOICE",
                "Attributes": {"AgentId": agent_id} if agent_id else {},
                "MediaStreams": {"Customer": {"Audio": audio}},
            },
            "Parameters": {},
        },
    }


def disconnected(contact_id: str) -> dict[str, Any]:
    """The contact event that EventBridge delivers at a contact's end."""
    return {
        "detail-type": "Amazon Connect Contact Event",
        "source": "aws.connect",
        "detail": {"eventType": "DISCONNECTED", "contactId": contact_id, "channel": "VOICE"},
    }


async def tell(consumer: str, token: str | None, event: dict[str, Any]) -> None:
    """Send a contact event to the consumer.

    Raises:
        CuelineError: It refuses it, or cannot be reached.
    """
    """Post a contact event to the consumer; it is tried for a while, then told."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
    request = urllib.request.Request(consumer + EVENTS_PATH, json.dumps(event).encode(), headers)

    def post() -> None:
        with urllib.request.urlopen(request, timeout=EVENT_TIMEOUT_S):
            pass

    try:
        await asyncio.to_thread(post)
    except urllib.error.HTTPError as error:
        raise CuelineError(f"the consumer refused the event: {error.code}", field="--consumer") from None
    except OSError as error:
        raise Unavailable(f"the consumer at {consumer} cannot be reached", field="--consumer") from error
