"""The static description of `model_repo/`: folders → models → versions, each checked as far as it can be unloaded.

    model_repo/utterance/config.pbtxt        names, shapes, dtypes, batch limit, parameters
    model_repo/utterance/intent_labels.txt   one label a line (`label_filename`)
    model_repo/utterance/tokenizer.json      or in the version's folder, where it changes with the weights
    model_repo/utterance/3/heads.json        post-processing of each logits tensor
    model_repo/utterance/3/model.onnx        weights; `model.<precision>.onnx` where `precision` is set

A folder that is half copied or holds something else is one `ModelError` in `problems`; it never hides its
neighbours. Opening reads only small files, never weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import msgspec

from inference.errors import ModelError
from inference.head_spec import HEADS_FILE, HeadSpec, read_heads
from inference.model_config import CONFIG_FILE, ModelConfig, TensorSpec, read_config
from inference.plan import Bucket
from inference.regular_file import read_small

TOKENIZER_FILE = "tokenizer.json"
_UNREADABLE = (OSError, ValueError, RecursionError)
"""What reading a faulty folder raises besides `ModelError`: a name with a zero byte, brackets nested without end."""

DEFAULT_TOKEN_LADDER = (8, 16, 32, 64, 128)
"""Rungs in tokens where the config names none: conversational utterances have 12 tokens in the mean, few above 64."""


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version of a model, described but not loaded.

    Attributes:
        name: Name of the model.
        version: Number of the version.
        path: Folder of the version.
        config: The model's config.
        labels: Labels of each output tensor that has some, in the order of its columns.
        heads: Post-processing of each logits tensor.
        tokenizer: File of the tokeniser, None where the model has none.
        weights: File of the weights in the chosen precision.
        precision: Value of the parameter `precision`, empty where the default file is meant.
        buckets: Ladder of shapes to warm, ascending in padded tokens.
        digest: Of all but path and weights: changes whenever a graph compiled against it could.
        tokenizer_digest: Of the tokeniser alone; equal for models that can share token ids.
    """

    name: str
    version: int
    path: Path
    config: ModelConfig
    labels: Mapping[str, tuple[str, ...]]
    heads: Mapping[str, HeadSpec]
    tokenizer: Path | None
    weights: Path
    precision: str
    buckets: tuple[Bucket, ...]
    digest: str
    tokenizer_digest: str


@dataclass(frozen=True, slots=True)
class Model:
    """One model folder.

    Attributes:
        name: Name of the folder.
        path: The folder.
        config: Its config.
        versions: Versions that can be served, by number.
        problems: Versions that cannot, by number, with the reason.
        where: How errors name the folder.
    """

    name: str
    path: Path
    config: ModelConfig
    versions: Mapping[int, ModelVersion]
    problems: Mapping[int, ModelError]
    where: str

    @property
    def served(self) -> tuple[ModelVersion, ...]:
        """Versions that the version policy chooses of those that can be served, newest first."""
        return tuple(self.versions[number] for number in self.config.versions.choose(self.versions))

    @property
    def latest(self) -> ModelVersion:
        """The newest version that is served.

        Raises:
            ModelError: The reason of the newest faulty version, if none can be served.
        """
        if served := self.served:
            return served[0]
        if self.problems:
            raise self.problems[max(self.problems)]
        raise ModelError("has no version that its version_policy serves", path=self.where)


@dataclass(frozen=True, slots=True)
class ModelRepository:
    """What a repository folder holds.

    Attributes:
        path: The folder.
        models: Models with a readable config, by name.
        broken: Folders without one, by name, with the reason.
    """

    path: Path
    models: Mapping[str, Model] = field(default_factory=dict)
    broken: Mapping[str, ModelError] = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path | str, *, weights: bool = True) -> ModelRepository:
        """Describe every model below a folder.

        Args:
            path: Folder in Triton layout.
            weights: Whether a version without its weights file is a problem. Compiling a graph needs none, and a
                fresh clone has none before `make models`.

        Raises:
            ModelError: Only if the folder itself is missing; everything below is told in `problems` and `broken`.
        """
        path = Path(path)
        if not path.is_dir():
            raise ModelError("no such folder", path=path.name)
        models: dict[str, Model] = {}
        broken: dict[str, ModelError] = {}
        for folder in sorted(path.iterdir()):
            where = f"{path.name}/{folder.name}"
            try:
                if folder.is_dir() and not folder.name.startswith((".", "_")):
                    models[folder.name] = _describe_model(folder, where, weights=weights)
            except (ModelError, *_UNREADABLE) as error:
                broken[folder.name] = _as_model_error(error, where)
        return cls(path, models, broken)

    def model(self, name: str) -> Model:
        """Return a model.

        Raises:
            ModelError: If there is none of that name, or its folder is broken.
        """
        if name in self.models:
            return self.models[name]
        if name in self.broken:
            raise self.broken[name]
        known = ", ".join(self.models) or "none"
        raise ModelError(f"no such model, there is {known}", path=f"{self.path.name}/{name}")

    @property
    def digest(self) -> str:
        """Changes whenever a graph compiled against this repository could."""
        served = [(name, version.digest) for name, model in self.models.items() for version in model.served]
        return hashlib.sha256(repr(served).encode()).hexdigest()[:16]

    @property
    def problems(self) -> tuple[ModelError, ...]:
        """Everything that cannot be served, in the order of the folders."""
        found = dict(self.broken.items())
        listed: list[ModelError] = []
        for name in sorted({*self.models, *found}):
            if name in found:
                listed.append(found[name])
            else:
                listed.extend(problem for _, problem in sorted(self.models[name].problems.items()))
        return tuple(listed)


def _describe_model(folder: Path, where: str, *, weights: bool) -> Model:
    config = read_config(folder, where)
    versions: dict[int, ModelVersion] = {}
    problems: dict[int, ModelError] = {}
    for child in sorted(folder.iterdir()):
        number = version_number(child)
        if number is None:
            continue
        try:
            versions[number] = _describe_version(child, number, where, config, weights=weights)
        except (ModelError, *_UNREADABLE) as error:
            problems[number] = _as_model_error(error, f"{where}/{number}")
    if not versions and not problems:
        raise ModelError("has no numbered version folder", path=where)
    return Model(folder.name, folder, config, versions, problems, where)


def version_number(path: Path) -> int | None:
    """Return the number of a version's folder; None for anything else.

    Triton's rule: a folder whose name is a number without leading zeros is a version, all else is not.
    """
    is_number = path.name.isascii() and path.name.isdecimal()  # other scripts have digits, too
    is_version = is_number and not path.name.startswith("0") and path.is_dir()
    return int(path.name) if is_version else None


def _as_model_error(error: Exception, where: str) -> ModelError:
    """Keep a folder that vanishes, denies access or is nonsense from ending the listing."""
    return (
        error if isinstance(error, ModelError) else ModelError(f"cannot be read ({type(error).__name__})", path=where)
    )


def _describe_version(folder: Path, number: int, where: str, config: ModelConfig, *, weights: bool) -> ModelVersion:
    labels = {tensor.name: _read_labels(folder.parent, where, tensor) for tensor in config.outputs if tensor.label_file}
    heads = read_heads(folder / HEADS_FILE, f"{where}/{number}/{HEADS_FILE}", config, labels)
    tokenizer = next(
        (file for file in (folder / TOKENIZER_FILE, folder.parent / TOKENIZER_FILE) if file.is_file()), None
    )
    precision = config.parameters.get("precision", "")
    default_file = config.default_model_file or "model.onnx"
    weights_name = f"model.{precision}.onnx" if precision else default_file
    if Path(weights_name).name != weights_name:
        key = "parameters.precision" if precision else "default_model_filename"
        raise ModelError("expected a file of the version's folder itself", path=f"{where}/{CONFIG_FILE}", key=key)
    weights_file = folder / weights_name
    if weights and not weights_file.is_file():
        raise ModelError("no weights; `make models` builds them", path=f"{where}/{number}/{weights_file.name}")
    tokenizer_digest = _check_tokenizer(tokenizer, where) if tokenizer else ""
    buckets = _ladder(config, where)
    described = (config, sorted(labels.items()), sorted(heads.items()), tokenizer_digest, buckets)
    return ModelVersion(
        name=config.name,
        version=number,
        path=folder,
        config=config,
        labels=labels,
        heads=heads,
        tokenizer=tokenizer,
        weights=weights_file,
        precision=precision,
        buckets=buckets,
        digest=hashlib.sha256(repr(described).encode()).hexdigest()[:16],
        tokenizer_digest=tokenizer_digest,
    )


def _check_tokenizer(file: Path, where: str) -> str:
    """Return the digest of a tokeniser's file, once it is whole."""
    place = file.name if file.parent.name == Path(where).name else f"{file.parent.name}/{file.name}"
    content = read_small(file)
    try:
        msgspec.json.decode(content, type=dict[str, msgspec.Raw])
    except msgspec.DecodeError as error:
        raise ModelError(f"tokeniser is no JSON: {error}", path=f"{where}/{place}") from error
    return hashlib.sha256(content).hexdigest()[:16]


def _read_labels(folder: Path, where: str, tensor: TensorSpec) -> tuple[str, ...]:
    path = f"{where}/{tensor.label_file}"
    if Path(tensor.label_file).name != tensor.label_file:
        key = f"output {tensor.name}.label_filename"
        raise ModelError("expected a file of the model folder itself", path=f"{where}/{CONFIG_FILE}", key=key)
    try:
        lines = read_small(folder / tensor.label_file).decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"labels cannot be read ({type(error).__name__})", path=path) from error
    first_line: dict[str, int] = {}
    for number, label in enumerate(lines, 1):
        if not label.strip() or label != label.strip():
            raise ModelError("expected one label without blanks around it", path=path, key=f"line {number}")
        if label in first_line:
            raise ModelError(f"{label!r} is on line {first_line[label]} already", path=path, key=f"line {number}")
        first_line[label] = number
    width = tensor.dims[-1]
    if not lines or (width > 0 and len(lines) != width):
        raise ModelError(f"expected {width} labels as output {tensor.name} has, given {len(lines)}", path=path)
    return tuple(lines)


def _ladder(config: ModelConfig, where: str) -> tuple[Bucket, ...]:
    """Return the cross product of the two ladders, cut at what the model takes, ascending in padded tokens."""
    max_rows = max(config.max_batch_size, 1)
    doubling = {1 << power for power in range(max_rows.bit_length())} | {max_rows}
    rows = _rungs(config, "buckets_rows", tuple(sorted(doubling)), where)
    tokens = _rungs(config, "buckets_tokens", DEFAULT_TOKEN_LADDER, where)
    if rows[-1] > max_rows:
        raise ModelError(
            f"expected rows up to max_batch_size {max_rows}, given {rows[-1]}",
            path=f"{where}/{CONFIG_FILE}",
            key="parameters.buckets_rows",
        )
    fixed = [tensor.dims[0] for tensor in config.inputs if tensor.dims[0] > 0]
    if fixed:
        tokens = (max(fixed),)  # the model has no length to choose
    return tuple(sorted((Bucket(r, t) for r in rows for t in tokens), key=lambda b: (b.padded_tokens, b.rows)))


def _rungs(config: ModelConfig, key: str, default: tuple[int, ...], where: str) -> tuple[int, ...]:
    text = config.parameters.get(key)
    if text is None:
        return default
    try:
        rungs = tuple(int(part) for part in text.split(","))
    except ValueError:
        rungs = ()
    if not rungs or rungs[0] <= 0 or any(a >= b for a, b in pairwise(rungs)):
        raise ModelError(
            f"expected ascending positive numbers with commas between, given {text!r}",
            path=f"{where}/{CONFIG_FILE}",
            key=f"parameters.{key}",
        )
    return rungs
