"""From trained weights to the ONNX files that serve: needs numpy, onnx, onnxruntime, safetensors, and no torch.

In the order of the data: `weights` (encoder tensors, from a checkpoint or the pinned package) → `encoder` (transformer
graph, one precision strategy each: `precision`) → `heads` (pooling, logits, open-set score; `attention` and `experts`
are what some add from below the last layer) → `build` (the three files of a version) → `verify` (golden inputs,
operator counts, precision against fp32). `scales` measures what static int8 needs once, at training time, so that a
build is deterministic and needs no data.
"""
