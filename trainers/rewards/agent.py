"""The reward of the rewriting agent ("Patch the Distribution Mismatch", arXiv:2602.11220), of a whole group at once.

Of K rewrites of one answer, v_ans says which give the reference's final answer, v_rea which of these a judge takes for
sound. ℓ_k is the mean negative log-likelihood of rewrite k under the frozen model that sees the question alone, and
D(S) the mean of (1 - cos)/2 over all pairs of S. With the hard gate (the paper's), F = {k : v_ans · v_rea = 1}:

    r_k = v_k · (1 + λ_dist · dist_k + λ_div · div_k),      v_k = v_ans · v_rea
    dist_k = 1 / (1 + exp((ℓ_k - μ_F) / (σ_F + ε)))         μ, σ over F (population); 1/2 where F has one member
    div_k = max(0, D(F) - D(F without k))                   0 where F has one member

With the soft gate r_k = a · v_ans + b · v_rea + λ_dist · dist_k + λ_div · div_k, F being all that say anything; with
none the first two terms are absent too.

The released code adds ε to σ twice, which is of no consequence and not done here. Its training loop hands it one
rewrite at a time, whereupon dist_k is 1/2 and div_k is 0 always: here a reward is only ever computed of a whole group.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Gate = Literal["hard", "soft", "none"]
Alignment = Literal["sigmoid", "rank", "raw"]
Spread = Literal["none", "rank", "minmax", "zscore"]
EPSILON = 1e-6


@dataclass(frozen=True)
class How:
    """λ_dist, λ_div, and the choices."""

    alignment_weight: float = 0.35
    diversity_weight: float = 0.5
    gate: Gate = "hard"
    answer_share: float = 0.5
    reason_share: float = 0.5
    """a and b of the soft gate."""
    alignment: Alignment = "sigmoid"
    spread: Spread = "none"
    """How the diversity of a member is scaled within its group."""


@dataclass(frozen=True)
class Member:
    """One rewrite of a group."""

    answer: bool | None
    """v_ans; None where the check could not tell."""
    reason: bool | None
    """v_rea, looked at where v_ans holds (and always under the soft gate); None where the judge could not tell."""
    nll: float | None
    """ℓ; None of a text without tokens."""


@dataclass(frozen=True)
class Parts:
    """One member's reward, and what it is made of; the terms are None outside F, the reward where it is unknown."""

    reward: float | None
    dist: float | None = None
    div: float | None = None


def feasible(members: Sequence[Member], how: How) -> list[int]:
    """F, the places of those that are compared with one another."""
    if how.gate == "hard":
        return [i for i, m in enumerate(members) if m.answer and m.reason and m.nll is not None]
    return [i for i, m in enumerate(members) if m.nll is not None]


def group_rewards(members: Sequence[Member], distances: Sequence[Sequence[float]], how: How) -> list[Parts]:
    """Each member's reward. `distances` (|F| x |F|): (1 - cos)/2 of the members of F, in the order of `feasible`."""
    chosen = feasible(members, how)
    dist = dict(zip(chosen, closeness([_known(members[i].nll) for i in chosen], how.alignment), strict=True))
    div = dict(zip(chosen, scaled(marginals(distances), how.spread), strict=True))
    return [_one(member, dist.get(i), div.get(i), how) for i, member in enumerate(members)]


def _one(member: Member, dist: float | None, div: float | None, how: How) -> Parts:
    bonus = how.alignment_weight * (dist or 0.0) + how.diversity_weight * (div or 0.0)
    if how.gate == "none":
        return Parts(bonus, dist, div)
    if how.gate == "hard":
        unknown = member.answer is None or (member.answer and member.reason is None)
        if unknown:
            return Parts(None)
        return Parts(0.0 if dist is None else 1.0 + bonus, dist, div)
    if member.answer is None or member.reason is None:
        return Parts(None, dist, div)
    return Parts(how.answer_share * member.answer + how.reason_share * member.reason + bonus, dist, div)


def _known(value: float | None) -> float:
    assert value is not None
    return value


def closeness(nll: Sequence[float], kind: Alignment = "sigmoid") -> list[float]:
    """dist of each member of F. rank: the share of the others that are less likely, ties half; raw: -ℓ."""
    if kind == "raw":
        return [-value for value in nll]
    if kind == "rank":
        return _ranks([-value for value in nll])
    if len(nll) < 2:
        return [0.5] * len(nll)
    mean = sum(nll) / len(nll)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in nll) / len(nll))
    return [_sigmoid((mean - value) / (deviation + EPSILON)) for value in nll]


def marginals(distances: Sequence[Sequence[float]]) -> list[float]:
    """max(0, D(F) - D(F without k)), by its closed form: 2 (d_k - D) / (m - 2) for m >= 3 members, where d_k is the
    mean distance from k to the others. Of two members each is worth D, since one alone has no diversity."""
    m = len(distances)
    if m < 2:
        return [0.0] * m
    means = [sum(row) / (m - 1) for row in distances]  # the diagonal is 0
    whole = sum(means) / m
    if m == 2:
        return [whole, whole]
    return [max(0.0, 2 * (mean - whole) / (m - 2)) for mean in means]


def scaled(values: Sequence[float], kind: Spread) -> list[float]:
    """Marginals as they are (the paper's: at ten members some hundredths at most), or brought to [0, 1] in the group:
    by rank, between the least and the greatest, or by the sigmoid of their z-score."""
    if kind == "none" or not values:
        return list(values)
    if kind == "rank":
        return _ranks(values)
    low, high = min(values), max(values)
    if kind == "minmax":
        return [(value - low) / (high - low) if high > low else 0.0 for value in values]
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
    return [_sigmoid((value - mean) / (deviation + EPSILON)) for value in values]


def _ranks(values: Sequence[float]) -> list[float]:
    """The share of the others that are lower, ties counting half; 1/2 of a single value."""
    others = len(values) - 1
    if others == 0:
        return [0.5]
    return [
        (sum(other < value for other in values) + (sum(other == value for other in values) - 1) / 2) / others
        for value in values
    ]


def _sigmoid(value: float) -> float:
    """Without overflow: z-scores of equal values over a tiny deviation can be large."""
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))
