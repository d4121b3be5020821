"""Real sentences in large numbers: the documentation of what is installed on this machine, as a folder of articles."""

from __future__ import annotations

import ast
import itertools
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

WORDS_A_PASSAGE = 40
MAX_CHARS = 200_000
MIN_CHARS = 800


def write_articles(folder: Path, num_passages: int) -> None:
    """Fill a folder with text for about so many passages; less if the machine has less.

    Args:
        folder: Made here.
        num_passages: Wanted.
    """
    folder.mkdir(parents=True)
    num_words = 0
    for number, (name, text) in enumerate(itertools.chain(_documents(), _docstrings())):
        (folder / f"{number:06d}_{name[:60]}.md").write_text(text)
        num_words += len(text.split())
        if num_words > num_passages * WORDS_A_PASSAGE:
            return


def _documents() -> Iterator[tuple[str, str]]:
    packages = Path(sysconfig.get_paths()["purelib"])
    for path in sorted(packages.rglob("*")):
        if path.is_file() and (path.suffix in (".md", ".rst", ".txt") or path.name == "METADATA"):
            text = path.read_text("utf-8", "ignore")[:MAX_CHARS]
            if len(text) > MIN_CHARS:
                yield path.stem, text


def _docstrings() -> Iterator[tuple[str, str]]:
    packages = Path(sysconfig.get_paths()["purelib"])
    for path in sorted(itertools.chain(packages.rglob("*.py"), Path(sys.base_prefix, "lib").rglob("*.py"))):
        try:
            tree = ast.parse(path.read_text("utf-8", "ignore"))
        except (SyntaxError, ValueError, RecursionError):
            continue
        sections = []
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
                said = ast.get_docstring(node)
                if said and len(said) > 120:
                    sections.append(f"## {getattr(node, 'name', path.stem)}\n\n{said}")
        text = f"# {path.stem}\n\n" + "\n\n".join(sections)
        if len(text) > MIN_CHARS:
            yield path.stem, text[:MAX_CHARS]
