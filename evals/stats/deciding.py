"""From intervals to decisions: families of tests, claims of "no worse", and what a comparison could have found."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats as distributions

from evals.stats.means import Mean


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, in the order given: reject where one is at most the family's level."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    raised = np.minimum(1.0, np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p)))))
    adjusted = np.empty_like(p)
    adjusted[order] = raised
    return [float(x) for x in adjusted]


def noninferiority(difference: Mean, margin: float) -> float:
    """One-sided p value of "worse by `margin` or more": small means not worse by that much."""
    return difference.tail(difference.value + margin)


def equivalence(difference: Mean, margin: float) -> float:
    """p value of two one-sided tests: small means that the difference lies within (-margin, margin)."""
    return max(difference.tail(difference.value + margin), difference.tail(margin - difference.value))


def detectable(se: float, df: float = math.inf, power: float = 0.8, confidence: float = 0.95) -> float:
    """The smallest true difference that a comparison with this standard error finds with this power."""
    return se * float(distributions.t.ppf((1 + confidence) / 2, df) + distributions.t.ppf(power, df))


def detectable_by(difference: Mean, power: float = 0.8, confidence: float = 0.95) -> float:
    """The same of a comparison that was made: what to print beside a difference that was not found."""
    if math.isnan(difference.se):
        return math.nan
    return max(difference.reach((1 + confidence) / 2), _half(difference)) + difference.reach(power)


def _half(difference: Mean) -> float:
    return (difference.high - difference.low) / 2


def detectable_accuracy(n: int, accuracy: float, correlation: float = 0.0, power: float = 0.8) -> float:
    """The same before anything is run: one run each of two models on n items; 0 correlation means unpaired."""
    return detectable(math.sqrt(2 * accuracy * (1 - accuracy) * (1 - correlation) / n), power=power)
