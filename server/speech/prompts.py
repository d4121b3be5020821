"""Human telephone speech with its text that a package manager brings: the prompts of Debian's Asterisk.

/usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz      name: what is said
/usr/share/asterisk/sounds/en_US_f_Allison/name.wav               8 kHz, mono
"""

from __future__ import annotations

import gzip
import random
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile

from server.wire.errors import ConfigError

SHARE = Path("/usr/share")
_VOICES = {"en": "en_US_f_Allison", "es": "es_MX_f_Allison"}
LANGUAGES = tuple(_VOICES)
_LINE = re.compile(r"([\w/-]+):\s*([^\s\[(].*)")
"""A sheet's line; what is in brackets is a tone, not speech."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One recording and what is said in it."""

    path: Path
    text: str

    def read(self) -> tuple[npt.NDArray[np.int16], int]:
        """Samples, `[n] int16`, and their rate."""
        samples, rate_hz = soundfile.read(self.path, dtype="int16")
        return samples, rate_hz


def packages(language: str) -> tuple[str, str]:
    """Debian packages that hold the recordings and the sheet of a language."""
    return f"asterisk-core-sounds-{language}-wav", f"asterisk-core-sounds-{language}"


def read_prompts(language: str, share: Path = SHARE, *, min_words: int = 3) -> list[Prompt]:
    """Prompts of a language that are installed, by name.

    Args:
        language: One of `LANGUAGES`.
        share: Where packages put what is shared.
        min_words: Shorter ones are single words, which nobody says in a call.

    Raises:
        ConfigError: They are not installed; says how to.
    """
    name = f"asterisk-core-sounds-{language}"
    sheet = share / f"doc/{name}/core-sounds-{language}.txt.gz"
    recordings = share / "asterisk/sounds" / _VOICES[language]
    install = "apt-get install " + " ".join(packages(language))
    for path in (sheet, recordings):
        if not path.exists():
            raise ConfigError(f"is not there: {install}", field=str(path))
    prompts = []
    with gzip.open(sheet, "rt", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            match = _LINE.fullmatch(line.strip())
            path = recordings / f"{match[1]}.wav" if match else recordings
            if match and len(match[2].split()) >= min_words and path.is_file():
                prompts.append(Prompt(path, match[2]))
    if not prompts:
        raise ConfigError(f"names none of the recordings in {recordings}: {install}", field=str(sheet))
    return prompts


def some(prompts: list[Prompt], count: int, seed: int) -> list[Prompt]:
    """So many of them, always the same ones for a seed."""
    return random.Random(seed).sample(prompts, min(count, len(prompts)))
