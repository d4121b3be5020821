"""From the bytes of `GetMedia` to fragments: whose audio, from when, and where to go on. Pure.

    bytes ──Matroska──▶ FragmentStarted · Block · ContactTagged · FragmentEnded · StreamFailed

A fragment of Amazon Connect is one Matroska document of about a second:

    header · info · tracks · tags {fragment number, server and producer time} · cluster {time, blocks of both tracks}
    · tags {ContactId} · tags {…} · tags {milliseconds behind now, continuation token}

so whose call it is comes after its audio. Source: PROTOCOLS b2, Kinesis Video Streams API `GetMedia`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from server.ingest.connect import matroska as mkv
from server.wire.errors import BadAudio
from server.wire.ids import Speaker

SAMPLE_RATE_HZ: Final = 8_000
BYTES_PER_SAMPLE: Final = 2

TRACK_ROLES: Final[dict[str, Speaker]] = {
    "AUDIO_FROM_CUSTOMER": "customer",
    "AUDIO_TO_CUSTOMER": "agent",
    "Track_audio/L16": "customer",
}
"""Tracks by name, since their numbers vary; the last is how Connect named its only track once."""

_PREFIX: Final = "AWS_KINESISVIDEO_"
_LACING: Final = 0x06
_MS_NS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class FragmentStarted:
    """A fragment's audio begins.

    Attributes:
        number: Fragment number, empty if there was none.
        at_ms: Producer time of its cluster, milliseconds since the Unix epoch.
        contact_id: Whose it is, if the stream says so before the audio.
    """

    number: str
    at_ms: float
    contact_id: str | None


@dataclass(frozen=True, slots=True)
class Block:
    """Audio of one side: linear16, 8 kHz, mono, little endian.

    Attributes:
        role: Whose voice.
        at_ms: Producer time of its first sample, milliseconds since the Unix epoch.
        pcm: Samples.
    """

    role: Speaker
    at_ms: float
    pcm: bytes


@dataclass(frozen=True, slots=True)
class ContactTagged:
    """The fragment that is being read belongs to this contact."""

    contact_id: str


@dataclass(frozen=True, slots=True)
class FragmentEnded:
    """A fragment is complete.

    Attributes:
        token: Continuation token: `GetMedia` goes on after this fragment.
        behind_ms: How far it is behind what the stream has; None if the stream does not say.
    """

    token: str
    behind_ms: int | None


@dataclass(frozen=True, slots=True)
class StreamFailed:
    """`GetMedia` says in the stream that it cannot go on.

    Attributes:
        code: Its error code's description.
        error_id: Its error code; 0 if it is none.
    """

    code: str
    error_id: int


FragmentEvent = FragmentStarted | Block | ContactTagged | FragmentEnded | StreamFailed


class FragmentReader:
    """Reads one `GetMedia` body from its beginning."""

    def __init__(self) -> None:
        self._parser = mkv.MatroskaParser()
        self._begin_document()

    def _begin_document(self) -> None:
        self._scale_ms = 1.0
        self._roles: dict[int, Speaker] = {}
        self._track = (0, "")
        self._tag_name = self._tag_value = ""
        self._tags: dict[str, str] = {}
        self._cluster_ms = 0.0

    def feed(self, data: bytes) -> list[FragmentEvent]:
        """Take bytes, cut anywhere, and return what they complete.

        Raises:
            BadAudio: Not what `GetMedia` sends; the body cannot be read on.
        """
        events: list[FragmentEvent] = []
        for element in self._parser.feed(data):
            match element:
                case mkv.Open(mkv.SEGMENT):
                    self._begin_document()
                case mkv.Open(mkv.TRACK_ENTRY):
                    self._track = (0, "")
                case mkv.Open(mkv.SIMPLE_TAG):
                    self._tag_name = self._tag_value = ""
                case mkv.Value(element_id, payload):
                    self._take_value(element_id, payload, events)
                case mkv.Close(mkv.TRACK_ENTRY):
                    number, name = self._track
                    if name in TRACK_ROLES:
                        self._roles[number] = TRACK_ROLES[name]
                case mkv.Close(mkv.SIMPLE_TAG):
                    self._tags[self._tag_name] = self._tag_value
                    if self._tag_name == "ContactId":
                        events.append(ContactTagged(self._tag_value))
                case mkv.Close(mkv.TAGS):
                    self._end_tags(events)
        return events

    def _take_value(self, element_id: int, payload: bytes, events: list[FragmentEvent]) -> None:
        match element_id:
            case mkv.TIMECODE_SCALE:
                self._scale_ms = int.from_bytes(payload) / _MS_NS
            case mkv.TRACK_NUMBER:
                self._track = (int.from_bytes(payload), self._track[1])
            case mkv.TRACK_NAME:
                self._track = (self._track[0], _text(payload))
            case mkv.TAG_NAME:
                self._tag_name = _text(payload)
            case mkv.TAG_STRING:
                self._tag_value = _text(payload)
            case mkv.TIMECODE:
                self._begin_fragment(int.from_bytes(payload) * self._scale_ms, events)
            case mkv.SIMPLE_BLOCK:
                block = self._block(payload)
                if block is not None:
                    events.append(block)

    def _begin_fragment(self, timecode_ms: float, events: list[FragmentEvent]) -> None:
        # The tag is always on the producer's clock; a producer may number its clusters from zero.
        stamp = _seconds(self._tags.get(f"{_PREFIX}PRODUCER_TIMESTAMP", ""))
        self._cluster_ms = timecode_ms if stamp is None else stamp * 1000
        number = self._tags.get(f"{_PREFIX}FRAGMENT_NUMBER", "")
        events.append(FragmentStarted(number, self._cluster_ms, self._tags.get("ContactId")))

    def _block(self, payload: bytes) -> Block | None:
        number_bytes = 9 - payload[0].bit_length() if payload else 9
        if number_bytes > 2 or len(payload) < number_bytes + 3:
            raise BadAudio("a Matroska block is too short for its header")
        number = int.from_bytes(payload[:number_bytes]) & ((1 << 7 * number_bytes) - 1)
        if payload[number_bytes + 2] & _LACING:
            raise BadAudio("laced Matroska blocks are not what Amazon Connect sends")
        role = self._roles.get(number)
        if role is None:
            return None
        offset_ms = int.from_bytes(payload[number_bytes : number_bytes + 2], signed=True) * self._scale_ms
        pcm = payload[number_bytes + 3 :]
        if len(pcm) % BYTES_PER_SAMPLE:
            raise BadAudio("an audio block is not a whole number of samples")
        return Block(role, self._cluster_ms + offset_ms, pcm)

    def _end_tags(self, events: list[FragmentEvent]) -> None:
        # Only the token says that a fragment is whole: a document also ends where the stream breaks off.
        token = self._tags.pop(f"{_PREFIX}CONTINUATION_TOKEN", None)
        if token is not None:
            events.append(FragmentEnded(token, _integer(self._tags.get(f"{_PREFIX}MILLIS_BEHIND_NOW", ""))))
        code, error_id = self._tags.pop(f"{_PREFIX}ERROR_CODE", None), self._tags.pop(f"{_PREFIX}ERROR_ID", None)
        if code is not None or error_id is not None:
            events.append(StreamFailed(code or "", _integer(error_id or "") or 0))


def _text(payload: bytes) -> str:
    return payload.rstrip(b"\0").decode("utf-8", "replace")


def _seconds(text: str) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if 0 <= seconds < 1e11 else None


def _integer(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None
