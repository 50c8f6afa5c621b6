"""How an item is scored: one pure function, the same for generation here and in lm-eval."""

from __future__ import annotations

import re
import string

_EDGES = string.punctuation + string.whitespace


def last_word(text: str) -> str:
    """The last word, bare of punctuation and case: where both answer styles put the answer."""
    words = [word.strip(_EDGES) for word in text.split()]
    words = [word for word in words if word]
    return words[-1].casefold() if words else ""


def last_number(text: str) -> str:
    """The last run of digits, so that worked steps may come before the result."""
    numbers = re.findall(r"\d+", text)
    return numbers[-1].lstrip("0") or "0" if numbers else ""


def score(item: dict, response: str) -> float:
    """1.0 if a generated response is right, else 0.0.

    `choice` items are meant for ranking by likelihood; a generated response to one is judged by
    its last word. `exact` compares all of it (runs of white space count as one space): form is
    what such an item asks for, so case and punctuation count.
    """
    target, check = item["target"], item["check"]
    if check == "exact":
        return float(" ".join(response.split()) == " ".join(target.split()))
    if check == "last_number":
        return float(last_number(response) == last_number(target))
    if check in ("last_word", "choice"):
        return float(last_word(response) == last_word(target))
    raise ValueError(f"unknown check {check!r}; the lab knows exact, last_number, last_word and choice")
