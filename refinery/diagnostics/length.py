"""How long the answers are before and after: words, characters, and a model's tokens where a tokenizer is given."""

import math
from typing import Any

import numpy as np

from refinery.diagnostics._numbers import Interval, Row, histogram, mean_row, row, t_975

VERSION = 1
NEEDS, USES = (), ("tokenizer",)


def measure(raw: list[str], refined: list[str], *, tokenizer: Any = None) -> list[Row]:
    """Rows of the family "length" for the pairs (raw[i], refined[i]), all of them, per unit of length.

    <unit>_raw_mean (t interval), _raw_median, _raw_p95, the same for refined, <unit>_ratio (mean refined over mean
    raw) and <unit>_ks (Kolmogorov and Smirnov's D, p in its detail). Units: words (between white space), characters
    (code points), tokens (without special tokens; `tokenizer` is a transformers tokenizer). Both histograms, over the
    same bins, are in the detail of _ratio.
    """
    sides = (raw, refined)
    units = {
        "words": [np.array([len(t.split()) for t in side], dtype=np.float64) for side in sides],
        "characters": [np.array([len(t) for t in side], dtype=np.float64) for side in sides],
    }
    if tokenizer is not None:
        units["tokens"] = [_tokens(tokenizer, side) for side in sides]
    return [r for unit, (x, y) in units.items() for r in _unit_rows(unit, x, y)]


def _tokens(tokenizer: Any, texts: list[str]) -> np.ndarray:
    clean = [t.encode("utf-8", "replace").decode("utf-8") for t in texts]
    ids = tokenizer(clean, add_special_tokens=False, truncation=False, verbose=False)["input_ids"] if clean else []
    return np.array([len(row) for row in ids], dtype=np.float64)


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
