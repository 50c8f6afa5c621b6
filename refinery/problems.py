"""A mistake in a spec and the place where it stands: `file:line:column: message`, the line, a caret."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from refinery.errors import UserError

ENV_KEY = r"\$\{[A-Z_][A-Z0-9_]*(?::-(?:EMPTY)?)?\}"
"""How a spec names a key: a variable of the environment, with no key as its default. A regular expression."""
_KEY = re.compile(
    rf"""(api_key["']?\s*[:=]\s*)(?!(?P<q>["']?){ENV_KEY}(?P=q)\s*(?:[,}}#]|$))"""
    r"""("[^"]*"?|'[^']*'?|\$\{[^}]*\}?[^\s,}]*|[^\s,}]+)"""
)
SNIPPET = 110  # characters of the line shown under a message


@dataclass(frozen=True, slots=True)
class Place:
    file: str
    line: int
    column: int
    text: str
    """The whole source line."""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"

    def snippet(self) -> str:
        """The line with a caret under the column; a key or token written out in it is masked."""
        text = _KEY.sub(lambda match: match.group(1) + "*" * len(match.group(3)), self.text.rstrip("\n"))
        start = max(0, self.column - 1 - SNIPPET // 2) if len(text) > SNIPPET else 0
        before = text[start : self.column - 1]
        pad = "".join("\t" if c == "\t" else " " * _width(c) for c in before)
        number = str(self.line)
        return f"  {number} | {text[start : start + SNIPPET]}\n  {' ' * len(number)} | {pad}^"


def _width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


@dataclass(frozen=True, slots=True)
class Problem:
    place: Place
    message: str

    def __str__(self) -> str:
        head = f"{self.place}: {self.message}"
        return f"{head}\n{self.place.snippet()}" if self.place.text.strip() else head


class SpecErrors(UserError):
    """Every mistake of a spec at once, in the order of the file: `file:line:column: message`, the line, a caret."""

    def __init__(self, problems: Sequence[Problem]):
        unique = dict.fromkeys(problems)
        self.problems = sorted(unique, key=lambda p: (p.place.file, p.place.line, p.place.column))
        super().__init__("\n".join(str(problem) for problem in self.problems))
