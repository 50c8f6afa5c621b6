"""Ratios of two estimates that are both uncertain, by Fieller's theorem."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import stats as distributions

from evals.stats.crossing import Block, moments
from evals.stats.means import Ratio, quantile_z


def fieller(
    numerator: float, denominator: float, covariance: np.ndarray, df: float = math.inf, confidence: float = 0.95
) -> Ratio:
    """Fieller's set for numerator / denominator: all r for which numerator - r * denominator may be zero.

    `covariance` (2, 2) is that of the two estimates. Where the denominator cannot be told from zero the set is
    unbounded: no interval is given then, because any end would be made up.
    """
    return _within(numerator, denominator, covariance, float(distributions.t.ppf((1 + confidence) / 2, df)))


def _within(numerator: float, denominator: float, covariance: np.ndarray, errors: float) -> Ratio:
    """All r for which numerator - r * denominator lies within so many standard errors of zero."""
    q = errors**2
    a = denominator**2 - q * covariance[1, 1]
    b = numerator * denominator - q * covariance[0, 1]
    c = numerator**2 - q * covariance[0, 0]
    value = numerator / denominator if denominator else math.nan
    if a <= 0:
        return Ratio(value, math.nan, math.nan, False)
    root = math.sqrt(max(0.0, b * b - a * c))
    return Ratio(value, (b - root) / a, (b + root) / a, True)


def crossed_ratio(blocks: Sequence[Block], confidence: float = 0.95) -> Ratio:
    """Ratio of the two quantities in blocks of shape (seeds, items, 2), summed over blocks, by Fieller.

    Pooling is a ratio of sums, never a mean of ratios: with little damage on one benchmark its own ratio is noise.
    The covariance is that of `moments`, over seeds and items, and a bound lies as many standard errors away as the
    t-type interval of the crossed mean reaches, so that few seeds count as few.
    """
    m = moments(blocks)
    numerator, denominator = (float(x) for x in m.estimate)
    if denominator == 0:
        return Ratio(math.nan, math.nan, math.nan, False)
    axes = np.array([[1.0, -numerator / denominator], [0.0, 1.0]])  # numerator - ratio * denominator; denominator
    turned = moments([replace(b, values=np.asarray(b.values, dtype=float) @ axes.T) for b in blocks])
    spreads = [spread for spread in (turned.spread(0), turned.spread(1)) if spread.se > 0]
    errors = max((s.reach((1 + confidence) / 2) / s.se for s in spreads), default=quantile_z(confidence))
    return _within(numerator, denominator, m.covariance, errors)
