"""What a wrong word could have been: msgspec says that a value is not allowed, and not which ones are. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from msgspec import inspect

_STEP = re.compile(r"\[[^\]]*\]|[^.\[\]]+")


def choices(kind: Any, path: str) -> tuple[str, ...]:
    """The words that a type allows at a path.

    Args:
        kind: Type that was decoded or converted to.
        path: As msgspec writes it, without `$`: names after dots, elements and values of mappings in brackets.

    Returns:
        Each once, in alphabetical order; empty where the type takes more than certain words.
    """
    kinds = list(_members(inspect.type_info(kind)))
    for step in _STEP.findall(path):
        kinds = [member for kind in kinds for below in _below(kind, step) for member in _members(below)]
    words = [str(value) for kind in kinds for value in _words(kind)]
    return tuple(sorted(set(words)))


def one_of(kind: Any, path: str) -> str:
    """The same as part of an error: ` (one of: stereo, mono)`; empty where there is nothing to choose from."""
    allowed = choices(kind, path)
    return f" (one of: {', '.join(allowed)})" if allowed else ""


def _members(kind: inspect.Type) -> Iterator[inspect.Type]:
    if isinstance(kind, inspect.Metadata):
        yield from _members(kind.type)
    elif isinstance(kind, inspect.UnionType):
        for member in kind.types:
            yield from _members(member)
    else:
        yield kind


def _below(kind: inspect.Type, step: str) -> Iterator[inspect.Type]:
    if step.startswith("["):
        if isinstance(kind, inspect.DictType):
            yield kind.value_type
        elif isinstance(kind, inspect.CollectionType):
            yield kind.item_type
        elif isinstance(kind, inspect.TupleType):
            yield from kind.item_types
    elif isinstance(kind, inspect.StructType):
        yield from (field.type for field in kind.fields if field.encode_name == step)


def _words(kind: inspect.Type) -> tuple[Any, ...]:
    if isinstance(kind, inspect.LiteralType):
        return kind.values
    if isinstance(kind, inspect.EnumType):
        return tuple(member.value for member in kind.cls)
    return ()
