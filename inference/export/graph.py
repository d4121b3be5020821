"""A short-hand for writing ONNX graphs by hand: named constants, nodes with one output, a finished model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

CONTRIB = "com.microsoft"
"""Domain of onnxruntime's fused operators; the CPU and CUDA providers both have those used here."""

OPSET = 17
CONTRIB_OPSET = 1
IR_VERSION = 9


class GraphBuilder:
    """Collects nodes and constants in order, and closes them into a model. Not shared between threads."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, value: NDArray[Any] | np.generic) -> str:
        """Add an initializer and return its name.

        Raises:
            ValueError: If the name is taken.
        """
        if name in self._constants:
            raise ValueError(f"constant {name!r} is defined twice")
        self._constants[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
        return name

    def node(self, op: str, inputs: Sequence[str], output: str, *, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output and return that output's name."""
        self._nodes.append(helper.make_node(op, list(inputs), [output], name=output, domain=domain, **attributes))
        return output

    def has(self, output: str) -> bool:
        """Whether a node gives this output already."""
        return any(output in node.output for node in self._nodes)

    def model(
        self,
        name: str,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
    ) -> onnx.ModelProto:
        """Close the graph.

        Args:
            name: Name of the graph.
            inputs: From `tensor_info`.
            outputs: From `tensor_info`; each must be some node's output.
        """
        graph = helper.make_graph(self._nodes, name, list(inputs), list(outputs), list(self._constants.values()))
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, CONTRIB_OPSET)]
        return helper.make_model(graph, ir_version=IR_VERSION, opset_imports=opsets)


def tensor_info(name: str, dtype: type[np.generic], shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    """Describe a graph input or output; a string is a dynamic dimension."""
    element = {np.float32: TensorProto.FLOAT, np.float16: TensorProto.FLOAT16, np.int32: TensorProto.INT32}[dtype]
    return helper.make_tensor_value_info(name, element, list(shape))
