"""One estimate: its mean, its error, its interval: of proportions, graded scores, and items that come in groups."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import optimize, special
from scipy import stats as distributions

NODES = 64
"""Points at which an unknown variance is integrated out."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How far an estimate may lie from the truth: a normal error whose variance is itself estimated, in two parts.

    What items show of the variance rests on many of them, what seeds show on three or five. Both variances are treated
    as unknown, each with its own degrees of freedom (a generalized pivot: Hamada & Weerahandi 2000). With one part this
    is Student's t; with both it lies between, and never trusts a handful of seeds that happen to agree as if that had
    been known beforehand, which Satterthwaite's single number of degrees of freedom does.
    """

    items: float
    """Variance that rests on items."""
    items_df: float = math.inf
    seeds: float = 0.0
    """Variance that rests on seeds."""
    seeds_df: float = 0.0
    """0: one seed, nothing to see."""
    least: float = 0.0
    """What items alone show of the variance, with `items_df`: no tail is thinner than this one's, however well a
    handful of seeds agree."""

    @property
    def se(self) -> float:
        return math.sqrt(max(self.least, self.items + self.seeds))

    @property
    def df(self) -> float:
        """Satterthwaite's, for those who want one number."""
        total = max(self.least, self.items + self.seeds)
        parts = max(self.items, total - self.seeds) ** 2 / self.items_df
        parts += self.seeds**2 / self.seeds_df if self.seeds_df else 0.0
        return max(1.0, total**2 / parts) if parts > 0 else math.inf

    def tail(self, distance: float) -> float:
        """Probability of an error larger than `distance`, in one direction."""
        if self.se == 0:
            return 0.0 if distance > 0 else 0.5 if distance == 0 else 1.0
        weights, variance, df = self._mixture()
        both = float(weights @ special.stdtr(df, -distance / np.sqrt(np.maximum(variance, 1e-300))))
        if not self.least:
            return both
        alone = float(special.stdtr(min(self.items_df, 1e6), -distance / math.sqrt(self.least)))
        return max(both, alone) if distance > 0 else min(both, alone)

    def reach(self, share: float) -> float:
        """The distance that a share (over one half) of errors does not exceed, in one direction."""
        if self.se == 0:
            return 0.0
        high = self.se * float(distributions.norm.ppf(share))
        while self.tail(high) > 1 - share:
            high *= 2
        return float(optimize.brentq(lambda x: self.tail(x) - (1 - share), 0.0, high, rtol=1e-8))

    def _mixture(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Weights, variances and degrees of freedom of the t distributions that the error is a mixture of."""
        if not (self.seeds_df and self.seeds):
            return np.ones(1), np.array([self.items]), np.array([min(self.items_df, 1e6)])
        weights, chi_squared = _quadrature(self.seeds_df)
        variance = self.items + self.seeds * self.seeds_df / np.maximum(chi_squared, 1e-300)
        if not self.items:
            return weights, variance, np.full(len(variance), 1e6)
        with np.errstate(over="ignore"):
            return weights, variance, np.minimum(self.items_df * (variance / self.items) ** 2, 1e6)


@lru_cache(maxsize=256)
def _quadrature(df: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights, and values of a chi-squared variable; dense where it is small, which is what makes the tails."""
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    u, power = (nodes + 1) / 2, 4
    return power * u ** (power - 1) * weights / 2, distributions.chi2.ppf(u**power, df)


@dataclass(frozen=True, slots=True)
class Mean:
    """An estimated mean (of differences) with its interval and the p value of its being zero."""

    value: float
    low: float
    high: float
    se: float
    df: float
    p: float
    spread: Spread | None = None
    """What the tails are made of, where they are not those of t with `se` and `df`."""

    def tail(self, distance: float) -> float:
        """Probability of an error larger than `distance`, in one direction."""
        return (self.spread or Spread(self.se**2, self.df)).tail(distance)

    def reach(self, share: float) -> float:
        """The distance that such a share of errors does not exceed, in one direction."""
        return (self.spread or Spread(self.se**2, self.df)).reach(share)


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio with its Fieller interval; not `bounded` means that the denominator may well be zero."""

    value: float
    low: float
    high: float
    bounded: bool


def wilson(successes: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion: inside [0, 1], and with a width even at 0 or n successes."""
    if n == 0:
        return math.nan, math.nan
    z, p = quantile_z(confidence), successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, min(centre - half, p)), min(1.0, max(centre + half, p))


def t_mean(values: Sequence[float] | np.ndarray, confidence: float = 0.95) -> Mean:
    """Student's interval of a mean: of one model's graded scores over items, or of paired differences over seeds.

    With one value, and with values that are all equal, there is nothing to estimate a spread from: the first gives
    NaN bounds, the second an interval without width.
    """
    x = np.asarray(values, dtype=float)
    if x.size < 2:
        return Mean(float(x.mean()) if x.size else math.nan, math.nan, math.nan, math.nan, math.nan, math.nan)
    se, df = float(x.std(ddof=1)) / math.sqrt(x.size), x.size - 1
    return around(float(x.mean()), se, df, confidence)


def by_cluster(values: np.ndarray, clusters: Sequence[Hashable]) -> np.ndarray:
    """(seeds, items[, k]) scores as (seeds, clusters[, k]): one number for each group of items that share a context.

    The numbers have the same mean as the items, and the variance of that mean over them is the cluster-robust one
    (Liang & Zeger 1986, with the factor C / (C - 1)), so that everything else may take clusters for items. Where every
    item is its own cluster nothing changes. A number is no mean score of its cluster: large clusters weigh more.
    """
    x = np.asarray(values, dtype=float)
    names = {name: place for place, name in enumerate(dict.fromkeys(clusters))}
    if len(names) == x.shape[1]:
        return x
    places = np.array([names[name] for name in clusters])
    centre, order = x.mean((0, 1)), np.argsort(places, kind="stable")
    first = np.searchsorted(places[order], np.arange(len(names)))
    sums = np.add.reduceat((x - centre)[:, order], first, axis=1)
    return sums * (len(names) / x.shape[1]) + centre


def cluster_mean(values: Sequence[float] | np.ndarray, clusters: Sequence[Hashable], confidence: float = 0.95) -> Mean:
    """One model's mean over items that come in clusters, with the t interval of as many clusters as there are."""
    found = by_cluster(np.asarray(values, dtype=float)[None, :], clusters)[0]
    return t_mean(found, confidence)


def around(value: float, se: float, df: float, confidence: float) -> Mean:
    """Student's interval about a value."""
    half = float(distributions.t.ppf((1 + confidence) / 2, df)) * se
    return Mean(value, value - half, value + half, se, df, p_zero(value, se, df))


def p_zero(value: float, se: float, df: float) -> float:
    """Two-sided p value of the truth being zero."""
    if se == 0:
        return 1.0 if value == 0 else 0.0
    return float(2 * distributions.t.sf(abs(value) / se, df))


def quantile_z(confidence: float) -> float:
    return float(distributions.norm.ppf((1 + confidence) / 2))
