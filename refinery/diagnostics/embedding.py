"""How far the refined answers lie from the raw ones in the space of a sentence encoder."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from refinery.diagnostics._numbers import (
    PERMUTATIONS,
    Row,
    exchanges,
    histogram,
    mean_row,
    p_value,
    pick,
    quantiles,
    row,
)

VERSION = 1
NEEDS, USES = ("encoder",), ()

LIMIT = 2000
"""Pairs encoded and compared at most, drawn at random: two cores encode 46 to 78 answers of 100 words a second."""

FRECHET_EXCHANGES = 5


def measure(raw: list[str], refined: list[str], *, encoder: Any, seed: int = 0) -> list[Row]:
    """Rows of the family "embedding" for the pairs (raw[i], refined[i]).

    cosine_* of each pair (mean with t interval, quantiles, histogram); centroid_shift, the cosine distance of the two
    mean vectors; mmd2, the unbiased squared maximum mean discrepancy; frechet, the Fréchet distance of two Gaussians.
    A pair with an empty text has no cosine: it is left out of every measure and counted in `detail["empty"]`.
    `encoder` is a refinery.encoder.Encoder, or anything whose encode(texts) gives one unit vector per text.
    """
    chosen = pick(raw, LIMIT, seed)
    x, y, empty = _vectors([raw[i] for i in chosen], [refined[i] for i in chosen], encoder.encode)
    return [*_cosines(x, y, empty), _centroid_shift(x, y, seed), _mmd2(x, y, seed), _frechet(x, y, seed)]


def _vectors(raw: list[str], refined: list[str], encode: Callable[[Sequence[str]], np.ndarray]) -> Any:
    """(n, d) float64 for each side without the pairs of which one vector is zero, and the number of those."""
    if not raw:
        return np.zeros((0, 1)), np.zeros((0, 1)), 0
    distinct = list(dict.fromkeys([*raw, *refined]))
    at = {text: i for i, text in enumerate(distinct)}
    vectors = np.asarray(encode(distinct), dtype=np.float64)
    x, y = vectors[[at[t] for t in raw]], vectors[[at[t] for t in refined]]
    full = x.any(axis=1) & y.any(axis=1)
    return x[full], y[full], int((~full).sum())


def _cosines(x: np.ndarray, y: np.ndarray, empty: int) -> list[Row]:
    cosine = np.sum(x * y, axis=1)
    spread = quantiles(cosine)
    low = 0.0 if not len(cosine) or cosine.min() >= 0 else -1.0
    detail = {"quantiles": spread, "histogram": histogram(cosine, low, 1.0), "empty": empty}
    names = {"cosine_p05": "p05", "cosine_median": "p50", "cosine_p95": "p95"}
    rest = [row("embedding", name, spread.get(q), len(cosine)) for name, q in names.items()]
    return [mean_row("embedding", "cosine_mean", cosine, **detail), *rest]


def _centroid_shift(x: np.ndarray, y: np.ndarray, seed: int) -> Row:
    """1 - cos(mean of raw, mean of refined), with p of a shift this large if raw and refined could change places."""
    n = len(x)
    if n < 2:
        return row("embedding", "centroid_shift", None, n, note="needs two pairs")
    middle, half = (x.mean(0) + y.mean(0)) / 2, (x - y) / 2
    moved = np.vstack([half.mean(0), exchanges(n, seed) @ half / n])
    a, b = middle + moved, middle - moved
    shift = 1 - np.sum(a * b, axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return row("embedding", "centroid_shift", shift[0], n, p=p_value(shift[0], shift[1:]), exchanges=PERMUTATIONS)


def _mmd2(x: np.ndarray, y: np.ndarray, seed: int) -> Row:
    """Unbiased MMD² (Gretton et al. 2012, eq. 4) under k(a, b) = exp(-|a - b|² / (2 σ²)), σ the median distance
    of all 2n texts.

    The mean over i ≠ j of k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(x_j, y_i): without the terms i = j, so that a
    pair's likeness does not count as likeness of the two distributions. It can be slightly negative. Swapping pair i
    flips the sign of its row and column, so the exchanges are quadratic forms of one matrix.
    """
    n = len(x)
    if n < 2:
        return row("embedding", "mmd2", None, n, note="needs two pairs")
    both = np.vstack([x, y])
    squared = both @ both.T
    np.maximum(2 - 2 * squared, 0, out=squared)  # unit vectors
    sigma2 = float(np.median(squared[np.triu(np.ones(squared.shape, dtype=bool), 1)]))
    if sigma2 == 0:
        return row("embedding", "mmd2", 0.0, n, p=1.0, note="at least half of all texts share one vector")
    kernel = np.exp(squared / (-2 * sigma2))
    pairs = kernel[:n, :n] + kernel[n:, n:] - kernel[:n, n:] - kernel[n:, :n]
    np.fill_diagonal(pairs, 0)
    signs = exchanges(n, seed)
    exchanged = np.sum((signs @ pairs) * signs, axis=1) / (n * (n - 1))
    value = float(pairs.sum()) / (n * (n - 1))
    detail = {"p": p_value(value, exchanged), "exchanges": PERMUTATIONS, "bandwidth": sigma2**0.5}
    return row("embedding", "mmd2", value, n, **detail)


def _frechet(x: np.ndarray, y: np.ndarray, seed: int) -> Row:
    """|mean difference|² + tr(A + B - 2 (A B)^½) of the two covariances A and B.

    A covariance of d dimensions from few rows is mostly noise, so the distance is not given for fewer than 2 d pairs.
    Above that it is still biased upwards; `detail["exchanged"]` is its mean when raw and refined swap at random, the
    level to read it against.
    """
    n, d = x.shape
    if n < 2 * d:
        return row("embedding", "frechet", None, n, note=f"{n} pairs are fewer than twice the {d} dimensions")
    exchanged = []
    for signs in exchanges(n, seed, FRECHET_EXCHANGES):
        swap = (signs < 0)[:, None]
        exchanged.append(_frechet_distance(np.where(swap, y, x), np.where(swap, x, y)))
    return row("embedding", "frechet", _frechet_distance(x, y), n, exchanged=float(np.mean(exchanged)))


def _frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    values, basis = np.linalg.eigh(a)
    root = (basis * np.sqrt(np.clip(values, 0, None))) @ basis.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ b @ root), 0, None)).sum()
    return max(0.0, float(np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(a) + np.trace(b) - 2 * cross))
