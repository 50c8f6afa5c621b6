"""How far the refined answers lie from the raw ones in the space of a sentence encoder."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from refinery.diagnostics._numbers import (
    PERMUTATIONS,
    Meanings,
    Row,
    exchanges,
    histogram,
    mean_row,
    p_value,
    quantiles,
    row,
)
from refinery.diagnostics._pairs import Pair, Pairs

VERSION = 2
NEEDS, USES, LIBRARIES = ("encoder",), ("own",), ()

MEANINGS: Meanings = {
    "cosine_mean": ("cosine of raw and refined answer, mean", "1 same meaning; blind to a flipped number or negation."),
    "cosine_p05": ("cosine, 5th percentile", "The rows to read first: one in twenty lies below."),
    "cosine_median": ("cosine, median", "Half of the rows lie above."),
    "cosine_p95": ("cosine, 95th percentile", "Near 1: the step left these answers almost alone."),
    "centroid_shift": ("cosine distance of the two mean vectors", "A small p: the whole set moved, not just rows."),
    "mmd2": ("squared maximum mean discrepancy (MMD²)", "0 same distribution; p says if more than chance."),
    "frechet": ("Fréchet distance of the embeddings", "Has no p: --json tells its size by chance (exchanged)."),
    "map": ("the two sets on their first two axes, share shown", "Of all spread, what the map of the two sets shows."),
    "own_mmd2_raw": ("MMD² of raw answers and the model's own", "How foreign raw answers are to the model."),
    "own_mmd2_refined": ("MMD² of refined answers and the model's own", "Smaller than raw's: closer to its manner."),
    "own_cosine_raw": ("cosine of raw answer and the model's own", "How near the model is to the raw answer unaided."),
    "own_cosine_refined": ("cosine of refined answer and its own", "Above raw's: nearer to what the model would say."),
    "own_cosine_change": ("cosine to the model's own answer, change", "Above 0: refining moved towards the model."),
}

LIMIT = 2000
"""Pairs encoded and compared at most, drawn at random: two cores encode 46 to 78 answers of 100 words a second."""

FRECHET_EXCHANGES = 5

POINTS = 300
"""Pairs on the map."""


def measure(pairs: Pairs, *, encoder: Any, own: Any = None, seed: int = 0) -> list[Row]:
    """Rows of the family "embedding".

    cosine_* of each pair (mean with t interval, quantiles, histogram); centroid_shift, the cosine distance of the two
    mean vectors; mmd2, the unbiased squared maximum mean discrepancy; frechet, the Fréchet distance of two Gaussians;
    map, the share of the spread that two principal axes hold, with the pairs' places on them in its detail. With the
    base model's `own` answers (example id -> text): mmd2 and cosine of each side with them (own_*).
    A pair with an empty text has no cosine: it is left out of every measure and counted in `detail["empty"]`.
    `encoder` is a refinery.encoder.Encoder, or anything whose encode(texts) gives one unit vector per text.
    """
    chosen = pairs.sample(LIMIT, seed)
    x, y, empty = _vectors([p.raw for p in chosen], [p.refined for p in chosen], encode=encoder.encode)
    rows = [*_cosines(x, y, empty), _centroid_shift(x, y, seed), _mmd2(x, y, seed), _frechet(x, y, seed), _map(x, y)]
    return rows if own is None else [*rows, *_own(chosen, own, encoder, seed)]


def _own(chosen: list[Pair], own: Any, encoder: Any, seed: int) -> list[Row]:
    asked = [pair for pair in chosen if pair.id in own.texts]
    texts = [own.texts[pair.id] for pair in asked]
    x, y, z, empty = _vectors([p.raw for p in asked], [p.refined for p in asked], texts, encode=encoder.encode)
    rows = []
    for side, vectors in (("raw", x), ("refined", y)):
        rows.append({**_mmd2(vectors, z, seed), "name": f"own_mmd2_{side}"})
        rows.append(mean_row("embedding", f"own_cosine_{side}", np.sum(vectors * z, axis=1), empty=empty))
    change = np.sum((y - x) * z, axis=1)
    return [*rows, mean_row("embedding", "own_cosine_change", change, model=own.model, cut=own.cut)]


def _map(x: np.ndarray, y: np.ndarray) -> Row:
    """Both sets on the two principal axes of both together: [[raw x, raw y, refined x, refined y], ...]."""
    x, y = x[:POINTS], y[:POINTS]
    n = len(x)
    if n < 3 or x.shape[1] < 2:
        return row("embedding", "map", None, n, note="needs three pairs")
    both = np.vstack([x, y])
    both -= both.mean(0)
    left, size, _ = np.linalg.svd(both, full_matrices=False)
    left *= np.sign(left[np.abs(left).argmax(0), range(left.shape[1])])  # an axis has no direction of its own
    at = np.round(left[:, :2] * size[:2], 4)
    share = float(np.sum(size[:2] ** 2) / max(np.sum(size**2), 1e-300))
    return row("embedding", "map", share, n, points=np.hstack([at[:n], at[n:]]).tolist())


def _vectors(*sides: list[str], encode: Callable[[Sequence[str]], np.ndarray]) -> Any:
    """(n, d) float64 for each side without the rows of which one vector is zero, and the number of those."""
    if not sides[0]:
        return *(np.zeros((0, 1)) for _ in sides), 0
    distinct = list(dict.fromkeys(text for side in sides for text in side))
    at = {text: i for i, text in enumerate(distinct)}
    vectors = np.asarray(encode(distinct), dtype=np.float64)
    found = [vectors[[at[text] for text in side]] for side in sides]
    full = np.logical_and.reduce([v.any(axis=1) for v in found])
    return *(v[full] for v in found), int((~full).sum())


def _cosines(x: np.ndarray, y: np.ndarray, empty: int) -> list[Row]:
    cosine = np.sum(x * y, axis=1)
    spread = quantiles(cosine)
    low = max(-1.0, math.floor(10 * cosine.min() - 0.5) / 10) if len(cosine) else 0.0
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
