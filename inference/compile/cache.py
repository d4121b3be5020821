"""Plans cached by structure: calls that want the same share one `Plan` object, and so its batches."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from typing import Any

import msgspec

from inference.compile.compiler import Backends, Wanted, compile_graph
from inference.graph import Graph
from inference.plan import Plan
from inference.repository import ModelRepository

MAX_PLANS = 256
"""More than tenants have policies; the least recently used plan goes first."""


class PlanCache:
    """Compiles on demand. Two graphs, or two versions of one, that come to the same structure get the same plan.

    One thread at a time.
    """

    def __init__(self, max_plans: int = MAX_PLANS) -> None:
        self._max_plans = max_plans
        self._by_request: OrderedDict[bytes, Plan] = OrderedDict()
        self._by_structure: OrderedDict[tuple[str, str], Plan] = OrderedDict()
        self.num_compiled = 0

    def __len__(self) -> int:
        return len(self._by_structure)

    def plan(
        self,
        graph: Graph,
        wanted: Wanted,
        repository: ModelRepository,
        *,
        backends: Backends,
        functions: Collection[str] | None = None,
    ) -> Plan:
        """Return the plan, compiled at most once for the same question.

        Arguments and errors are those of `compile_graph`.
        """
        names = sorted(graph.outputs if wanted is None else wanted)
        known = sorted(functions) if functions is not None else None
        described = (graph, names, repository.digest, backends, known)
        request = msgspec.json.encode(described, order="sorted")
        plan = self._by_request.get(request)
        if plan is None:
            plan = compile_graph(graph, wanted, repository, backends=backends, functions=functions)
            self.num_compiled += 1
            plan = self._by_structure.setdefault((plan.graph, plan.structure), plan)
        self._keep(self._by_structure, (plan.graph, plan.structure), plan)
        self._keep(self._by_request, request, plan)
        return plan

    def _keep(self, cache: OrderedDict[Any, Plan], key: object, plan: Plan) -> None:
        cache[key] = plan
        cache.move_to_end(key)
        while len(cache) > self._max_plans:
            cache.popitem(last=False)
