"""How long the answers and their sentences are before and after: words, characters, and a model's tokens."""

import math
import re
from typing import Any

import numpy as np

from refinery.diagnostics._numbers import Interval, Meanings, Row, histogram, mean_row, row, t_975
from refinery.diagnostics._pairs import CHUNK, Pairs

VERSION = 2
NEEDS, USES, LIBRARIES = (), ("tokenizer",), ()

MEANINGS: Meanings = {
    "words_ratio": ("words, refined over raw", "1 is equal length; an interval that spans 1 shows no change."),
    "tokens_ratio": ("tokens, refined over raw", "1 is equal length; an interval that spans 1 shows no change."),
    "characters_ratio": ("characters, refined over raw", "1 is equal length; read it where words are not spaced."),
    "sentence_ratio": ("words a sentence, refined over raw", "Above 1: longer sentences than the raw answers'."),
    "words_ks": ("Kolmogorov–Smirnov distance of the lengths in words", "0 same spread of lengths, 1 no overlap."),
    "tokens_ks": ("Kolmogorov–Smirnov distance of the lengths in tokens", "0 same spread of lengths, 1 no overlap."),
    "words_wasserstein": ("Wasserstein distance of the lengths in words", "Words by which lengths moved, on average."),
    "tokens_wasserstein": ("Wasserstein distance of the lengths, tokens", "Tokens by which lengths moved, on average."),
    "words_raw_mean": ("words of a raw answer, mean", "The size of what the model would have learnt from."),
    "words_refined_mean": ("words of a refined answer, mean", "The size of what the model learns from now."),
}

_SENTENCE = re.compile(r"[.!?…]+(?=\s|$)|\n+|[。！？]+")


def measure(pairs: Pairs, *, tokenizer: Any = None) -> list[Row]:
    """Rows of the family "length", all pairs.

    <unit>_raw_mean (t interval), _raw_median, _raw_p95, the same for refined, <unit>_ratio (mean refined over mean
    raw), <unit>_ks (Kolmogorov and Smirnov's D, p in its detail) and <unit>_wasserstein (the mean distance of the two
    lengths at equal rank). Units: words (between white space), characters (code points), sentence (words a sentence;
    a line break ends one too) and tokens (without special tokens; `tokenizer` is a transformers tokenizer). Both
    histograms, over the same bins, are in the detail of _ratio.
    """
    units = {"words": _words, "characters": len, "sentence": _words_a_sentence}
    counts: dict[str, list[list[float]]] = {unit: [[], []] for unit in units}
    if tokenizer is not None:
        counts["tokens"] = [[], []]
    waiting: list[tuple[str, str]] = []
    for pair in pairs:
        for unit, count in units.items():
            counts[unit][0].append(count(pair.raw))
            counts[unit][1].append(count(pair.refined))
        waiting.append((pair.raw, pair.refined))
        if len(waiting) == CHUNK or len(counts["words"][0]) == len(pairs):
            for side, values in enumerate(counts.get("tokens", ())):
                values += _tokens(tokenizer, [texts[side] for texts in waiting])
            waiting = []
    sides = {unit: [np.array(side, dtype=np.float64) for side in both] for unit, both in counts.items()}
    return [r for unit, (x, y) in sides.items() for r in _unit_rows(unit, x, y)]


def _words(text: str) -> int:
    return len(text.split())


def _words_a_sentence(text: str) -> float:
    """0 for a text without a word."""
    return _words(text) / max(1, sum(1 for part in _SENTENCE.split(text) if part.strip()))


def _tokens(tokenizer: Any, texts: list[str]) -> list[float]:
    clean = [t.encode("utf-8", "replace").decode("utf-8") for t in texts]
    ids = tokenizer(clean, add_special_tokens=False, truncation=False, verbose=False)["input_ids"] if clean else []
    return [float(len(row)) for row in ids]


def _unit_rows(unit: str, x: np.ndarray, y: np.ndarray) -> list[Row]:
    rows = []
    for side, values in (("raw", x), ("refined", y)):
        median, p95 = np.quantile(values, [0.5, 0.95]) if len(values) else (None, None)
        rows.append(mean_row("length", f"{unit}_{side}_mean", values))
        rows.append(row("length", f"{unit}_{side}_median", median, len(values)))
        rows.append(row("length", f"{unit}_{side}_p95", p95, len(values)))
    high = max(1.0, float(np.quantile(np.concatenate([x, y]), 0.99))) if len(x) else 1.0
    bins = {"raw": histogram(x, 0, high), "refined": histogram(y, 0, high)}
    ratio = float(y.mean() / x.mean()) if len(x) and x.mean() > 0 else None
    rows.append(row("length", f"{unit}_ratio", ratio, len(x), ratio_interval(x, y), histogram=bins))
    d, p = kolmogorov_smirnov(x, y)
    note = "p takes the two sides as independent, which is cautious where long raw answers stay long"
    rows.append(row("length", f"{unit}_ks", d, len(x), p=p, note=note))
    moved = float(np.abs(np.sort(x) - np.sort(y)).mean()) if len(x) else None
    rows.append(row("length", f"{unit}_wasserstein", moved, len(x), p=p, note="p is that of the same unit's ks"))
    return rows


def ratio_interval(x: np.ndarray, y: np.ndarray) -> Interval:
    """95% interval of mean(y) / mean(x) for pairs (x_i, y_i): t interval of its logarithm by the delta method."""
    n = len(x)
    if n < 2 or x.mean() <= 0 or y.mean() <= 0:
        return None, None
    error = np.std(y / y.mean() - x / x.mean(), ddof=1) / math.sqrt(n)
    centre, half = math.log(y.mean() / x.mean()), t_975(n - 1) * error
    return math.exp(centre - half), math.exp(centre + half)


def kolmogorov_smirnov(x: np.ndarray, y: np.ndarray) -> tuple[float | None, float | None]:
    """(D, p): the largest distance of the two empirical distribution functions, and its asymptotic p (n = 20 or more).

    p is Kolmogorov's limit at (√m + 0.12 + 0.11 / √m) D with m = n_x n_y / (n_x + n_y), Stephens's correction.
    """
    if not len(x) or not len(y):
        return None, None
    values = np.unique(np.concatenate([x, y]))
    below_x = np.searchsorted(np.sort(x), values, side="right") / len(x)
    below_y = np.searchsorted(np.sort(y), values, side="right") / len(y)
    d = float(np.abs(below_x - below_y).max())
    root = math.sqrt(len(x) * len(y) / (len(x) + len(y)))
    scaled = (root + 0.12 + 0.11 / root) * d
    if scaled < 0.2:  # the series converges slowly there and p differs from 1 by less than 1e-12
        return d, 1.0
    terms = [(-1) ** (k - 1) * math.exp(-2 * k * k * scaled * scaled) for k in range(1, 101)]
    return d, min(1.0, max(0.0, 2 * sum(terms)))
