"""What a client asks for in the address it connects to. Pure.

Everything that the vendor knows may be there; what changes the shape of the answer is obeyed, what only improves the
vendor's own models (`model`, `smart_format`, `redact`, …) is accepted and has no effect here. Source: PROTOCOLS b1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qsl, urlsplit

from server.ingest.audio import AudioFormat
from server.speech.embedded import MAX_RATE_HZ, MIN_RATE_HZ
from server.wire.errors import BadRequest
from server.wire.ids import Speaker

_ROLES: tuple[Speaker, ...] = ("customer", "agent")
_FLAGS = {"true": True, "false": False}


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenOptions:
    """One connection's wishes.

    Attributes:
        audio: Encoding, rate and channels of the binary frames.
        is_multichannel: Each channel gets its own transcript; otherwise they are mixed.
        has_interims: Text that may still change is wanted, too.
        has_vad_events: `SpeechStarted` is wanted.
        utterance_end_ms: Silence after which `UtteranceEnd` is sent; 0: never.
        language: BCP 47.
        keyterms: Words worth knowing.
        query: All of it, for logs of parameters and for tests.
    """

    audio: AudioFormat
    is_multichannel: bool
    has_interims: bool
    has_vad_events: bool
    utterance_end_ms: int
    language: str
    keyterms: tuple[str, ...]
    query: tuple[tuple[str, str], ...]

    @property
    def num_outputs(self) -> int:
        """Channels that are recognised apart."""
        return len(self.audio.roles) if self.is_multichannel else 1

    def speaker(self, channel: int) -> Speaker:
        """Our name for a channel; the protocol has none."""
        return _ROLES[channel]


def parse(target: str) -> ListenOptions:
    """Read the request target of a handshake.

    Raises:
        BadRequest: A parameter that cannot be served; `field` names it.
    """
    query = tuple(parse_qsl(urlsplit(target).query, keep_blank_values=True))
    first = dict(reversed(query))
    encoding: Literal["linear16", "mulaw"]
    match first.get("encoding"):
        case "linear16":
            encoding = "linear16"
        case "mulaw":
            encoding = "mulaw"
        case _:
            raise BadRequest("must be linear16 or mulaw", field="encoding")
    channels = _number(first, "channels", 1, 1, len(_ROLES))
    rate_hz = _number(first, "sample_rate", 0, MIN_RATE_HZ, MAX_RATE_HZ)
    if rate_hz == 0:
        raise BadRequest(f"must be {MIN_RATE_HZ} to {MAX_RATE_HZ}", field="sample_rate")
    utterance_end_ms = _number(first, "utterance_end_ms", 0, 1_000, 5_000)
    has_interims = _flag(first, "interim_results")
    if utterance_end_ms and not has_interims:
        raise BadRequest("needs interim_results=true", field="utterance_end_ms")
    return ListenOptions(
        audio=AudioFormat(encoding, rate_hz, _ROLES[:channels]),
        is_multichannel=_flag(first, "multichannel") and channels > 1,
        has_interims=has_interims,
        has_vad_events=_flag(first, "vad_events"),
        utterance_end_ms=utterance_end_ms,
        language=first.get("language", "en"),
        keyterms=tuple(value for name, value in query if name in ("keyterm", "keywords")),
        query=query,
    )


def _flag(query: dict[str, str], name: str) -> bool:
    value = query.get(name, "false")
    if value not in _FLAGS:
        raise BadRequest("must be true or false", field=name)
    return _FLAGS[value]


def _number(query: dict[str, str], name: str, default: int, lowest: int, highest: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    if not text.isdecimal() or not lowest <= int(text) <= highest:
        raise BadRequest(f"must be {lowest} to {highest}", field=name)
    return int(text)
