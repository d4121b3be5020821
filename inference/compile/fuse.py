"""Pass 5, fuse: a model node gives only the outputs asked for, and its heads become one pass after it.

Shared heads are part of the exported model. What is left are the `classify` nodes: softmax, thresholds and the
tenants' prototypes. Those that read one model node and can start as soon as it is done form a group with it, numbered
from 1 in the order of names; the runtime does the post-processing of a group in one pass over the batch. A node whose
condition waits for something that the model node does not wait for stays alone (group 0): it would hold back the rest.
"""

from __future__ import annotations

from dataclasses import replace

from inference.compile.draft import Draft, Vertex
from inference.plan import Op


def fuse(draft: Draft) -> Draft:
    """Choose tensors and number groups."""
    read = {value for vertex in draft.vertices.values() for value in vertex.reads}
    vertices: dict[str, Vertex] = {}
    for vertex in draft.vertices.values():
        tensors = vertex.tensors
        if vertex.op is Op.MODEL:
            tensors = tuple(t for t in sorted(vertex.tensors) if f"{vertex.name}.{t}" in read)
        vertices[vertex.name] = replace(vertex, tensors=tensors)
    writers, dependencies = draft.writers(), draft.dependencies()
    heads: dict[str, list[str]] = {}
    for vertex in vertices.values():
        sources = {writers[value] for value in vertex.reads if value in writers}
        if vertex.op is not Op.CLASSIFY or len(sources) != 1:
            continue
        source = sources.pop()
        if vertices[source].op is Op.MODEL and dependencies[vertex.name] - {source} <= dependencies[source]:
            heads.setdefault(source, []).append(vertex.name)
    for group, source in enumerate(sorted(heads), 1):
        for name in (source, *heads[source]):
            vertices[name] = replace(vertices[name], group=group)
    return draft.with_vertices(vertices.values())
