"""The compiler: declared graphs → small named passes, a verifier after each → a frozen `Plan`.

    resolve → prune → merge → push predicates down → fuse → bucket → place → order → lower

One graph and one set of wanted outputs make one plan (`compile_graph`); the policies of all tenants make a
`PlanSet`, whose shared plan says what has to be served at all. `PlanCache` gives equal structures one `Plan` object.
All of it is pure and runs in any thread.
"""

from inference.compile.cache import PlanCache
from inference.compile.compiler import PlanSet, Stage, Wanted, compile_graph, compile_set, offered_labels, trace

__all__ = ["PlanCache", "PlanSet", "Stage", "Wanted", "compile_graph", "compile_set", "offered_labels", "trace"]
