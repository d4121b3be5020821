"""Where the embedded recogniser's weights lie, and whether they are the ones it was measured with.

The weights come in packages that are installed for their data files alone. They are found without importing them:
their code would want torch and audio devices.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from server.wire.errors import ConfigError

WHISPER_FILES = ("model.bin", "config.json", "tokenizer.json")
"""What a folder with a CTranslate2 Whisper has to hold."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Checked places of the weights.

    Attributes:
        moonshine_folder: Holds the encoder, the decoder and the vocabulary.
        silero_path: The voice activity model.
    """

    moonshine_folder: Path
    silero_path: Path


@dataclass(frozen=True, slots=True)
class _Source:
    """A set of files as one package ships it, with their SHA-256."""

    setting: str
    requirement: str
    package: str
    folder: str
    sha256: dict[str, str]


_MOONSHINE = _Source(
    setting="speech.moonshine_folder",
    requirement="moonshine-voice==0.0.73",
    package="moonshine_voice",
    folder="assets/tiny-en",
    sha256={
        "encoder_model.ort": "94e90a4654fc45cdfedb77c4c08e1739f48862998e58fada384b25118134f221",
        "decoder_model_merged.ort": "cf524c4862d36e9e5ab032eddc73637efd822d70e868ac575cf1a46e1e4708a0",
        "tokenizer.bin": "6884b35fd6377d4c4d32336a0bc152f36b64d1e45b6503683cdc238250a8472d",
    },
)
_SILERO = _Source(
    setting="speech.silero_folder",
    requirement="silero-vad==6.2.3",
    package="silero_vad",
    folder="data",
    sha256={"silero_vad.onnx": "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3"},
)


def locate(moonshine_folder: str, silero_folder: str) -> ModelFiles:
    """Find the weights and check them.

    Packaged weights are compared with the hashes of the versions that were measured (46 MB, about 0.05 s). In a
    folder that the operator names, the files only have to be there: it may hold other weights of the same shape.

    Args:
        moonshine_folder: Folder to use instead of the package; empty: the package.
        silero_folder: The same for the voice detector.

    Raises:
        ConfigError: A file is missing or differs; names the setting and the package.
    """
    moonshine = _folder(_MOONSHINE, moonshine_folder)
    silero = _folder(_SILERO, silero_folder)
    return ModelFiles(moonshine, silero / "silero_vad.onnx")


def whisper_languages(folder: Path) -> tuple[str, ...]:
    """Languages of a CTranslate2 Whisper, by their tokens.

    Raises:
        ConfigError: The folder holds none.
    """
    for name in WHISPER_FILES:
        if not (folder / name).is_file():
            raise ConfigError(f"{folder} holds no {name}", field="speech.whisper.folder")
    tokens = re.findall(r'"<\|([a-z]{2,3})\|>"', (folder / "tokenizer.json").read_text("utf-8"))
    if "en" not in tokens:  # trained on English alone
        return ("en",)
    return tuple(dict.fromkeys(tokens))


def _folder(source: _Source, override: str) -> Path:
    folder = Path(override) if override else _packaged(source)
    for name, expected in source.sha256.items():
        path = folder / name
        if not path.is_file():
            raise ConfigError(f"{folder} holds no {name}", field=source.setting)
        if not override and hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise ConfigError(
                f"{name} is not the one of {source.requirement}: install that version or name a folder",
                field=source.setting,
            )
    return folder


def _packaged(source: _Source) -> Path:
    spec = importlib.util.find_spec(source.package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            f"package {source.requirement} is not installed: install it (--no-deps) or name a folder with its files",
            field=source.setting,
        )
    return Path(spec.submodule_search_locations[0]) / source.folder
