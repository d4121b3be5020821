"""The engine: a declared graph becomes a frozen plan, rows become batches, batches become outputs.

In the order of the data: `graph` (declaration) → `compile/` (named passes) → `plan` (frozen steps) → `tokens` →
`batching` (pure policy) → `engine` (shell; `crew` its threads, `fleet` its models, `journey` one request) →
`backends/` (onnxruntime, Triton, fake) → `heads` and `prototypes` (post-processing).
`repository` reads `model_repo/` in Triton layout; `training/` fills it. Imports no other package of Cueline.
"""
