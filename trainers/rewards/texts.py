"""What a reward may see in a text without asking a model. Every penalty is in [0, 1], 0 where nothing is wrong."""

import re
from collections.abc import Iterable, Sequence

from refinery.checks import choice_letter, last_box, last_number, numbers
from refinery.checks import words as plain_words
from refinery.checks.texts import letter_places
from refinery.diagnostics.ngram import rouge_l, words

BARE = 5
"""Words that a reference may have to be a final answer as it stands, for rules that read more than one value."""


def overlong(length: int, limit: int, buffer: int) -> float:
    """DAPO's soft punishment of length (arXiv:2503.14476, Eq 13), in tokens, as a penalty:

    0 up to limit - buffer, then (length - (limit - buffer)) / buffer, and 1 from `limit` on.
    """
    return min(1.0, max(0.0, (length - (limit - buffer)) / buffer))


def places(text: str, answer: str) -> list[tuple[int, int]]:
    """(start, end) of each occurrence of `answer` as whole words, in any case and spacing."""
    pieces = [re.escape(piece) for piece in answer.split()]
    if not pieces:
        return []
    pattern = r"(?<!\w)" + r"\s+".join(pieces) + r"(?!\w)"
    return [match.span() for match in re.finditer(pattern, text, re.IGNORECASE)]


def final_places(check: str, reference: str, text: str) -> list[tuple[int, int]] | None:
    """(start, end) of each place where `text` gives the final answer of `reference`, which may be a whole solution.

    The answer is what the rule `check` reads there: its last number, by value; its option letter; else the content of
    its last box; its last word; all of it under `boxed`, `contains` and `exact`, which compare all of it. None where
    that leaves no short answer: a longer text without a box under `math`, `numbers`, `entities` or `tool_call`.
    """
    if check == "number":
        value = last_number(reference)
        return None if value is None else numbers.places(text, value)
    if check == "choice":
        letter = choice_letter(reference)
        return None if letter is None else letter_places(text, letter)
    if (box := last_box(reference)) is not None:
        return places(text, box)
    if check == "last_word":
        return places(text, " ".join(plain_words(reference)[-1:]))
    whole = check in ("boxed", "contains", "exact") or len(reference.split()) <= BARE
    return places(text, reference) if whole else None


def leak(before: int, total: int, share: float, least: int) -> float:
    """1 where the final answer is given away too early: with `before` of `total` tokens in front of its first
    occurrence, that is within the first `share` of the text, or after fewer than `least` tokens of reasoning."""
    return float(before < share * total or before < least)


def length_ratio(tokens: int, original: int, inner: tuple[float, float], outer: tuple[float, float]) -> float:
    """0 for tokens / original within `inner`, then linearly up to 1 at `outer`."""
    ratio = tokens / max(1, original)
    low = (inner[0] - ratio) / (inner[0] - outer[0])
    high = (ratio - inner[1]) / (outer[1] - inner[1])
    return min(1.0, max(0.0, low, high))


def repetition(tokens: Sequence[int] | Sequence[str], n: int = 4, free: float = 0.1, full: float = 0.4) -> float:
    """(rep - free) / (full - free), clipped, where rep is the share of n-grams that occurred before; 0 of fewer than
    two n-grams. The mean log-likelihood rises with repetition, which is the main way to cheat it."""
    found = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    share = 1 - len(set(found)) / len(found) if found else 0.0
    return min(1.0, max(0.0, (share - free) / (full - free)))


def copied(text: str, original: str, free: float = 0.9) -> float:
    """(ROUGE-L - free) / (1 - free), clipped: how close to a copy of the original; 0 where neither has a word."""
    first, second = words(original), words(text)
    if not first and not second:
        return 0.0
    return max(0.0, (rouge_l(first, second) - free) / (1 - free))


def mentions(text: str, phrases: Iterable[str], given: str) -> float:
    """1 where the text holds one of the phrases, as whole words in any case, that `given` (the question and the
    reference) does not hold too: talk about the task instead of an answer."""
    return float(any(places(text, phrase) and not places(given, phrase) for phrase in phrases))


def skipped(text: str, original: str, enough: float = 0.5) -> float:
    """1 - coverage where less than `enough` of the original's numbers is still there, else 0: steps were left out. 0
    where the original holds no number."""
    coverage, _ = numbers.shares(text, original, 0.0)
    return 0.0 if coverage is None or coverage >= enough else 1.0 - coverage


__all__ = ["copied", "final_places", "leak", "length_ratio", "mentions", "overlong", "places", "repetition", "skipped"]
