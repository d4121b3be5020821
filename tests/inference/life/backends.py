"""Backends whose versions are slow, or fail when told to."""

from __future__ import annotations

from typing import Any

from inference.backends.onnxruntime import OnnxRuntimeBackend


class Slow(OnnxRuntimeBackend):
    """Takes two hundred times as long for version 2, while told so."""

    is_slow = True

    def load(self, version: Any) -> Any:
        model = super().load(version)
        run = model.run

        def slowly(*arguments: Any) -> Any:
            for _ in range(200 if self.is_slow and version.version == 2 else 1):
                result = run(*arguments)
            return result

        model.run = slowly  # type: ignore[method-assign]
        return model


class Crashing(OnnxRuntimeBackend):
    """Version 2 fails once it is told to."""

    is_broken = False

    def load(self, version: Any) -> Any:
        model = super().load(version)
        if version.version == 2:
            run = model.run

            def run_or_raise(*arguments: Any) -> Any:
                if self.is_broken:
                    raise RuntimeError("out of memory")
                return run(*arguments)

            model.run = run_or_raise  # type: ignore[method-assign]
        return model
