"""A small copy of what Debian's packages look like."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import soundfile

SHEET = """; Core Asterisk Sounds in English

one-word: Thanks.
tone: [this is a simple beep tone]
note: (only a remark here)
greeting: Thank you for calling.
dir/nested: Please press 1: to go on.
not-recorded: This one has no file.
"""


def install(share: Path, recordings: dict[str, np.ndarray], language: str = "en", sheet: str = SHEET) -> Path:
    name = f"asterisk-core-sounds-{language}"
    folder = share / "asterisk/sounds" / {"en": "en_US_f_Allison", "es": "es_MX_f_Allison"}[language]
    for path, samples in recordings.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / f"{path}.wav", samples, 8_000, subtype="PCM_16")
    target = share / f"doc/{name}/core-sounds-{language}.txt.gz"
    target.parent.mkdir(parents=True)
    target.write_bytes(gzip.compress(sheet.encode()))
    return share
