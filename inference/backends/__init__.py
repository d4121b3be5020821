"""What runs a model: one contract, several back ends. `onnxruntime` in process, `fake` for tests without weights."""
