"""`access.yaml`: who may see the files beside and below it. It narrows what they say of themselves, and never widens.

    internal: {rights: [supervisor]}        a folder
    "drafts/*.md": {queues: [editors]}      a pattern

One may lie in any folder: an archive often has its articles in a folder of its own, and rules that nobody reads would
show what they are to hide.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import yaml

from retrieval.article import Audience
from retrieval.errors import UnreadableFile

RULES_FILE = "access.yaml"
_NAMES = frozenset({RULES_FILE, "access.yml"})


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of a file of rules.

    Attributes:
        source: The file, relative to the ingested folder.
        pattern: Of files or a folder, relative to the file's own folder.
        audience: Who may see what it covers.
    """

    source: str
    pattern: str
    audience: Audience

    def covers(self, source: str) -> bool:
        """Whether it names a file or a folder above it."""
        folder = self.source.rpartition("/")[0]
        if folder and not source.startswith(f"{folder}/"):
            return False
        path = source[len(folder) + 1 :] if folder else source
        pattern = self.pattern.removeprefix("./").strip("/")
        return fnmatch(path, pattern) or fnmatch(path, f"{pattern}/*")


def is_rules_file(path: Path) -> bool:
    """Whether a file holds rules and no article."""
    return path.name.lower() in _NAMES


def read_rules(path: Path, source: str) -> list[Rule]:
    """Read a file of rules.

    Args:
        path: The file.
        source: Its path relative to the ingested folder.

    Raises:
        UnreadableFile: If it cannot be understood as a whole: rights must not be guessed.
    """
    try:
        table = yaml.safe_load(path.read_text("utf-8")) or {}
        for pattern, fields in table.items():
            if unknown := sorted({str(name) for name in fields} - {"rights", "queues"}):
                raise UnreadableFile(f"`{pattern}`: expected `rights` and `queues`, not `{unknown[0]}`", source=source)
        return [Rule(source, str(pattern), Audience.of(fields)) for pattern, fields in table.items()]
    except (yaml.YAMLError, OSError, UnicodeError, ValueError, AttributeError, TypeError) as error:
        raise UnreadableFile("expected a mapping of file patterns to `rights` and `queues`", source=source) from error


def narrowed_by(rules: Iterable[Rule], source: str, audience: Audience) -> Audience:
    """Return who may see an article of a file, by what it says of itself and by all rules that cover the file."""
    for rule in rules:
        if rule.covers(source):
            audience = audience.narrowed(rule.audience)
    return audience


def idle(rules: Iterable[Rule], sources: Sequence[str]) -> list[Rule]:
    """Return the rules that cover no file: a misspelled one protects nothing."""
    return [rule for rule in rules if not any(map(rule.covers, sources))]
