"""How much of the raw answers' wording the refined ones keep, and how varied each side's wording is."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from refinery.diagnostics._numbers import Row, mean_row, pick, row

VERSION = 1
NEEDS, USES = (), ()

LIMIT = 20_000
"""Pairs compared at most, drawn at random."""

_WORD = re.compile(r"\w+")

Words = list[str]


def measure(raw: list[str], refined: list[str], *, seed: int = 0) -> list[Row]:
    """Rows of the family "ngram" for the pairs (raw[i], refined[i]).

    identical: share of pairs that are equal as texts. rouge_l: F1 on the longest common subsequence of words.
    overlap_1 to overlap_4: F1 on shared n-grams, counted with multiplicity (ROUGE-n). copied_4: share of the refined
    text's 4-grams that its raw text holds. A pair of which a side has no n-gram of that length is left out (n says
    how many count). Then each side as one corpus: distinct_<k> (see `distinct`), type_token_ratio (mean per text of
    its different words over its words), and unigram_js, the Jensen-Shannon divergence of the two word distributions
    in bits (0 equal, 1 no word in common).

    Words are runs of letters, digits and underscores in lower case; a language written without spaces comes out as
    one long word, for which only the measures of other families mean something.
    """
    chosen = pick(raw, LIMIT, seed)
    x, y = [words(raw[i]) for i in chosen], [words(refined[i]) for i in chosen]
    same = np.array([raw[i] == refined[i] for i in chosen], dtype=np.float64)
    pairs = list(zip(x, y, strict=True))
    rows = [mean_row("ngram", "identical", same), mean_row("ngram", "rouge_l", _values(rouge_l(*p) for p in pairs))]
    for n in (1, 2, 3, 4):
        rows.append(mean_row("ngram", f"overlap_{n}", _values(overlap(a, b, n) for a, b in pairs)))
    rows.append(mean_row("ngram", "copied_4", _values(copied(a, b, 4) for a, b in pairs)))
    for k in (1, 2, 4):
        values, total = distinct(x, y, k, seed)
        for side, value in zip(("raw", "refined"), values, strict=True):
            rows.append(row("ngram", f"distinct_{k}_{side}", value, len(pairs), ngrams=total))
    for side, texts in (("raw", x), ("refined", y)):
        rows.append(mean_row("ngram", f"type_token_ratio_{side}", _values(_type_token_ratio(t) for t in texts)))
    rows.append(row("ngram", "unigram_js", jensen_shannon(x, y), len(pairs)))
    return rows


def words(text: str) -> Words:
    return _WORD.findall(text.lower())


def common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence, by one addition on len(a)-bit integers per word of b (Hyyrö 2004)."""
    where: dict[str, int] = {}
    for i, word in enumerate(a):
        where[word] = where.get(word, 0) | 1 << i
    full = (1 << len(a)) - 1
    rest = full
    for word in b:
        match = rest & where.get(word, 0)
        rest = ((rest + match) | (rest - match)) & full
    return len(a) - rest.bit_count()


def rouge_l(raw: Words, refined: Words) -> float:
    """F1 of the longest common subsequence; 0 where a side has no word, NaN where neither has."""
    if not raw and not refined:
        return float("nan")
    return 2 * common_subsequence(raw, refined) / (len(raw) + len(refined))


def overlap(raw: Words, refined: Words, n: int) -> float:
    """F1 of shared n-grams with multiplicity; NaN where a side has none."""
    a, b = Counter(ngrams(raw, n)), Counter(ngrams(refined, n))
    return 2 * (a & b).total() / (a.total() + b.total()) if a and b else float("nan")


def copied(raw: Words, refined: Words, n: int) -> float:
    """Share of refined's n-grams that occur anywhere in raw; NaN where a side has none."""
    known, found = set(ngrams(raw, n)), list(ngrams(refined, n))
    return sum(g in known for g in found) / len(found) if known and found else float("nan")


def distinct(raw: list[Words], refined: list[Words], k: int, seed: int) -> tuple[list[float | None], int]:
    """([different k-grams over k-grams of raw, of refined], k-grams counted on each side).

    The share falls as a corpus grows, so that longer answers would look less varied for their length alone: both
    sides are read in one random order of rows up to the number of k-grams that the smaller one has.
    """
    order = np.random.default_rng(seed).permutation(len(raw))
    sides = [[g for i in order for g in ngrams(texts[i], k)] for texts in (raw, refined)]
    total = min(map(len, sides))
    return [len(set(side[:total])) / total if total else None for side in sides], total


def jensen_shannon(raw: list[Words], refined: list[Words]) -> float | None:
    """Jensen-Shannon divergence in bits of the two corpora's word distributions; None where a side has no word."""
    a, b = (Counter(word for text in side for word in text) for side in (raw, refined))
    if not a or not b:
        return None
    vocabulary = list(a | b)
    p, q = (np.array([c[w] for w in vocabulary], dtype=np.float64) / c.total() for c in (a, b))
    middle = (p + q) / 2
    return max(0.0, float(sum(np.sum(s[s > 0] * np.log2(s[s > 0] / middle[s > 0])) for s in (p, q)) / 2))


def ngrams(text: Words, n: int) -> Iterable[tuple[str, ...]]:
    return zip(*(text[i:] for i in range(n)), strict=False)


def _type_token_ratio(text: Words) -> float:
    return len(set(text)) / len(text) if text else float("nan")


def _values(numbers: Iterable[float]) -> np.ndarray:
    return np.fromiter(numbers, dtype=np.float64)
