"""A plan made ready to run: conditions and steps as functions, heads looked up. Built once, run by every row.

Plan + versions that serve ──Program──▶ steps in running order ──journey.advance──▶ outputs
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from inference.errors import InferenceError
from inference.ops import Compute, Source, make_compute
from inference.plan import Condition, Op, Plan, Slot, Step
from inference.request import Retrieve
from inference.service import Service

Test = Callable[[Sequence[Any]], bool]
"""A compiled `when`: a row's value table in, whether the row enters."""

RETRIEVE = "retrieve"
"""Name under which the operator of `retrieve` nodes is registered."""

_COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def compile_condition(condition: Condition) -> Test:
    """Turn a condition into a function of a row's values.

    A leaf about an absent value is false, whatever it compares with; so its `not` is true.

    Raises:
        ValueError: If the condition has an unknown kind.
    """
    tests = [compile_condition(operand) for operand in condition.operands]
    if condition.kind == "and":
        return lambda values: all(test(values) for test in tests)
    if condition.kind == "or":
        return lambda values: any(test(values) for test in tests)
    if condition.kind == "not":
        (test,) = tests
        return lambda values: not test(values)
    if condition.slot is None or (condition.kind != "truthy" and condition.kind not in _COMPARISONS):
        raise ValueError(f"no such condition: {condition.kind!r}")
    slot, path, constant = condition.slot, condition.path, condition.constant

    def leaf(values: Sequence[Any]) -> Any:
        value = values[slot]
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    if condition.kind == "truthy":
        return lambda values: bool(leaf(values))
    if condition.kind == "==" and not path and constant is not None:
        return lambda values: bool(values[slot] == constant)  # what nearly every condition is
    compare = _COMPARISONS[condition.kind]

    def compared(values: Sequence[Any]) -> bool:
        value = leaf(values)
        if value is None:
            return False
        try:
            return bool(compare(value, constant))
        except TypeError:  # values of registered functions have no declared type
            return False

    return compared


@dataclass(frozen=True, slots=True, eq=False)
class ProgramStep:
    """One step, bound to what it needs.

    Attributes:
        step: As compiled.
        output: Its slot; the first one of a model step.
        emits: Wanted outputs that its slot holds, by name; a model's tensors are never outputs.
        when: Rows for which this is false skip it; None: every row enters.
        compute: What it does to a row at once; None for models and registered functions, which rows wait for.
        service: Model version behind it, None where it has none.
        function: Of a retrieve or python step.
        model: Name of the model for its outputs, empty where it has none.
        version: Its version, 0 where it has none.
        input_names: Names of the slots read.
        head: Logits tensor of a classify step with a head of the model, empty for all else.
        speaker: Slot of who speaks, for heads that depend on it.
        carry: Slot of what the turn before handed on, for heads that add it to their logits.
    """

    step: Step
    output: Slot
    emits: tuple[str, ...]
    when: Test | None = None
    compute: Compute | None = None
    service: Service | None = None
    function: Retrieve | None = None
    model: str = ""
    version: int = 0
    input_names: tuple[str, ...] = ()
    head: str = ""
    speaker: Slot | None = None
    carry: Slot | None = None


class Program:
    """The steps of a plan for certain model versions. Immutable.

    Attributes:
        plan: As compiled.
        inputs: Declared inputs and their slots.
        steps: In running order; registered functions, and what waits for them, come after everything that does not.
        tensor_of: Slot of a model tensor to index of its model step and name of the tensor.
        heads_behind: Index of a model step to the classify steps right behind it that need nothing but its result.
    """

    __slots__ = ("_tests", "heads_behind", "inputs", "plan", "steps", "tensor_of")

    def __init__(self, plan: Plan, services: Mapping[str, Service], operators: Mapping[str, Retrieve]) -> None:
        """Bind a plan.

        Args:
            plan: As compiled.
            services: Model name to the version that serves this program.
            operators: Registered functions.

        Raises:
            InferenceError: If a function is not registered.
            KeyError: If a model is not served.
        """
        self.plan = plan
        self.inputs = tuple(plan.inputs.items())
        self._tests: dict[Condition, Test] = {}
        ordered = _functions_last(plan.steps)
        self.tensor_of: dict[Slot, Source] = {
            slot: (index, tensor)
            for index, step in enumerate(ordered)
            if step.op is Op.MODEL
            for slot, tensor in zip(step.outputs, step.tensors, strict=True)
        }
        self.steps = tuple(self._bind(step, services, operators) for step in ordered)
        for bound in self.steps:
            self._ask_for_tensors(bound)
        self.heads_behind = {
            index: tuple(self._heads_behind(index)) for index, step in enumerate(ordered) if step.op is Op.MODEL
        }

    def _bind(self, step: Step, services: Mapping[str, Service], operators: Mapping[str, Retrieve]) -> ProgramStep:
        plan = self.plan
        service = services[step.model] if step.model else None
        function = None
        if step.op in (Op.RETRIEVE, Op.PYTHON):
            name = RETRIEVE if step.op is Op.RETRIEVE else step.params["function"]
            function = operators.get(name)
            if function is None:
                raise InferenceError(f"{plan.graph}: nothing is registered as {name!r}", field=f"nodes.{step.node}")
        has_head = step.op is Op.CLASSIFY and "prototypes" not in step.params
        # A head reads declared inputs behind its tensors: who speaks, and what was carried over.
        beside = {plan.slots[slot]: slot for slot in step.inputs[len(step.tensors) :]} if has_head else {}
        speaker = beside.pop("speaker", None)
        carry = next(iter(beside.values()), None)
        return ProgramStep(
            step=step,
            output=step.outputs[0],
            emits=tuple(name for name, slot in plan.outputs.items() if slot == step.outputs[0]),
            when=self._test(step.when),
            compute=make_compute(step, service, self.tensor_of, speaker, carry),
            service=service,
            function=function,
            model=service.version.name if service else "",
            version=service.version.version if service else 0,
            input_names=tuple(plan.slots[slot] for slot in step.inputs),
            head=step.tensors[0] if has_head else "",
            speaker=speaker,
            carry=carry,
        )

    def _test(self, condition: Condition | None) -> Test | None:
        """Compile a condition; equal conditions give one function, so that a batch asks it once a row."""
        if condition is None:
            return None
        test = self._tests.get(condition)
        if test is None:
            self._tests[condition] = test = compile_condition(condition)
        return test

    def _heads_behind(self, index: int) -> Iterator[ProgramStep]:
        written: set[Slot] = set()
        for bound in self.steps[index + 1 :]:
            step = bound.step
            is_own = step.op is Op.CLASSIFY and self.tensor_of.get(step.inputs[0], (-1, ""))[0] == index
            if not is_own or (step.when is not None and slots_of(step.when) & written):
                return
            written.update(step.outputs)
            yield bound

    def _ask_for_tensors(self, bound: ProgramStep) -> None:
        """Tell each service which of its outputs this program reads; it computes no others."""
        read = set(bound.step.inputs)
        for slot in read & self.tensor_of.keys():
            index, tensor = self.tensor_of[slot]
            service = self.steps[index].service
            if service is not None:
                service.ask_for(tensor)


def _functions_last(steps: Sequence[Step]) -> list[Step]:
    """Order steps so that a slow lookup holds back nothing but what needs it."""
    first: list[Step] = []
    last: list[Step] = []
    late_slots: set[Slot] = set()
    for step in steps:
        needs = {*step.inputs, *(slots_of(step.when) if step.when else ())}
        if step.op in (Op.RETRIEVE, Op.PYTHON) or needs & late_slots:
            last.append(step)
            late_slots.update(step.outputs)
        else:
            first.append(step)
    return first + last


def slots_of(condition: Condition) -> set[Slot]:
    """Return the slots that a condition looks at."""
    below = {slot for operand in condition.operands for slot in slots_of(operand)}
    return below if condition.slot is None else below | {condition.slot}
