"""Models on a Triton server, over gRPC.

    ModelVersion ──open──▶ TritonModel ──check──▶ config.pbtxt there against ours
                               └──run(tensors, outputs)──▶ ModelInfer ──▶ arrays

Triton batches by itself, so a batch of ours is sent as it is and nothing waits for company twice. On CPU it runs any
shape; where its instances are on GPUs, batches are padded up to our buckets: Triton puts only rows of one length
together, and its backend has warm kernels for known shapes.

Calls block their worker thread: `tritonclient.grpc.aio` on a loop of its own was not faster (docs/decisions/003).
Tensors travel in the message: shared memory was measured to pay from about 100 kB up (1 MiB in and out: 3.5 instead of
7.5 ms), and a batch of ours is 2 to 60 kB.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from inference.backends.contract import LoadedModel, Tensors
from inference.errors import BackendUnavailable, DeadlineExceeded, InferenceError, ModelError, ModelFailed
from inference.model_config import ModelConfig, TensorSpec, describe_config
from inference.repository import ModelVersion
from inference.triton_schema import ConfigMessage

SLOTS = 8
"""Batches under way at once: enough for Triton to form batches of batches, few enough threads to cost nothing idle."""

_CHECK_S = 5.0

_CHANNEL = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # gRPC waits up to two minutes before it tries a lost server again; our breaker asks every 5 to 60 s.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 2000),
)

_GONE = frozenset({"UNAVAILABLE", "CANCELLED", "RESOURCE_EXHAUSTED", "NOT_FOUND", "UNIMPLEMENTED"})
"""Statuses that say that nothing is there to answer, and nothing about the batch."""

_DEAD_INSTANCE = ("is not healthy", "is not ready", "is not found", "unknown model")
"""What Triton says when a model's process died or its model is not loaded; its status is INTERNAL or INVALID_ARGUMENT,
as for a batch that the model refuses."""


@dataclass(frozen=True, slots=True)
class TritonStatistics:
    """What Triton counted for a model version since it was loaded.

    Attributes:
        num_rows: Rows computed.
        num_executions: Batches that it made of them.
        num_failed: Requests that failed.
        queue_s: Mean time a request waited there for an instance.
        compute_s: Mean time of a request in the model.
    """

    num_rows: int
    num_executions: int
    num_failed: int
    queue_s: float
    compute_s: float


class TritonBackend:
    """Opens versions of models that a Triton serves."""

    name = "triton"

    def __init__(self, url: str, *, slots: int = SLOTS, clock: Callable[[], float] = time.monotonic) -> None:
        """Choose the server; nothing is sent.

        Args:
            url: `host:port` or `grpc://host:port` of its gRPC port; `grpcs://host:port` for TLS.
            slots: Batches of one model under way at once.
            clock: Monotonic seconds, the same as the deadlines.

        Raises:
            ValueError: If the address is none of these.
        """
        scheme, _, address = url.rpartition("://")
        host, _, port = address.rpartition(":")
        if scheme not in ("", "grpc", "grpcs") or not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError("expected host:port, grpc://host:port or grpcs://host:port")
        self._address = address
        self._is_tls = scheme == "grpcs"
        self._slots = slots
        self._clock = clock

    def open(self, version: ModelVersion) -> TritonModel:
        """Return a handle of a version; sends nothing."""
        client = triton.InferenceServerClient(self._address, ssl=self._is_tls, channel_args=list(_CHANNEL))
        return TritonModel(client, version, self._slots, self._clock)

    def load(self, version: ModelVersion) -> LoadedModel:
        """Open a version and check it; blocks.

        Raises:
            ModelError: If Triton serves another model than the config names.
            BackendUnavailable: If it does not answer, or does not serve the version.
        """
        model = self.open(version)
        try:
            model.check(_CHECK_S)
        except BaseException:
            model.unload()
            raise
        return model


class TritonModel:
    """One version of one model, over one channel. From any thread."""

    def __init__(
        self, client: triton.InferenceServerClient, version: ModelVersion, slots: int, clock: Callable[[], float]
    ) -> None:
        self._client = client
        self._version = version
        self._slots = slots
        self._clock = clock
        self._dtypes = {spec.name: spec.dtype for spec in version.config.inputs}
        self._key = {"model_name": version.name, "model_version": str(version.version)}
        self._is_exact = True

    @property
    def is_exact(self) -> bool:
        """Whether all instances are on CPUs, as of the last check."""
        return self._is_exact

    @property
    def preferred_slots(self) -> int:
        """Batches under way at once."""
        return self._slots

    def check(self, timeout_s: float) -> None:
        """Compare what Triton serves with what our config promises; blocks.

        Args:
            timeout_s: For all of it.

        Raises:
            BackendUnavailable: If it does not answer in time, or does not serve the version.
            ModelError: If names, shapes, types, limits or precision differ.
        """
        deadline_s = self._clock() + timeout_s
        try:
            if not self._client.is_model_ready(**self._key, client_timeout=timeout_s):
                raise BackendUnavailable("the model is not ready there")
            left_s = max(deadline_s - self._clock(), 0.001)
            answer = self._client.get_model_config(**self._key, client_timeout=left_s)
        except InferenceServerException as error:
            raise _describe(error, is_check=True) from error
        message = ConfigMessage.FromString(answer.config.SerializeToString())
        self._is_exact = all(_is_cpu(group) for group in message.instance_group)
        where = f"triton:{self._version.name}/{self._version.version}"
        compare_configs(self._version, describe_config(message, where), where)

    def run(self, inputs: Tensors, outputs: Sequence[str], deadline_s: float = math.inf) -> Tensors:
        """Send a batch and wait for it. See the contract; when time is up the call is cancelled there, too.

        Raises:
            BackendUnavailable: If Triton does not answer, or lost the model.
            DeadlineExceeded: If time was up.
            ModelFailed: If it answered with an error.
        """
        left_s = deadline_s - self._clock()
        if left_s <= 0.0:
            raise DeadlineExceeded("the deadline passed before the batch was sent")
        feeds = []
        for name, array in inputs.items():
            feed = triton.InferInput(name, array.shape, _wire_dtype(self._dtypes[name]))
            feeds.append(feed.set_data_from_numpy(array))
        try:
            answer = self._client.infer(
                **self._key,
                inputs=feeds,
                outputs=[triton.InferRequestedOutput(name) for name in outputs],
                client_timeout=left_s if left_s < math.inf else None,
            )
        except InferenceServerException as error:
            raise _describe(error) from error
        arrays = {}
        for name in outputs:
            array = answer.as_numpy(name)
            if array is None:
                raise ModelFailed(f"triton sent no output {name}")
            arrays[name] = np.array(array)  # the message's bytes are read-only, and kernels are compiled for arrays
        return arrays

    def statistics(self, timeout_s: float = _CHECK_S) -> TritonStatistics:
        """Ask Triton what it counted; blocks.

        Raises:
            BackendUnavailable: If it does not answer.
        """
        try:
            answer = self._client.get_inference_statistics(**self._key, client_timeout=timeout_s)
        except InferenceServerException as error:
            raise _describe(error, is_check=True) from error
        stats = answer.model_stats[0]
        inference = stats.inference_stats
        return TritonStatistics(
            num_rows=stats.inference_count,
            num_executions=stats.execution_count,
            num_failed=inference.fail.count,
            queue_s=_mean_s(inference.queue),
            compute_s=_mean_s(inference.compute_infer),
        )

    def unload(self) -> None:
        """Close the channel; the model stays loaded on Triton, whose operator decides about that."""
        self._client.close()


def compare_configs(version: ModelVersion, there: ModelConfig, where: str) -> None:
    """Check that a model on Triton can stand for a version of ours. Pure.

    Args:
        version: Ours.
        there: Config that Triton sent.
        where: How an error names it.

    Raises:
        ModelError: Naming the first key that does not fit, with what was expected and given.
    """
    ours = version.config
    for side, mine, theirs in (("input", ours.inputs, there.inputs), ("output", ours.outputs, there.outputs)):
        found = {spec.name: spec for spec in theirs}
        for spec in mine:
            other = found.pop(spec.name, None)
            if other is None:
                raise ModelError(f"expected {spec}, given none", path=where, key=f"{side} {spec.name}")
            if other.dtype != spec.dtype or not _fits(spec, other):
                raise ModelError(f"expected {spec}, given {other}", path=where, key=f"{side} {spec.name}")
            if other.label_file != spec.label_file:
                raise ModelError(
                    f"expected {spec.label_file or 'none'}, given {other.label_file or 'none'}",
                    path=where,
                    key=f"output {spec.name}.label_filename",
                )
        needed = [name for name, spec in found.items() if side == "input" and not spec.optional]
        if needed:
            raise ModelError("is needed there, and our config does not name it", path=where, key=f"input {needed[0]}")
    if there.max_batch_size < ours.max_batch_size:
        raise ModelError(
            f"expected {ours.max_batch_size} or more, given {there.max_batch_size}", path=where, key="max_batch_size"
        )
    precision = there.parameters.get("precision", "")
    if precision != version.precision:
        expected, given = version.precision or "the default", precision or "the default"
        raise ModelError(f"expected {expected}, given {given}", path=where, key="parameters.precision")


def _fits(mine: TensorSpec, other: TensorSpec) -> bool:
    return len(mine.dims) == len(other.dims) and all(
        theirs in (-1, ours) for ours, theirs in zip(mine.dims, other.dims, strict=True)
    )


def _is_cpu(group: Any) -> bool:
    kinds = group.DESCRIPTOR.fields_by_name["kind"].enum_type.values_by_number
    return bool(kinds[group.kind].name == "KIND_CPU")


def _wire_dtype(dtype: str) -> str:
    return "BYTES" if dtype == "STRING" else dtype


def _mean_s(duration: Any) -> float:
    return duration.ns / duration.count / 1e9 if duration.count else 0.0


def _describe(error: InferenceServerException, *, is_check: bool = False) -> InferenceError:
    """Sort Triton's answer; its own text may quote the batch and goes no further."""
    status = str(error.status() or "").rpartition(".")[2] or "no status"
    text = str(error.message())
    if status == "DEADLINE_EXCEEDED":
        return (
            BackendUnavailable("no answer in time") if is_check else DeadlineExceeded("triton did not answer in time")
        )
    if is_check or status in _GONE or any(part in text for part in _DEAD_INSTANCE):
        return BackendUnavailable(f"triton cannot serve it ({status})")
    return ModelFailed(f"triton refuses the batch ({status})")
