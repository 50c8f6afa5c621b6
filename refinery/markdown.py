"""Docstrings and tables as Markdown."""

import inspect
import re
from collections.abc import Iterable


def anchor(title: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def prose(doc: str | None) -> str:
    """A docstring as Markdown: what is indented stays as it is, as do lines of a word and its meaning."""
    lines = inspect.cleandoc(doc or "").splitlines()
    lines = [f"    {line}" if re.match(r"\w+ {2,}\S", line) else line for line in lines]
    return "\n".join(line if line.startswith("    ") else safe(line) for line in lines)


def safe(line: str) -> str:
    """Without tags and emphasis that nobody meant; code spans are left alone."""
    parts = re.split(r"(`[^`]*`)", line)
    return "".join(part if part.startswith("`") else re.sub(r"([<*])", r"\\\1", part) for part in parts)


def grid(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return [*lines, *(f"| {' | '.join(_cell(each) for each in row)} |" for row in rows)]


def _cell(text: str) -> str:
    return safe(" ".join(text.split())).replace("|", "\\|")
