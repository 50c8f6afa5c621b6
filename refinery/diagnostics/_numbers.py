"""What every family of measures shares: a row, intervals for means, shares and ratios, a histogram, p by exchange."""

import math
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

Row = dict[str, Any]
Interval = tuple[float | None, float | None]
Meanings = dict[str, tuple[str, str]]
"""Name of a measure to (what it is called, a sentence on how to read it)."""

BINS = 20
PERMUTATIONS = 1000

_T_975 = (math.nan, 12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004)
_Z = 1.959963985


def row(family: str, name: str, value: float | None, n: int, interval: Interval = (None, None), **detail: Any) -> Row:
    """One measure as the store keeps it; None stands for "cannot be said from these rows" (`detail["note"]` why)."""
    low, high = interval
    return {
        "family": family,
        "name": name,
        "value": None if value is None or math.isnan(value) else float(value),
        "n": int(n),
        "low": None if low is None else float(low),
        "high": None if high is None else float(high),
        "detail": detail,
    }


def mean_row(family: str, name: str, values: np.ndarray, **detail: Any) -> Row:
    """The mean of one number per pair with its t interval; NaN entries, undefined for their pair, are left out."""
    known = np.asarray(values, dtype=np.float64)
    known = known[~np.isnan(known)]
    mean = float(known.mean()) if len(known) else None
    return row(family, name, mean, len(known), mean_interval(known), **detail)


def mean_interval(values: np.ndarray) -> Interval:
    """95% t interval of the mean; none for fewer than two values."""
    n = len(values)
    if n < 2:
        return None, None
    half = t_975(n - 1) * float(np.std(values, ddof=1)) / math.sqrt(n)
    mean = float(np.mean(values))
    return mean - half, mean + half


def t_975(df: int) -> float:
    """The 97.5% quantile of Student's t, to 1e-3 (tabulated to 8 degrees of freedom, then by Cornish and Fisher)."""
    if df < len(_T_975):
        return _T_975[df]
    z = _Z
    return (
        z
        + (z**3 + z) / (4 * df)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * df**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * df**3)
    )


def wilson(count: float, n: int) -> Interval:
    """95% interval of a share (Wilson 1927); none for no rows. `count` may hold halves."""
    if not n:
        return None, None
    share, z2 = count / n, _Z * _Z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def share_row(family: str, name: str, flags: np.ndarray, **detail: Any) -> Row:
    """The share of True with its Wilson interval."""
    count, n = int(np.sum(flags)), len(flags)
    return row(family, name, count / n if n else None, n, wilson(count, n), **{**detail, "count": count})


def side_rows(family: str, name: str, raw: np.ndarray, refined: np.ndarray, **detail: Any) -> list[Row]:
    """<name>_raw, <name>_refined and <name>_change: shares (of True) or means, and the mean paired difference."""
    one = share_row if raw.dtype == bool else mean_row
    sides = [one(family, f"{name}_{side}", values) for side, values in (("raw", raw), ("refined", refined))]
    return [*sides, mean_row(family, f"{name}_change", refined.astype(float) - raw.astype(float), **detail)]


def ratio_row(family: str, name: str, top: np.ndarray, bottom: np.ndarray, **detail: Any) -> Row:
    """sum(top) / sum(bottom) over rows (tokens of a kind over tokens), with the interval of a ratio of two means."""
    n, total = len(top), float(np.sum(bottom))
    if not total:
        return row(family, name, None, n, note="nothing to count", **detail)
    value = float(np.sum(top)) / total
    if n < 2:
        return row(family, name, value, n, **detail)
    half = t_975(n - 1) * float(np.std(top - value * bottom, ddof=1)) / (float(np.mean(bottom)) * math.sqrt(n))
    return row(family, name, value, n, (value - half, value + half), **detail)


def quantiles(values: np.ndarray, at: Sequence[float] = (0.05, 0.25, 0.5, 0.75, 0.95)) -> dict[str, float]:
    """{"p05": ..., "p50": ...}, linearly interpolated; empty for no values."""
    if not len(values):
        return {}
    return {f"p{round(q * 100):02d}": float(v) for q, v in zip(at, np.quantile(values, at), strict=True)}


def histogram(values: np.ndarray, low: float, high: float) -> dict[str, list[float] | list[int]]:
    """Counts in BINS equal bins from `low` to `high`; what lies outside counts in the first or last bin."""
    counts, edges = np.histogram(np.clip(values, low, high), bins=BINS, range=(low, high))
    return {"edges": [round(float(e), 6) for e in edges], "counts": counts.tolist()}


def exchanges(n: int, seed: int, times: int = PERMUTATIONS) -> np.ndarray:
    """(times, n) of +1 and -1: which pairs keep their order and which swap raw and refined.

    The rows are pairs of one question's two answers, so the null distribution of "no difference" swaps within pairs;
    shuffling all texts, as for independent samples, would also break the pairing and misstate p.
    """
    return np.random.default_rng(seed).choice(np.array([-1.0, 1.0]), size=(times, n))


def p_value(observed: float, under_exchange: np.ndarray) -> float:
    """Share of exchanges at least as extreme as observed, the observed one counted among them (never 0)."""
    at_least = int(np.sum(under_exchange >= observed - 1e-12 * max(1.0, abs(observed))))
    return (1 + at_least) / (1 + len(under_exchange))


def missing_extra(library: str) -> str:
    """What to say where a library of the extra `diagnose` is missing; empty where it is there."""
    name = {"sklearn": "scikit-learn"}.get(library, library)
    return "" if find_spec(library) else f'needs {name}: pip install "refinery[diagnose]"'
