"""What a reader makes of a file: articles of sections, with who may see them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Audience:
    """Who may see an article. Empty sets admit everybody.

    Attributes:
        rights: The reader needs one of these.
        queues: The call must be of one of these.
    """

    rights: frozenset[str] = frozenset()
    queues: frozenset[str] = frozenset()

    @classmethod
    def of(cls, fields: Mapping[Any, object]) -> Audience:
        """Read `rights` and `queues`, however they are capitalised; whatever else the fields hold is not looked at.

        Raises:
            ValueError: If they are no labels: who may see an article must not be guessed.
        """
        lowered = {str(name).strip().lower(): value for name, value in fields.items()}
        return cls(labels(lowered.get("rights")), labels(lowered.get("queues")))

    def admits(self, viewer: Viewer) -> bool:
        """Whether this viewer may see it."""
        if self.rights and not self.rights & viewer.rights:
            return False
        return not self.queues or viewer.queue in self.queues

    def narrowed(self, other: Audience) -> Audience:
        """Return an audience that neither of the two would extend: a rule for a folder holds for a file that names
        its own.
        """
        return Audience(_both(self.rights, other.rights), _both(self.queues, other.queues))


@dataclass(frozen=True, slots=True)
class Viewer:
    """On whose behalf a search runs. Without rights and queue: only what everybody may see.

    Attributes:
        rights: Roles or groups of the agent.
        queue: Queue of the call; empty: none known.
    """

    rights: frozenset[str] = frozenset()
    queue: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """A stretch of text under one heading.

    Attributes:
        headings: Path of headings below the article's title.
        blocks: Paragraphs, list items and table rows in order, each on one line.
    """

    headings: tuple[str, ...]
    blocks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Article:
    """One entry of a knowledge base: what a search returns at most once.

    Attributes:
        source: Relative path of the file, with `#key` where a file holds several articles.
        title: As shown.
        sections: In order; one without text at all is left out of a base.
        audience: Who may see it.
    """

    source: str
    title: str
    sections: tuple[Section, ...]
    audience: Audience = field(default_factory=Audience)

    @property
    def has_text(self) -> bool:
        """Whether it says more than its title."""
        return any(section.blocks for section in self.sections)


def labels(value: object) -> frozenset[str]:
    """Return labels from a list or a comma-separated string, as front matter has them.

    Raises:
        ValueError: If it is something else.
    """
    if value is None:
        return frozenset()
    if isinstance(value, str):
        return frozenset(part.strip() for part in value.split(",") if part.strip())
    if isinstance(value, Iterable) and not isinstance(value, Mapping):
        parts = list(value)
        if all(isinstance(part, str | int) for part in parts):
            return frozenset(str(part).strip() for part in parts)
    raise ValueError("expected a list of names")


NOBODY = frozenset({"\0nobody"})
"""A label that no viewer has: two rules that exclude each other admit nobody."""


def _both(a: frozenset[str], b: frozenset[str]) -> frozenset[str]:
    return (a & b or NOBODY) if a and b else a | b
