"""The verifier between passes: what must hold of every draft, and what each pass adds to it.

A finding is a fault of the pass that ran last, or a declaration that slipped through; either way the error names the
node, so that nobody has to read a plan to find it.
"""

from __future__ import annotations

from inference.compile.draft import Draft, Vertex, sort_by_dependency
from inference.errors import GraphError
from inference.plan import Condition, Op, Plan

PASSES = ("resolve", "prune", "merge", "predicates", "fuse", "bucket", "place", "order")


def verify(draft: Draft, after: str) -> None:
    """Check a draft.

    Args:
        draft: What the pass returned.
        after: Name of the pass, one of `PASSES`.

    Raises:
        GraphError: Naming the pass and the faulty node.
    """
    done = set(PASSES[: PASSES.index(after) + 1])
    check = _Check(draft, after)
    check.wires()
    if "prune" in done:
        check.all_needed()
    if "fuse" in done:
        check.groups()
    if "place" in done:
        check.models()
    if "order" in done:
        check.running_order()


class _Check:
    """The checks over one draft."""

    def __init__(self, draft: Draft, after: str) -> None:
        self._draft = draft
        self._after = after
        self._writers = draft.writers()
        self._dependencies = draft.dependencies()

    def _fault(self, problem: str, node: str, input: str = "", *, expected: str = "", given: str = "") -> GraphError:
        return GraphError(
            f"after pass {self._after}: {problem}",
            graph=self._draft.file,
            node=node,
            input=input,
            expected=expected,
            given=given,
        )

    def wires(self) -> None:
        """Every value that is read is written exactly once, has a type, and needs no value of its own future."""
        draft = self._draft
        known = {*draft.inputs, *self._writers}
        if len(self._writers) != sum(len(vertex.writes) for vertex in draft.vertices.values()):
            raise self._fault("a value is written twice", next(iter(draft.vertices)))
        for name, vertex in draft.vertices.items():
            if vertex.name != name:
                raise self._fault("is filed under another name", name, expected=name, given=vertex.name)
            for value in vertex.reads:
                if value not in known:
                    raise self._fault("nothing writes it", name, value, expected="a value", given=value)
            for looked_at in vertex.when.names():
                if looked_at not in known:
                    raise self._fault("nothing writes it", name, "when", expected="a value", given=looked_at)
            for value in vertex.writes:
                if value not in draft.types:
                    raise self._fault("has no type", name, given=value)
        for output, value in draft.outputs.items():
            if value not in self._writers:
                raise self._fault("an output is missing", value, expected=output, given="nothing")
        _, stuck = sort_by_dependency(self._dependencies)
        if stuck:
            raise self._fault("waits for itself", stuck[0], given=", ".join(stuck))

    def all_needed(self) -> None:
        """Every node is an output or has a reader."""
        needed = {self._writers[value] for value in self._draft.outputs.values()}.union(*self._dependencies.values())
        if idle := sorted(self._draft.vertices.keys() - needed):
            raise self._fault("nobody needs it", idle[0])

    def groups(self) -> None:
        """A group is one model node and classify nodes that read it; a model node writes only what is read."""
        draft = self._draft
        read = {value for vertex in draft.vertices.values() for value in vertex.reads}
        models: dict[int, Vertex] = {}
        for vertex in draft.vertices.values():
            if vertex.op is Op.MODEL:
                if vertex.group and models.setdefault(vertex.group, vertex) is not vertex:
                    raise self._fault("two models in one group", vertex.name, given=str(vertex.group))
                if not vertex.tensors or not read.issuperset(vertex.writes):
                    raise self._fault("writes what nobody reads", vertex.name, given=", ".join(vertex.writes))
        for vertex in draft.vertices.values():
            if vertex.group and vertex.op is not Op.MODEL:
                model = models.get(vertex.group)
                if vertex.op is not Op.CLASSIFY or model is None or vertex.reads[0] not in model.writes:
                    raise self._fault("is no head of its group", vertex.name, given=f"group {vertex.group}")

    def models(self) -> None:
        """Every model has a ladder, ascending, and a backend."""
        for vertex in self._draft.vertices.values():
            if vertex.op is Op.MODEL:
                ladder = self._draft.buckets.get(vertex.model, ())
                costs = [bucket.padded_tokens for bucket in ladder]
                if not costs or costs != sorted(costs):
                    raise self._fault("has no ascending ladder", vertex.name, given=str(costs))
                if not self._draft.backend.get(vertex.model):
                    raise self._fault("has no backend", vertex.name, given=vertex.model)

    def running_order(self) -> None:
        """Everything a node needs is there before it, and a group is not interrupted."""
        done: set[str] = set()
        ended: set[int] = set()
        previous = 0
        for name, vertex in self._draft.vertices.items():
            if early := sorted(self._dependencies[name] - done):
                raise self._fault("runs before what it needs", name, expected=early[0], given="later")
            done.add(name)
            if vertex.group != previous:
                ended.add(previous)
                if vertex.group and vertex.group in ended:
                    raise self._fault("its group is interrupted", name, given=f"group {vertex.group}")
                previous = vertex.group


def verify_plan(plan: Plan) -> None:
    """Check that a plan reads only slots that are written before, and writes each once.

    Raises:
        GraphError: Naming the faulty step.
    """

    def fault(problem: str, node: str, slot: int) -> GraphError:
        given = plan.slots[slot] if 0 <= slot < len(plan.slots) else str(slot)
        return GraphError(f"plan: {problem}", graph=f"{plan.graph}.yaml", node=node, given=given)

    def looked_at(condition: Condition) -> list[int]:
        own = [] if condition.slot is None else [int(condition.slot)]
        return own + [slot for operand in condition.operands for slot in looked_at(operand)]

    written = set(map(int, plan.inputs.values()))
    for step in plan.steps:
        for slot in [*step.inputs, *(looked_at(step.when) if step.when else [])]:
            if slot not in written:
                raise fault("reads an unwritten slot", step.node, slot)
        if len(step.outputs) != (len(step.tensors) if step.op is Op.MODEL else 1):
            raise fault("wrong number of outputs", step.node, len(step.outputs))
        for slot in step.outputs:
            if slot in written or not 0 <= slot < len(plan.slots):
                raise fault("writes a slot twice", step.node, slot)
            written.add(slot)
    for name, slot in plan.outputs.items():
        if slot not in written:
            raise fault("output is never written", name, slot)
