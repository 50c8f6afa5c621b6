"""How much of the raw answers' wording the refined ones keep, and how varied each side's wording is."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from refinery.diagnostics._numbers import Meanings, Row, exchanges, mean_row, p_value, row, wilson
from refinery.diagnostics._pairs import Pairs

VERSION = 2
NEEDS, USES, LIBRARIES = (), (), ()

MEANINGS: Meanings = {
    "identical": ("share of answers left as they were", "Rows the step did not touch, those that fell back included."),
    "rouge_l": ("ROUGE-L of raw and refined answer", "1 same words in the same order, 0 none in common."),
    "overlap_1": ("shared words (F1)", "High with a low ROUGE-L: the same words in another order."),
    "overlap_2": ("shared 2-grams (F1)", "Short phrases that both answers hold."),
    "overlap_3": ("shared 3-grams (F1)", "Phrases that both answers hold."),
    "overlap_4": ("shared 4-grams (F1)", "Long phrases that both answers hold."),
    "copied_4": ("refined 4-grams copied from the raw answer", "High: copied rather than put in own words."),
    "distinct_1_change": ("different words over all, change", "Below 0: the refined vocabulary is narrower."),
    "distinct_2_change": ("different 2-grams over all, change", "Below 0: refined answers repeat phrases more."),
    "distinct_4_change": ("different 4-grams over all, change", "Below 0: refined answers repeat phrases more."),
    "unigram_js": ("Jensen–Shannon divergence of the words, bits", "0 same word use, 1 no word in common."),
}

LIMIT = 10_000
"""Pairs compared at most, drawn by their ids."""

BLOCKS, EXCHANGES = 10, 199
"""Parts of the sample that an interval for `distinct` rests on; exchanges behind the p of `unigram_js`."""

_WORD = re.compile(r"\w+")

Words = list[str]


def measure(pairs: Pairs, *, seed: int = 0) -> list[Row]:
    """Rows of the family "ngram".

    identical: share of pairs that are equal as texts. rouge_l: F1 on the longest common subsequence of words.
    overlap_1 to overlap_4: F1 on shared n-grams, counted with multiplicity (ROUGE-n). copied_4: share of the refined
    text's 4-grams that its raw text holds. A pair of which a side has no n-gram of that length is left out (n says
    how many count). Then each side as one corpus: distinct_<k> (see `distinct`; its _change is the mean over blocks of
    rows, with their t interval), type_token_ratio (mean per text of its different words over its words), and
    unigram_js, the Jensen-Shannon divergence of the two word distributions in bits (0 equal, 1 no word in common) with
    the p of one as large where raw and refined change places.

    Words are runs of letters, digits and underscores in lower case; a language written without spaces comes out as
    one long word, for which only the measures of other families mean something.
    """
    chosen = pairs.sample(LIMIT, seed)
    x, y = [words(pair.raw) for pair in chosen], [words(pair.refined) for pair in chosen]
    same = [pair.raw == pair.refined for pair in chosen]
    both, n = list(zip(x, y, strict=True)), len(chosen)
    rows = [row("ngram", "identical", sum(same) / n if n else None, n, wilson(sum(same), n))]
    rows.append(mean_row("ngram", "rouge_l", _values(rouge_l(*p) for p in both)))
    for k in (1, 2, 3, 4):
        rows.append(mean_row("ngram", f"overlap_{k}", _values(overlap(a, b, k) for a, b in both)))
    rows.append(mean_row("ngram", "copied_4", _values(copied(a, b, 4) for a, b in both)))
    for k in (1, 2, 4):
        rows += _distinct_rows(x, y, k, seed)
    for side, texts in (("raw", x), ("refined", y)):
        rows.append(mean_row("ngram", f"type_token_ratio_{side}", _values(_type_token_ratio(t) for t in texts)))
    return [*rows, _unigram_js(x, y, seed)]


def _distinct_rows(x: list[Words], y: list[Words], k: int, seed: int) -> list[Row]:
    values, total = distinct(x, y, k, seed)
    sides = zip(("raw", "refined"), values, strict=True)
    rows = [row("ngram", f"distinct_{k}_{side}", value, len(x), ngrams=total) for side, value in sides]
    parts = [distinct(x[i::BLOCKS], y[i::BLOCKS], k, seed)[0] for i in range(BLOCKS)]
    changes = np.array([b - a for a, b in parts if a is not None and b is not None])
    change = mean_row("ngram", f"distinct_{k}_change", changes, blocks=len(changes))
    return [*rows, {**change, "n": len(x)}]


def _unigram_js(x: list[Words], y: list[Words], seed: int) -> Row:
    """Blocks of rows swap sides, not single rows: the word counts of 64 blocks hold all that an exchange needs."""
    value = jensen_shannon(x, y)
    if value is None or len(x) < 8:
        return row("ngram", "unigram_js", value, len(x))
    blocks = min(64, len(x))
    vocabulary: dict[str, int] = {}
    counts = [[Counter(w for text in side[i::blocks] for w in text) for i in range(blocks)] for side in (x, y)]
    for counter in (*counts[0], *counts[1]):
        for word in counter:
            vocabulary.setdefault(word, len(vocabulary))
    tables = np.zeros((2, blocks, len(vocabulary)), dtype=np.float32)
    for table, side in zip(tables, counts, strict=True):
        for line, counter in zip(table, side, strict=True):
            line[[vocabulary[w] for w in counter]] = list(counter.values())
    middle, half = tables.sum((0, 1), dtype=np.float64) / 2, (tables[0] - tables[1]) / 2
    moved = exchanges(blocks, seed, EXCHANGES).astype(np.float32) @ half
    swapped = np.array([_divergence(middle + m, middle - m) for m in moved])
    return row("ngram", "unigram_js", value, len(x), p=p_value(value, swapped), exchanges=EXCHANGES, blocks=blocks)


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
    return _divergence(*(np.array([c[w] for w in vocabulary], dtype=np.float64) for c in (a, b)))


def _divergence(a: np.ndarray, b: np.ndarray) -> float:
    """Of two arrays of counts, in bits."""
    p, q = a / a.sum(), b / b.sum()
    middle = (p + q) / 2
    return max(0.0, float(sum(np.sum(s[s > 0] * np.log2(s[s > 0] / middle[s > 0])) for s in (p, q)) / 2))


def ngrams(text: Words, n: int) -> Iterable[tuple[str, ...]]:
    return zip(*(text[i:] for i in range(n)), strict=False)


def _type_token_ratio(text: Words) -> float:
    return len(set(text)) / len(text) if text else float("nan")


def _values(numbers: Iterable[float]) -> np.ndarray:
    return np.fromiter(numbers, dtype=np.float64)
