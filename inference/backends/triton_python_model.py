"""What a derived repository runs in Triton's Python backend: onnxruntime over the requests that Triton put together.

Copied as `model.py` into each version's folder by `inference.backends.triton_repository`, and imported only by Triton,
whose stub brings `triton_python_backend_utils`. Needs numpy below 2 where Triton is 24.10 or older: its stub was built
for numpy 1, and hands out empty outputs with numpy 2.
"""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]


class TritonPythonModel:
    """One instance: one session of one thread, as the in-process backend has it."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load `model.onnx` of the version."""
        config = json.loads(args["model_config"])
        self._inputs = [tensor["name"] for tensor in config["input"]]
        self._outputs = [tensor["name"] for tensor in config["output"]]
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        weights = os.path.join(args["model_repository"], args["model_version"], "model.onnx")
        self._session = ort.InferenceSession(
            weights, options, providers=["CPUExecutionProvider"], disabled_optimizers=["SkipLayerNormFusion"]
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        """Run all requests as one batch; Triton only puts rows of one length together."""
        asked = {name for request in requests for name in request.requested_output_names()}
        outputs = [name for name in self._outputs if name in asked]
        feeds = {
            name: np.concatenate([pb_utils.get_input_tensor_by_name(r, name).as_numpy() for r in requests])
            for name in self._inputs
        }
        arrays = dict(zip(outputs, self._session.run(outputs, feeds), strict=True))
        responses, start = [], 0
        for request in requests:
            stop = start + len(pb_utils.get_input_tensor_by_name(request, self._inputs[0]).as_numpy())
            wanted = request.requested_output_names()
            # The stub reads memory as it lies, so a slice has to be contiguous; rows of a batch are.
            responses.append(
                pb_utils.InferenceResponse([pb_utils.Tensor(n, arrays[n][start:stop]) for n in outputs if n in wanted])
            )
            start = stop
        return responses
