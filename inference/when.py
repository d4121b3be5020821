"""`when`: a line of text → `Predicate`, comparisons joined by and, or, not. Parsed by hand, never evaluated as code.

    any        = all {"or" all}
    all        = one {"and" one}
    one        = "not" one | "(" any ")" | reference [operator constant]
    reference  = name {"." name}                  a declared input, or an earlier output and keys into its value
    operator   = "==" | "!=" | "<" | "<=" | ">" | ">="
    constant   = number | "true" | "false" | quoted string | word

A leaf about an absent value (the output of a node that this row skipped) is false, so its `not` is true.

Predicates know names; `compile.order` turns them into `plan.Condition`s, which know slots.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

COMPARISONS = ("==", "!=", "<=", ">=", "<", ">")
KEYWORDS = frozenset({"and", "or", "not", "true", "false"})
MAX_TEXT = 2_000
MAX_DEPTH = 50

_TOKEN = re.compile(
    r"\s*(?:(?P<op>==|!=|<=|>=|<|>)|(?P<paren>[()])|(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?![\w.]))"
    r"|(?P<word>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)|(?P<string>'[^']*'|\"[^\"]*\"))"
)


class WhenError(ValueError):
    """The text is no predicate; the message says where and why."""


@dataclass(frozen=True, slots=True)
class Predicate:
    """A condition by names.

    Attributes:
        kind: `and`, `or`, `not`, `truthy` or a comparison. An empty `and` is always true, an empty `or` never.
        operands: Predicates below `and`, `or`, `not`; empty for leaves.
        name: Declared input or node that a leaf looks at.
        path: Keys into its value.
        constant: What a comparison compares with.
    """

    kind: str
    operands: tuple[Predicate, ...] = ()
    name: str = ""
    path: tuple[str, ...] = ()
    constant: str | float | bool | None = None

    @property
    def reference(self) -> str:
        """What a leaf looks at, as written."""
        return ".".join((self.name, *self.path))

    def leaves(self) -> Iterator[Predicate]:
        """Yield every leaf, left to right."""
        if self.name:
            yield self
        for operand in self.operands:
            yield from operand.leaves()

    def names(self) -> frozenset[str]:
        """Return the declared inputs and nodes it looks at."""
        return frozenset(leaf.name for leaf in self.leaves())

    def rename(self, new_name: Callable[[str], str]) -> Predicate:
        """Return the predicate with other names of inputs and nodes."""
        if self.name:
            return replace(self, name=new_name(self.name))
        return replace(self, operands=tuple(operand.rename(new_name) for operand in self.operands))

    def __str__(self) -> str:
        match self.kind:
            case "and" | "or" if not self.operands:
                return "always" if self.kind == "and" else "never"
            case "and" | "or":
                parts = (f"({op})" if op.kind in ("and", "or") else str(op) for op in self.operands)
                return f" {self.kind} ".join(parts)
            case "not":
                inner = self.operands[0]
                return f"not {inner}" if inner.kind == "truthy" else f"not ({inner})"
            case "truthy":
                return self.reference
        constant = self.constant
        if isinstance(constant, bool):
            text = "true" if constant else "false"
        elif isinstance(constant, str) and (not re.fullmatch(r"[A-Za-z_]\w*", constant) or constant in KEYWORDS):
            text = f'"{constant}"' if "'" in constant else f"'{constant}'"
        else:
            text = str(constant)
        return f"{self.reference} {self.kind} {text}"


ALWAYS = Predicate("and")
NEVER = Predicate("or")


def parse_when(text: str) -> Predicate:
    """Read a predicate.

    Raises:
        WhenError: If the text does not follow the grammar.
    """
    if len(text) > MAX_TEXT:
        raise WhenError(f"longer than {MAX_TEXT} characters")
    return _Parser(text).parse()


class _Parser:
    """Recursive descent over the tokens of one line."""

    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str, int]] = []
        self._at = 0
        position = 0
        while text[position:].strip():
            match = _TOKEN.match(text, position)
            if match is None:
                column = position + len(text[position:]) - len(text[position:].lstrip())
                raise WhenError(f"unexpected {text[column : column + 1]!r} at column {column + 1}")
            kind = str(match.lastgroup)
            self._tokens.append((kind, match[kind], match.start(kind) + 1))
            position = match.end()
        self._tokens.append(("end", "the end", len(text) + 1))

    def parse(self) -> Predicate:
        found = self._any(0)
        if self._tokens[self._at][0] != "end":
            raise self._unexpected("'and', 'or' or the end")
        return found

    def _any(self, depth: int) -> Predicate:
        return self._joined("or", self._all, depth)

    def _all(self, depth: int) -> Predicate:
        return self._joined("and", self._one, depth)

    def _joined(self, keyword: str, below: Callable[[int], Predicate], depth: int) -> Predicate:
        operands = [below(depth)]
        while self._take("word", keyword):
            operands.append(below(depth))
        return operands[0] if len(operands) == 1 else Predicate(keyword, tuple(operands))

    def _one(self, depth: int) -> Predicate:
        if depth > MAX_DEPTH:
            raise WhenError(f"nested deeper than {MAX_DEPTH}")
        if self._take("word", "not"):
            return Predicate("not", (self._one(depth + 1),))
        if self._take("paren", "("):
            inner = self._any(depth + 1)
            if not self._take("paren", ")"):
                raise self._unexpected("')'")
            return inner
        kind, word, _ = self._tokens[self._at]
        if kind != "word" or word in KEYWORDS:
            raise self._unexpected("the name of an input or output")
        self._at += 1
        name, *path = word.split(".")
        kind, operator, _ = self._tokens[self._at]
        if kind != "op":
            return Predicate("truthy", name=name, path=tuple(path))
        self._at += 1
        return Predicate(operator, name=name, path=tuple(path), constant=self._constant())

    def _constant(self) -> str | float | bool:
        kind, text, _ = self._tokens[self._at]
        if kind == "number":
            value: str | float | bool = float(text)
            if value in (math.inf, -math.inf):
                raise WhenError(f"{text} is too large a number")
        elif kind == "string":
            value = text[1:-1]
        elif kind == "word" and text in ("true", "false"):
            value = text == "true"
        elif kind == "word" and text not in KEYWORDS and "." not in text:
            value = text
        else:
            raise self._unexpected("a number, a word or a quoted string")
        self._at += 1
        return value

    def _take(self, kind: str, text: str) -> bool:
        if self._tokens[self._at][:2] != (kind, text):
            return False
        self._at += 1
        return True

    def _unexpected(self, expected: str) -> WhenError:
        kind, text, column = self._tokens[self._at]
        given = text if kind == "end" else repr(text)
        return WhenError(f"expected {expected} at column {column}, given {given}")
