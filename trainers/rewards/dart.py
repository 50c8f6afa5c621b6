"""The reward of a mapper that adapts demonstrations to the model that will learn from them (DART, arXiv:2605.26924).

The paper's formula is not public to us: its abstract names a distribution-alignment reward and an anti-cheating
penalty. What stands here is a formulation of ours along those lines, with RLT's learnability (arXiv:2506.08388) as an
option. x the question, y the original demonstration, y' the rewrite, a the answer, π₀ the frozen target that sees the
question alone, ℓ(y|x) = (1/|y|) Σ_t log π₀(y_t | x, y_<t):

    R = g · (1 + w_A · A + w_L · L) - Σ_j c_j · P_j
    A = clip( (ℓ(y'|x) - ℓ(y|x)) / s, -1, 1 )            s: robust_scale of ℓ(y|x) over the training rows
    L = clip( log π₀(a | x, reasoning of y') - log π₀(a | x), -5, 5 ) / 5        means over the answer's tokens

g is 1 where y' gives the answer that it must give, else 0: then only the penalties are left. A measures the gain over
the original, so that doing nothing is worth exactly 0. The penalties P_j in [0, 1] (trainers/rewards/texts.py and
`easy` below) are for what raises a likelihood without being a better demonstration.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

PENALTIES = ("leak", "length", "repetition", "copy", "meta", "skip", "easy")


@dataclass(frozen=True)
class Weights:
    """w_A, w_L and the costs c_j by the penalty's name."""

    alignment: float
    learnability: float
    costs: Mapping[str, float]


def robust_scale(values: Sequence[float], floor: float = 0.05) -> float:
    """1.4826 times the median absolute deviation from the median, `floor` at least: the standard deviation of normal
    values, whatever a few outliers do."""
    middle = statistics.median(values)
    return max(floor, 1.4826 * statistics.median(abs(value - middle) for value in values))


def alignment(rewritten: float, original: float, scale: float) -> float:
    """A, from the mean log-likelihoods of y' and y."""
    return min(1.0, max(-1.0, (rewritten - original) / scale))


def learnability(after: float, before: float, most: float = 5.0) -> float:
    """L, from the answer's mean log-likelihood after the reasoning of y' and right after the question."""
    return min(most, max(-most, after - before)) / most


def easy(rewritten: float, bound: float | None) -> float:
    """1 where y' is likelier per token than nearly all of the target's own right answers (`bound`, their 95th
    percentile): suspiciously so. 0 without a bound."""
    return float(bound is not None and rewritten > bound)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    rank = next(i for i in range(1, len(ordered) + 1) if i >= share * len(ordered))
    return ordered[rank - 1]


def reward(gate: bool, a: float, learn: float, penalties: Mapping[str, float], weights: Weights) -> float:
    """R. `a` and `learn` are not looked at without the gate."""
    value = 1.0 + weights.alignment * a + weights.learnability * learn if gate else 0.0
    return value - sum(weights.costs[name] * penalty for name, penalty in penalties.items())
