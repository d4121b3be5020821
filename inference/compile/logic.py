"""Algebra of predicates: one normal form, so that equal conditions look equal and are compared once.

Negation sits on leaves only, nested joins are flat, operands are sorted, repeated or implied ones are gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from inference.graph import InputType
from inference.when import ALWAYS, NEVER, Predicate

MAX_COMPARISONS = 64
"""Larger conditions are refused where they are declared or inherited, and not made where a pass could do without:
each row pays for every comparison, and conditions of conditions grow without end."""


def normalise(predicate: Predicate) -> Predicate:
    """Return the normal form."""
    match predicate.kind:
        case "and":
            return conjunction(map(normalise, predicate.operands))
        case "or":
            return disjunction(map(normalise, predicate.operands))
        case "not":
            return _negate(predicate.operands[0])
    return predicate


def conjunction(predicates: Iterable[Predicate]) -> Predicate:
    """Join normal forms by `and`."""
    return _join("and", predicates)


def disjunction(predicates: Iterable[Predicate]) -> Predicate:
    """Join normal forms by `or`."""
    return _join("or", predicates)


def is_large(predicate: Predicate) -> bool:
    """Tell whether a condition has more comparisons than any row should pay for."""
    return sum(1 for _ in predicate.leaves()) > MAX_COMPARISONS


def weaken(predicate: Predicate, is_known: Callable[[str], bool]) -> Predicate:
    """Return the strictest condition that holds whenever `predicate` does and looks only at known names."""
    if predicate.kind in ("and", "or"):
        return _join(predicate.kind, (weaken(operand, is_known) for operand in predicate.operands))
    return predicate if all(map(is_known, predicate.names())) else ALWAYS


def cover_members(predicate: Predicate, inputs: Mapping[str, InputType]) -> Predicate:
    """Replace `speaker == customer or speaker == agent` by always, where these are all the members.

    And its opposite, `speaker != customer and speaker != agent`, by never.

    Sound only for declared inputs: the output of a node can be absent, and is then equal to nothing.
    """
    if not predicate.operands or predicate.kind == "not":
        return predicate
    operands = [cover_members(operand, inputs) for operand in predicate.operands]
    named: dict[str, set[object]] = {}
    for operand in operands:
        leaf = _named_member(operand, predicate.kind)
        if leaf is not None and isinstance(inputs.get(leaf.name), tuple):
            named.setdefault(leaf.name, set()).add(leaf.constant)
    if any(constants == set(inputs[name]) for name, constants in named.items()):
        return ALWAYS if predicate.kind == "or" else NEVER
    return _join(predicate.kind, operands)


def _named_member(operand: Predicate, kind: str) -> Predicate | None:
    """Return the leaf of an alternative `x == a`, or of a condition that excludes `a`."""
    if kind == "and" and operand.kind == "not":
        return _named_member(operand.operands[0], "or")
    return operand if operand.kind == ("==" if kind == "or" else "!=") else None


def _negate(predicate: Predicate) -> Predicate:
    match predicate.kind:
        case "and":
            return disjunction(map(_negate, predicate.operands))
        case "or":
            return conjunction(map(_negate, predicate.operands))
        case "not":
            return normalise(predicate.operands[0])
    # `not x == a` is not `x != a`: an absent x fulfils the first only.
    return Predicate("not", (predicate,))


def _join(kind: str, predicates: Iterable[Predicate]) -> Predicate:
    """Join by `and` or `or`; the words below are for `and`, `or` is its mirror image."""
    absorbing = NEVER if kind == "and" else ALWAYS
    terms: dict[str, Predicate] = {}
    for predicate in predicates:
        for term in predicate.operands if predicate.kind == kind else (predicate,):
            terms[_key(term)] = term
    if _key(absorbing) in terms:
        return absorbing
    if any(term.kind == "not" and _key(term.operands[0]) in terms for term in terms.values()):
        return absorbing  # a and not a
    if kind == "and" and _contradict(terms.values()):
        return absorbing
    # a and (a or b) is a
    kept = [
        terms[key]
        for key in sorted(terms)
        if not (terms[key].operands and terms[key].kind != "not" and any(_key(o) in terms for o in terms[key].operands))
    ]
    return kept[0] if len(kept) == 1 else Predicate(kind, tuple(kept))


def _contradict(terms: Iterable[Predicate]) -> bool:
    """Tell whether two terms want one reference to equal two constants."""
    wanted: dict[str, object] = {}
    return any(wanted.setdefault(term.reference, term.constant) != term.constant for term in terms if term.kind == "==")


def _key(predicate: Predicate) -> str:
    """Return a text that only equal predicates share."""
    if predicate.name:
        return f"{predicate.reference} {predicate.kind} {predicate.constant!r}"
    return f"{predicate.kind}({','.join(map(_key, predicate.operands))})"
