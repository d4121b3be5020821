"""What a version in shadow would have said: a share of the rows is asked again, behind all live rows, and compared.

    live request ──answered──▶ the same of the candidate, class `SHADOW` ──▶ agreement of each output

The copy is sent once the live row has its answer, so it can neither share its batch nor hold it up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from inference.errors import InferenceError
from inference.plan import Op, Plan, Slot
from inference.program import slots_of
from inference.repository import ModelVersion
from inference.request import Carry, Outcome, Output, Request, RowClass

MAX_UNDER_WAY = 32
"""Copies waiting or running; beyond, rows go uncompared: shadows are the first thing to give up under load."""

_PATIENCE_S = 5.0
"""A copy that no slot was free for in this time is dropped."""

_SAME_SCORE = 0.1
"""Two scores without a label agree if they differ by no more."""

_SAME_DIRECTION = 0.9
"""Two vectors agree from this cosine on."""

Comparison = Literal["agreed", "differed", "failed", "skipped"]


@dataclass(slots=True)
class Agreement:
    """How often two versions said the same for one output.

    Attributes:
        rows: Rows compared.
        agreed: Of these, rows with the same labels.
        gap: Sum of the differences of their leading scores.
    """

    rows: int = 0
    agreed: int = 0
    gap: float = 0.0

    @property
    def ratio(self) -> float:
        """Share of the rows that agreed."""
        return self.agreed / self.rows if self.rows else 0.0

    @property
    def mean_gap(self) -> float:
        """Mean difference of the leading scores."""
        return self.gap / self.rows if self.rows else 0.0


class Shadow:
    """Follows the engine's requests for one candidate. Event-loop thread only.

    Attributes:
        agreements: By output.
        failed: Copies that the candidate failed on.
        skipped: Copies that were given up because others had to go first.
    """

    def __init__(
        self,
        model: str,
        version: int,
        ratio: float,
        submit: Callable[[Request], None],
        *,
        clock: Callable[[], float],
        reads_carry: bool = False,
        on_compared: Callable[[str, Comparison], None] = lambda _, __: None,
    ) -> None:
        """Begin.

        Args:
            model: Whose version.
            version: The candidate, loaded.
            ratio: Share of the rows to compare.
            submit: The engine's.
            clock: Monotonic seconds, as of the deadlines.
            reads_carry: What the turn before handed on, by the version that serves, is told to the candidate as well.
            on_compared: Hears of each output; of `""` where a copy gave none.
        """
        self._model = model
        self._version = version
        self._ratio = ratio
        self._submit = submit
        self._clock = clock
        self._reads_carry = reads_carry
        self._on_compared = on_compared
        self._due = 0.0
        self._under_way = 0
        self._plans: dict[str, Plan] = {}
        self.agreements: dict[str, Agreement] = {}
        self.failed = 0
        self.skipped = 0

    def follow(self, request: Request) -> Request:
        """See `Follower`: every n-th live row is compared once it is answered."""
        if request.row_class > RowClass.INTERIM or self._model in request.pins:
            return request
        self._due += self._ratio
        if self._due < 1.0:
            return request
        self._due -= 1.0
        said: dict[str, Output] = {}

        def on_outputs(outputs: Sequence[Output]) -> None:
            said.update((output.name, output) for output in outputs)
            request.on_outputs(outputs)

        def on_done(outcome: Outcome, error: BaseException | None) -> None:
            if outcome is Outcome.DONE:
                self._ask(request, said)
            request.on_done(outcome, error)

        return replace(request, on_outputs=on_outputs, on_done=on_done)

    def _ask(self, request: Request, said: Mapping[str, Output]) -> None:
        plan = self._plans.get(request.plan.structure)
        if plan is None:
            plan = self._plans[request.plan.structure] = without_functions(request.plan)
        if not plan.outputs:
            return
        if self._under_way >= MAX_UNDER_WAY:
            self._skip()
            return
        would_say: dict[str, Output] = {}

        def on_outputs(outputs: Sequence[Output]) -> None:
            would_say.update((output.name, output) for output in outputs)

        def on_done(outcome: Outcome, _: BaseException | None) -> None:
            self._under_way -= 1
            if outcome is Outcome.DONE:
                for name, output in would_say.items():
                    self._compare(name, said[name], output)
            elif outcome is Outcome.FAILED:
                self.failed += 1
                self._on_compared("", "failed")
            else:
                self._skip()

        copy = Request(
            plan=plan,
            inputs={name: self._carried(value) for name, value in request.inputs.items()},
            owner="",  # the end of the call does not make the comparison worthless
            key="",
            row_class=RowClass.SHADOW,
            deadline_s=self._clock() + _PATIENCE_S,
            prototypes=request.prototypes,
            pins={**request.pins, self._model: self._version},
            on_outputs=on_outputs,
            on_done=on_done,
        )
        try:
            self._submit(copy)
        except InferenceError:
            self._skip()
        else:
            self._under_way += 1

    def _carried(self, value: Any) -> Any:
        """The turn before in the candidate's name: asked without it, a copy of the same weights would disagree."""
        if self._reads_carry and isinstance(value, Carry) and value.model == self._model:
            return replace(value, version=self._version)
        return value

    def _skip(self) -> None:
        self.skipped += 1
        self._on_compared("", "skipped")

    def _compare(self, name: str, said: Output, would_say: Output) -> None:
        if said.value is None and would_say.value is None:
            return  # the row did not enter
        agreement = self.agreements.setdefault(name, Agreement())
        agrees = is_same(said.value, would_say.value)
        agreement.rows += 1
        agreement.agreed += agrees
        agreement.gap += abs((said.score or 0.0) - (would_say.score or 0.0))
        self._on_compared(name, "agreed" if agrees else "differed")


def without_functions(plan: Plan) -> Plan:
    """Return the part of a plan that models alone answer: a lookup has nothing to say about a model's version. Pure."""
    left_out: set[Slot] = set()
    kept = []
    for step in plan.steps:
        reads = {*step.inputs, *(slots_of(step.when) if step.when else ())}
        if step.op in (Op.RETRIEVE, Op.PYTHON) or reads & left_out:
            left_out.update(step.outputs)
        else:
            kept.append(step)
    if not left_out:
        return plan
    outputs = {name: slot for name, slot in plan.outputs.items() if slot not in left_out}
    return replace(plan, structure=f"{plan.structure}/models", steps=tuple(kept), outputs=outputs)


def hand_on_alike(one: ModelVersion, other: ModelVersion) -> bool:
    """Whether heads of one version can read what the other one hands on to the next turn. Pure."""
    return _handed_on(one) == _handed_on(other)


def _handed_on(version: ModelVersion) -> dict[str, tuple[Any, ...]]:
    outputs = version.config.output
    return {
        tensor: (head.carry, head.carry_first, outputs(head.carry), outputs(tensor))
        for tensor, head in version.heads.items()
        if head.carry is not None
    }


def is_same(one: Any, other: Any) -> bool:
    """Whether two values of one output claim the same; scores may differ. Pure."""
    if one is None or other is None:
        return one is other
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        norms = float(np.linalg.norm(one) * np.linalg.norm(other))
        return one.shape == other.shape and float(np.vdot(one, other)) >= _SAME_DIRECTION * norms
    if isinstance(one, list) and isinstance(other, list):
        return _labels(one) == _labels(other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        # What is claimed: a label and flags; numbers beside them are how sure.
        claims = [key for key in one if not isinstance(one[key], float | Mapping)]
        if claims:
            return all(one[key] == other.get(key) for key in claims)
        return abs(float(one.get("score", 0.0)) - float(other.get("score", 0.0))) <= _SAME_SCORE
    return bool(one == other)


def _labels(claims: list[Any]) -> set[Any]:
    return {claim["label"] if isinstance(claim, Mapping) else claim for claim in claims}
