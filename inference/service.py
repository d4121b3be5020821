"""A model version in service: its weights, tokeniser, heads and ladder, warmed and measured.

ModelVersion ──Service.load──▶ backend.load, tokeniser, heads ──golden inputs──▶ ──warm──▶ learned cost ──▶ ready
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from inference.backends.contract import Backend, LoadedModel, is_token_input, warm
from inference.batching import BatchingSettings
from inference.cost import CostModel
from inference.errors import ModelError
from inference.golden import check_version
from inference.head_spec import HeadSpec
from inference.heads import HeadBank
from inference.ladder import Ladder
from inference.plan import Bucket
from inference.prototypes import PrototypeBook
from inference.repository import ModelVersion
from inference.row import Lane
from inference.tokens import Tokenizer


@dataclass(frozen=True, slots=True)
class Wanted:
    """What programs ask of a version; nothing else is computed.

    Attributes:
        outputs: Tensors, in the order of the config.
        bank: Heads.
    """

    outputs: tuple[str, ...]
    bank: HeadBank


class Service:
    """One loaded version. Built by `load`; callable from any thread afterwards.

    Attributes:
        version: What the repository says about it.
        lane: Its lane in the batching policy.
        model: The backend's handle.
        tokenizer: None where the model takes no text.
        ladder: Shapes that batches may have.
        buckets: Shapes that are warmed.
        cost: Learned by the policy, under the engine's lock.
        prototypes: Tenants' examples compared with its embeddings.
        wanted: What some program reads.
        is_proven: Whether it repeated its golden inputs; False where it has none.
        weights_identity: Name, size and time of the file of the weights when it was read; another build has others.
    """

    def __init__(self, version: ModelVersion, model: LoadedModel, batching: BatchingSettings) -> None:
        """Read what goes with the weights.

        Raises:
            ModelError: If the tokeniser cannot be read.
        """
        self.version = version
        self.lane: Lane = (version.name, version.version)
        self.model = model
        self.cost = CostModel()
        self.prototypes = PrototypeBook()
        self.token_inputs = tuple(spec for spec in version.config.inputs if is_token_input(spec))
        self.dense_inputs = tuple(spec for spec in version.config.inputs if not is_token_input(spec))
        has_fixed_length = any(spec.dims[0] > 0 for spec in self.token_inputs)
        exact = model.is_exact and not has_fixed_length
        self.buckets = _reachable(version.buckets, batching, exact=exact)
        self.ladder = Ladder(version.buckets if exact else self.buckets, exact=exact)
        self.tokenizer: Tokenizer | None = None
        if version.tokenizer is not None:
            try:
                self.tokenizer = Tokenizer.from_file(version.tokenizer, self.ladder.max_tokens)
            except ValueError as error:
                raise ModelError(str(error), path=f"{version.name}/{version.version}") from error
        self._heads: dict[str, HeadSpec] = {}
        self.wanted = Wanted((), HeadBank({}, {}))
        self.is_proven = False
        self.weights_identity = ""

    @classmethod
    def load(
        cls,
        version: ModelVersion,
        backend: Backend,
        batching: BatchingSettings,
        progress: Callable[[float], None] = lambda _: None,
    ) -> Service:
        """Load, check its golden inputs, warm every bucket and measure the cost; blocks for up to some seconds.

        Args:
            version: From the repository.
            backend: What runs it.
            batching: Which buckets can occur.
            progress: Called with the share done, 0 to 1, from this thread.

        Raises:
            ModelError: If it cannot be loaded, answers its golden inputs otherwise, or fails on a bucket.
        """
        identity = _identity(version)  # before: the file may be replaced while this version answers from memory
        model = backend.load(version)
        try:
            service = cls(version, model, batching)
            service.weights_identity = identity
            service.is_proven = check_version(version, model, service.tokenizer, service.ladder)
        except BaseException:
            model.unload()
            raise
        buckets = service.buckets
        done = iter(range(len(buckets)))
        names = [spec.name for spec in version.config.outputs]
        try:
            points = warm(model, version.config, buckets, names, progress=lambda _: progress(next(done) / len(buckets)))
        except Exception as error:
            model.unload()
            raise ModelError(
                f"fails when warmed ({type(error).__name__})", path=f"{version.name}/{version.version}"
            ) from error
        service.cost.calibrate(points)
        progress(1.0)
        return service

    def ask_for(self, tensor: str) -> None:
        """Have a tensor computed from now on. Event-loop thread only."""
        if tensor not in self.wanted.outputs:
            # Another bank, though it reads the same: by its bank the memory knows what was computed without the tensor.
            self._want({*self.wanted.outputs, tensor}, HeadBank(self._heads, self.version.labels))

    def ask_for_head(self, tensor: str) -> None:
        """Have a head read from now on. Event-loop thread only.

        Raises:
            ModelError: If the version has none for this tensor.
        """
        if tensor not in self.version.heads:
            raise ModelError(f"has no head for {tensor}", path=f"{self.version.name}/{self.version.version}")
        if tensor not in self._heads:
            self._heads[tensor] = self.version.heads[tensor]
            bank = HeadBank(self._heads, self.version.labels)
            self._want({*self.wanted.outputs, *bank.tensors}, bank)

    def _want(self, outputs: set[str], bank: HeadBank) -> None:
        ordered = tuple(spec.name for spec in self.version.config.outputs if spec.name in outputs)
        self.wanted = Wanted(ordered, bank)  # replaced whole: a worker reads it once a batch


def _identity(version: ModelVersion) -> str:
    try:
        found = version.weights.stat()
    except OSError as error:
        where = f"{version.name}/{version.version}/{version.weights.name}"
        raise ModelError(f"cannot be read ({type(error).__name__})", path=where) from error
    return f"{version.weights.name} {found.st_size} {found.st_mtime_ns}"


def _reachable(buckets: Sequence[Bucket], batching: BatchingSettings, *, exact: bool) -> list[Bucket]:
    """Cut the ladder at what the batching settings ever fill.

    A backend that takes any shape keeps the rungs in tokens and gets as many rows as fit the limits; for one that is
    padded up to a bucket, a bucket beyond the limits is left out.
    """
    found: set[Bucket] = set()
    for bucket in buckets:
        most = max(1, min(batching.max_batch_rows, batching.max_padded_tokens // bucket.tokens))
        if exact or bucket.rows <= most:
            found.add(Bucket(min(bucket.rows, most), bucket.tokens))
    return sorted(found, key=lambda bucket: (bucket.padded_tokens, bucket.tokens))
