"""onnxruntime in process, on CPU and CUDA from one code path.

On CPU a run takes one thread, so as many runs as cores go side by side over one session: shared weights, and on two
cores two 1-thread runs beat one 2-thread run. On CUDA the tensors stay on the device until their batch is done
(I/O binding), and shapes are padded up to a bucket, so that the memory arena and the kernels' choices are warm.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import onnxruntime as ort

from inference.backends.contract import LoadedModel, Tensors
from inference.errors import ModelError
from inference.model_config import ModelConfig, TensorSpec
from inference.repository import ModelVersion

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"

_SLOW_FUSIONS = ("SkipLayerNormFusion",)
"""`SkipLayerNormalization` on CPU takes five times `Add` + `LayerNormalization`: 20 % of an int8 encoder's pass."""

_DTYPES = {"float": "FP32", "float16": "FP16", "double": "FP64", "int32": "INT32", "int64": "INT64", "bool": "BOOL"}


@dataclass(frozen=True, slots=True)
class OnnxRuntimeSettings:
    """How sessions are made.

    Attributes:
        provider: `CPUExecutionProvider` or `CUDAExecutionProvider`.
        device: Number of the CUDA device.
    """

    provider: str = CPU
    device: int = 0


class OnnxRuntimeBackend:
    """Loads `model.onnx` of a version."""

    name = "onnxruntime"

    def __init__(self, settings: OnnxRuntimeSettings | None = None) -> None:
        """Choose the provider.

        Raises:
            ModelError: If this build of onnxruntime lacks it; a silent fallback to CPU would hide a lost GPU.
        """
        self._settings = settings or OnnxRuntimeSettings()
        available = ort.get_available_providers()
        if self._settings.provider not in available:
            raise ModelError(f"onnxruntime has no {self._settings.provider}, it has {', '.join(available)}", path="")

    def load(self, version: ModelVersion) -> LoadedModel:
        """Load and check a version. Raises `ModelError`, see the contract."""
        where = f"{version.name}/{version.version}/{version.weights.name}"
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # the runtime's warnings about constants are for exporters
        # A spinning thread would take the core that another run, or the event loop, needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        is_cuda = self._settings.provider == CUDA
        providers = [(CUDA, {"device_id": self._settings.device}), CPU] if is_cuda else [CPU]
        try:
            session = ort.InferenceSession(
                str(version.weights),
                options,
                providers=providers,
                disabled_optimizers=[] if is_cuda else list(_SLOW_FUSIONS),
            )
        except Exception as error:  # the runtime's exceptions share no base but this
            raise ModelError(f"onnxruntime cannot load it ({type(error).__name__})", path=where) from error
        if is_cuda and CUDA not in session.get_providers():
            raise ModelError("onnxruntime fell back to CPU", path=where)
        _check("input", version.config.inputs, {t.name: t for t in session.get_inputs()}, where)
        _check("output", version.config.outputs, {t.name: t for t in session.get_outputs()}, where)
        if is_cuda:
            return BoundModel(session, "cuda", self._settings.device)
        return _CpuModel(session, version.config)


class _CpuModel:
    """Runs on the calling thread."""

    is_exact = True

    def __init__(self, session: ort.InferenceSession, config: ModelConfig) -> None:
        self._session: ort.InferenceSession | None = session
        self._num_outputs = len(config.outputs)
        self._part = ort.RunOptions()
        self._part.only_execute_path_to_fetches = True

    @property
    def preferred_slots(self) -> int:
        return len(os.sched_getaffinity(0))

    def run(self, inputs: Tensors, outputs: Sequence[str], deadline_s: float = math.inf) -> Tensors:
        assert self._session is not None
        options = self._part if len(outputs) < self._num_outputs else None
        return dict(zip(outputs, self._session.run(outputs, inputs, options), strict=True))

    def unload(self) -> None:
        self._session = None


class BoundModel:
    """Binds inputs and outputs to a device and copies the outputs back at the end."""

    is_exact = False
    preferred_slots = 2  # one batch is prepared and post-processed while the other computes

    def __init__(self, session: ort.InferenceSession, kind: Literal["cuda", "cpu"], device: int = 0) -> None:
        """Wrap a session.

        Args:
            session: Whose provider runs on the device.
            kind: Memory that tensors are bound to; `cpu` is the same path without a GPU, for tests.
            device: Its number.
        """
        self._session: ort.InferenceSession | None = session
        self._kind = kind
        self._device = device

    def run(self, inputs: Tensors, outputs: Sequence[str], deadline_s: float = math.inf) -> Tensors:
        """See `LoadedModel`."""
        assert self._session is not None
        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, self._kind, self._device))
        for name in outputs:
            binding.bind_output(name, self._kind, self._device)
        self._session.run_with_iobinding(binding)
        return dict(zip(outputs, binding.copy_outputs_to_cpu(), strict=True))

    def unload(self) -> None:
        """See `LoadedModel`."""
        self._session = None


def _check(kind: str, expected: Sequence[TensorSpec], given: Mapping[str, ort.NodeArg], where: str) -> None:
    for spec in expected:
        node = given.get(spec.name)
        if node is None:
            raise ModelError(f"has no {kind} {spec.name}, it has {', '.join(given) or 'none'}", path=where)
        dtype = _DTYPES.get(node.type.removeprefix("tensor(").removesuffix(")"), node.type)
        dims = tuple(dim if isinstance(dim, int) else -1 for dim in node.shape[1:])
        fits = len(dims) == len(spec.dims) and all(-1 in (a, b) or a == b for a, b in zip(dims, spec.dims, strict=True))
        if dtype != spec.dtype or not fits:
            found = TensorSpec(spec.name, dtype, dims)
            raise ModelError(f"{kind} {spec.name}: expected {spec}, given {found}", path=where)
    if kind == "input" and (extra := sorted(given.keys() - {spec.name for spec in expected})):
        raise ModelError(f"needs input {extra[0]}, which the config does not name", path=where)
