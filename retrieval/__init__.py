"""The knowledge base: files become passages, and a question in its conversation finds those that answer.

In the order of the data: `readers/` (file → `article`) → `chunking` (passages with stable ids) → `ingest` (what
changed is embedded) → `generation` (`lexical`, `dense`, `manifest` on disk) → `store` (swapped whole, rolled back) →
`conversation` (question and context → query) → `search` (score, abstain) → `evaluation`.
Imports `inference` only, and of it no more than the encoder.
"""
