"""Personal data out of what a model reads, and back into what the agent reads. Pure.

    "my card four five three two…" ─▶ "my card <NUMBER_1>" ─▶ model ─▶ "… <NUMBER_1> …" ─▶ the number again

Rules only: e-mail addresses, numbers of four digits and more whether written or spoken, and names where callers say
that it is one. What a policy redacts for good is another matter; here a false alarm costs nothing.
"""

from __future__ import annotations

import re

_DIGIT = r"(?:zero|oh|one|two|three|four|five|six|seven|eight|nine|double|triple|\d)"
_PATTERNS = (
    ("EMAIL", re.compile(r"[\w.+-]+@[\w-]+\.[\w.]+|\b[\w.]+ at [\w-]+ dot (?:com|org|net|edu|de|co|io)\b", re.I)),
    ("NUMBER", re.compile(rf"\b{_DIGIT}(?:[\s.-]*\b{_DIGIT}){{3,}}\b|\b\d(?:[ -]?\d){{3,}}\b", re.I)),
    ("NAME", re.compile(r"(?<=\bmy name is )[a-z'-]+(?: [a-z'-]+)?|(?<=\bname's )[a-z'-]+(?: [a-z'-]+)?", re.I)),
)
TOKEN = re.compile(r"<(?:EMAIL|NUMBER|NAME)_\d+>")
"""What stands for personal data."""


class Masks:
    """The tokens of one request: the same words get the same token."""

    def __init__(self) -> None:
        self._tokens: dict[tuple[str, str], str] = {}

    def __bool__(self) -> bool:
        return bool(self._tokens)

    def hide(self, text: str) -> str:
        """Replace personal data by tokens."""
        for kind, pattern in _PATTERNS:
            text = pattern.sub(lambda found, kind=kind: self._token(kind, found[0]), text)  # type: ignore[misc]
        return text

    def reveal(self, text: str) -> str:
        """Put back what tokens stand for; one that nobody gave out stays as it is."""
        words = {token: said for (_, said), token in self._tokens.items()}
        return TOKEN.sub(lambda found: words.get(found[0], found[0]), text)

    def _token(self, kind: str, said: str) -> str:
        number = 1 + sum(known == kind for known, _ in self._tokens)
        return self._tokens.setdefault((kind, said), f"<{kind}_{number}>")
