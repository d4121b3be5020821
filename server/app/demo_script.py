"""The script of a demo call: who says what after which pause, in which voice. One YAML file a tenant in `demo/`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import msgspec
import yaml

from server.wire.errors import ConfigError
from server.wire.ids import Speaker

SCRIPTS_FOLDER = Path(__file__).parent / "demo"


class Voice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An embedded voice.

    Attributes:
        name: Voice of the hibari-tts package; `heart` is the one in it.
        speed: 1 is its own pace.
        depth: Pitch and formants together are divided by it: 1.2 makes another, deeper speaker of the same voice.
    """

    name: str = "heart"
    speed: float = 1.0
    depth: float = 1.0


@dataclass(frozen=True, slots=True)
class Line:
    """One turn."""

    speaker: Speaker
    text: str
    pause_ms: int


@dataclass(frozen=True, slots=True)
class DemoScript:
    """A whole call.

    Attributes:
        name: Of the tenant it was written for.
        voices: One for each speaker.
        lines: In order.
        digest: SHA-256 of the file.
    """

    name: str
    voices: dict[Speaker, Voice]
    lines: tuple[Line, ...]
    digest: str


class _LineFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pause_ms: int
    agent: str | None = None
    customer: str | None = None


class _ScriptFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    agent: Voice
    customer: Voice
    lines: list[_LineFile]


def load_script(path: Path) -> DemoScript:
    """Read one script.

    Raises:
        ConfigError: It is none; names the file and the path of the wrong value.
    """
    data = path.read_bytes()
    try:
        file = msgspec.convert(yaml.safe_load(data), _ScriptFile)
    except (yaml.YAMLError, msgspec.ValidationError) as error:
        raise ConfigError(str(error), field=path.name) from error
    lines = []
    for index, line in enumerate(file.lines):
        if (line.agent is None) == (line.customer is None):
            raise ConfigError("has to be said by either agent or customer", field=f"{path.name}:lines[{index}]")
        speaker: Speaker = "agent" if line.agent is not None else "customer"
        lines.append(Line(speaker, line.agent or line.customer or "", line.pause_ms))
    voices: dict[Speaker, Voice] = {"agent": file.agent, "customer": file.customer}
    return DemoScript(path.stem, voices, tuple(lines), hashlib.sha256(data).hexdigest())


def load_scripts(folder: Path = SCRIPTS_FOLDER) -> list[DemoScript]:
    """All scripts of a folder, by name."""
    return [load_script(path) for path in sorted(folder.glob("*.yaml"))]
