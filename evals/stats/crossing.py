"""A mean difference over seeds and items at once: how it would vary with other seeds and other items."""

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from evals.stats.means import Mean, Spread, by_cluster, p_zero

DRAWS = 4000

GROUPS = 2000
"""Of more items than these, groups of equal size are drawn instead, which changes no variance but how long it takes."""


@dataclass(frozen=True, slots=True)
class Block:
    """Paired differences on one benchmark, and whom they share their chances with."""

    values: np.ndarray
    """(seeds, items), or (seeds, items, k) where k quantities are estimated together."""
    runs: Hashable = 0
    """Blocks with equal `runs` were measured on the same training runs: their seeds are drawn together."""
    items: Hashable = 0
    """Blocks with equal `items` hold the same test items in the same order: these are drawn together."""
    weight: float = 1.0
    """The estimate is the sum over blocks of weight times mean."""
    clusters: Sequence[Hashable] | None = None
    """The group of each item, where items share a context: then groups are drawn, by `by_cluster`. Blocks with equal
    `items` have equal groups."""
    shows_changes: bool = True
    """Whether one answer more, lost or gained, would show here; False of the other side of an unpaired difference,
    which would count it again."""

    def drawn(self) -> np.ndarray:
        """(seeds, what is drawn, k)."""
        x = np.asarray(self.values, dtype=float)
        x = x[..., None] if x.ndim == 2 else x
        return x if self.clusters is None else by_cluster(x, self.clusters)


def crossed(blocks: Sequence[Block], confidence: float = 0.95, seed: int = 0, draws: int = DRAWS) -> Mean:
    """The weighted mean of the blocks' differences, with seeds and items both resampled.

    Seeds and items are drawn independently of each other (the pigeonhole bootstrap: Owen 2007, doi:10.1214/07-AOAS122)
    and alike for every block that shares them. That counts a run's own chance twice, so its replicates are drawn in to
    the variance of `moments`; and a handful of seeds resampled know nothing of their own scarcity, so the percentile
    interval is widened, at either end, to where the t-type interval of `Moments.spread` reaches. One seed has no
    variance to show, so its interval speaks of items alone. p is the larger of the two ways'.
    """
    m = moments(blocks)
    drawn = replicates(blocks, draws, seed)[:, 0]
    value, spread = float(m.estimate[0]), m.spread(0)
    deviation = float(drawn.std(ddof=1))
    if deviation > spread.se > 0:
        drawn, deviation = value + (drawn - value) * (spread.se / deviation), spread.se
    half = spread.reach((1 + confidence) / 2)
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    p = max(p_zero(value, deviation, math.inf), min(1.0, 2 * spread.tail(abs(value))))
    low, high = min(float(low), value - half), max(float(high), value + half)
    return Mean(value, low, high, max(deviation, spread.se), spread.df, p if value else 1.0, spread)


@dataclass(frozen=True, slots=True)
class Moments:
    """What the two-way layout of seeds and items shows about k estimates."""

    estimate: np.ndarray
    """(k,)"""
    covariance: np.ndarray
    """(k, k) of the estimates."""
    df: np.ndarray
    """(k,) Satterthwaite's degrees of freedom of each variance."""
    by_seeds: np.ndarray
    """(k,) the part of each variance that differences between seeds show, one run's own chance included."""
    seeds_df: np.ndarray
    """(k,) degrees of freedom behind it; 0 with one seed."""
    by_items: np.ndarray
    """(k,) the part that differences between items show, one run's own chance included."""
    items_df: np.ndarray
    residual: np.ndarray
    """(k,) one run's own chance, which both of the parts above include."""
    unseen: np.ndarray
    """(k,) variance for changes that so few items happened not to show; 0 for graded scores."""

    def spread(self, k: int) -> Spread:
        """The error of the k-th estimate: seeds as they show, items without what seeds show already, and in all never
        less than what items alone show. Where scores are right or wrong, items show at least what they would with two
        more of them, one lost and one gained (Bonett & Price 2012): that nothing changed on 120 items does not prove
        that nothing ever will."""
        items = float(self.by_items[k])
        rest = max(0.0, items - float(self.residual[k]))
        least = items + float(self.unseen[k])
        return Spread(rest, float(self.items_df[k]), float(self.by_seeds[k]), float(self.seeds_df[k]), least)


def moments(blocks: Sequence[Block]) -> Moments:
    """Estimates and their variance by analysis of variance, no resampling.

    With d[s, i] = mean + a[s] + b[i] + e[s, i] the variance of the mean is var(a)/S + var(b)/I + var(e)/(S I). The
    seeds' means show the first and third term, the items' means the second and third, so the third, which the
    residuals show, is taken off once. The sum is never less than what the items' means alone show.
    """
    arrays = [b.drawn() for b in blocks]
    estimate = np.sum([b.weight * x.mean((0, 1)) for b, x in zip(blocks, arrays, strict=True)], axis=0)
    by_runs = _parts([b.runs for b in blocks], [b.weight * x.mean(1) for b, x in zip(blocks, arrays, strict=True)])
    by_items = _parts([b.items for b in blocks], [b.weight * x.mean(0) for b, x in zip(blocks, arrays, strict=True)])
    seeds, items = (np.sum([part for part, _ in parts], axis=0) for parts in (by_runs, by_items))
    cells = _groups([(b.runs, b.items) for b in blocks])
    summed = [np.sum([blocks[j].weight * arrays[j] for j in cell], axis=0) for cell in cells]
    residual = np.sum([_residual(x) for x in summed], axis=0)
    total = seeds + _positive(items - residual)
    total += _positive(items - total)
    freedom = [(np.diag(part) ** 2, n - 1) for part, n in (*by_runs, *by_items)]
    squares = np.sum([square / max(1, df) for square, df in freedom], axis=0)
    df = np.maximum(1.0, np.diag(total) ** 2 / np.where(squares > 0, squares, np.inf))
    several = np.array([n > 1 for _, n in by_runs]).any()
    seeds_df = _satterthwaite(by_runs) if several else np.zeros(len(estimate))
    unseen = np.sum([_unseen(blocks, arrays, group) for group in _groups(b.items for b in blocks)], axis=0)
    items_df = _satterthwaite(by_items)
    return Moments(estimate, total, df, np.diag(seeds), seeds_df, np.diag(items), items_df, np.diag(residual), unseen)


def _unseen(blocks: Sequence[Block], arrays: Sequence[np.ndarray], group: Sequence[int]) -> np.ndarray:
    """(k,) of the blocks in `group`, which share their items: by how much their variance over items would be larger
    with one more item lost and one gained, each in a cluster of its own where there are clusters."""
    total, weight = (
        np.sum([blocks[j].weight * arrays[j].mean(0) for j in group], axis=0),
        np.zeros(arrays[group[0]].shape[2]),
    )
    for j in group:
        raw = np.asarray(blocks[j].values, dtype=float).reshape(*blocks[j].values.shape[:2], -1)
        known = np.isin(raw, (-1.0, 0.0, 1.0)).all((0, 1)) & blocks[j].shows_changes
        weight = weight + abs(blocks[j].weight) * known
    items, drawn, mean = raw.shape[1], len(total), total.mean(0)
    apart = ((items / drawn) ** 2 - 1) * ((total - mean) ** 2).sum(0) + (items - drawn) * mean**2
    n = items + 2
    larger = ((total**2).sum(0) + apart + 2 * weight**2) / n - (items / drawn * total.sum(0) / n) ** 2
    return np.where(weight > 0, np.maximum(0.0, larger / n - np.diag(_mean_covariance(total))), 0.0)


def _parts(keys: Sequence[Hashable], means: Sequence[np.ndarray]) -> list[tuple[np.ndarray, int]]:
    """For each group of blocks with equal keys: the covariance (k, k) of their summed mean, and out of how many."""
    found = []
    for group in _groups(keys):
        rows = np.sum([means[j] for j in group], axis=0)
        found.append((_mean_covariance(rows), len(rows)))
    return found


def _satterthwaite(parts: Sequence[tuple[np.ndarray, int]]) -> np.ndarray:
    """(k,) degrees of freedom of a sum of independent variances."""
    total = np.sum([np.diag(part) for part, _ in parts], axis=0)
    squares = np.sum([np.diag(part) ** 2 / max(1, n - 1) for part, n in parts], axis=0)
    most = float(sum(max(1, n - 1) for _, n in parts))
    return np.where(squares > 0, total**2 / np.where(squares > 0, squares, 1.0), most)


def _groups(keys: Iterable[Hashable]) -> list[list[int]]:
    """Positions of equal keys, in the order in which a key first comes."""
    groups: dict[Hashable, list[int]] = {}
    for position, key in enumerate(keys):
        groups.setdefault(key, []).append(position)
    return list(groups.values())


def _mean_covariance(rows: np.ndarray) -> np.ndarray:
    """Covariance (k, k) of the mean of rows (n, k); zero where there is one row."""
    centred = rows - rows.mean(0)
    return centred.T @ centred / max(1, len(rows) - 1) / len(rows)


def _residual(x: np.ndarray) -> np.ndarray:
    """Covariance (k, k) of a block's mean that comes from the residuals e[s, i] alone."""
    seeds, items, k = x.shape
    if seeds < 2 or items < 2:
        return np.zeros((k, k))
    left = (x - x.mean(0) - x.mean(1, keepdims=True) + x.mean((0, 1))).reshape(-1, k)
    return left.T @ left / ((seeds - 1) * (items - 1) * seeds * items)


def _positive(matrix: np.ndarray) -> np.ndarray:
    """The nearest positive semidefinite matrix: a variance that came out negative counts as none."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.maximum(values, 0.0)) @ vectors.T


def replicates(blocks: Sequence[Block], draws: int, seed: int) -> np.ndarray:
    """(draws, k) bootstrap replicates of the estimates."""
    run_of, items_of = ({j: n for n, g in enumerate(_groups(keys)) for j in g} for keys in _keys(blocks))
    drawn: np.ndarray | float = 0.0
    for j, block in enumerate(blocks):
        values = block.drawn()
        if values.shape[1] > GROUPS:
            values = by_cluster(values, [item % GROUPS for item in range(values.shape[1])])
        x = values.astype(np.float32)  # (S, I, k)
        seeds = _shares(x.shape[0], draws, (seed, 0, run_of[j]))
        items = _shares(x.shape[1], draws, (seed, 1, items_of[j]))
        means = (items @ x.swapaxes(0, 1).reshape(x.shape[1], -1)).reshape(draws, x.shape[0], -1)  # (draws, S, k)
        drawn = drawn + block.weight * np.einsum("ds,dsk->dk", seeds, means)
    return np.asarray(drawn, dtype=float)


def _keys(blocks: Sequence[Block]) -> tuple[list[Hashable], list[Hashable]]:
    return [b.runs for b in blocks], [b.items for b in blocks]


@lru_cache(maxsize=16)
def _shares(n: int, draws: int, seed: tuple[int, ...]) -> np.ndarray:
    """(draws, n) shares of n things drawn n times with replacement; kept, so that comparisons share their draws."""
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws)
    return (counts / n).astype(np.float32)
