"""Tasks learnt one after the other: what was kept, what came back, what helped.

R[i, j] is the score on task j after stage i; row 0 is the base, and stage j (from 1) is the one that learns the j-th
task. Formulas: Lopez-Paz & Ranzato 2017 (arXiv 1706.08840, section 3), Chaudhry et al. 2018 (arXiv 1801.10112, section
3), with the base where they have a random start.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from evals.stats.means import Mean, t_mean


@dataclass(frozen=True, slots=True)
class Continual:
    """Five measures of one sequence, each a mean over the seeds with the t interval over them."""

    accuracy: Mean
    """Over tasks, after the last stage."""
    backward_transfer: Mean
    """Change of a task since it was learnt: below 0 is forgetting."""
    forward_transfer: Mean
    """Change of a task against the base by the stages before its own. With one task there is none."""
    forgetting: Mean
    """Loss since a task's own stage: what backward transfer is with the sign turned."""
    forgetting_from_best: Mean
    """Loss since a task was at its best before the last stage, whichever stage that was: the usual measure, but the
    best of several noisy scores is too good, so it is above 0 even where nothing is forgotten."""


def continual(scores: np.ndarray) -> Continual:
    """`scores` (seeds, stages + 1, tasks), with as many stages as tasks. NaN where a measure has no task to speak of.
    ValueError for another shape."""
    r = np.asarray(scores, dtype=float)
    if r.ndim != 3 or r.shape[1] != r.shape[2] + 1:
        raise ValueError(f"scores must be (seeds, stages + 1, tasks) with a stage for each task, not {r.shape}")
    return Continual(*(t_mean([f(each) for each in r]) for f in _MEASURES))


def average_accuracy(r: np.ndarray) -> float:
    """Of one sequence R (T + 1, T): mean over tasks j of R[T, j]."""
    return float(r[-1].mean())


def backward_transfer(r: np.ndarray) -> float:
    """mean over j < T of R[T, j] - R[j, j]."""
    last = r.shape[1]
    return _mean(np.array([r[last, j] - r[j + 1, j] for j in range(last - 1)]))


def forward_transfer(r: np.ndarray) -> float:
    """mean over j >= 2 of R[j - 1, j] - R[0, j]."""
    return _mean(np.array([r[j, j] - r[0, j] for j in range(1, r.shape[1])]))


def forgetting(r: np.ndarray) -> float:
    """mean over j < T of R[j, j] - R[T, j]."""
    return 0.0 - backward_transfer(r)


def forgetting_from_best(r: np.ndarray) -> float:
    """mean over j < T of max over stages l < T (the base too) of R[l, j] - R[T, j]."""
    last = r.shape[1]
    return _mean(r[:last, : last - 1].max(0) - r[last, : last - 1])


def normalised(scores: np.ndarray) -> np.ndarray:
    """Each task's curve from 0 (base) to 1 (the best that this sequence reached): (stages + 1, tasks). NaN for a task
    that never rose above the base (SDFT, arXiv 2601.19897)."""
    r = np.asarray(scores, dtype=float)
    rise = r.max(0) - r[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(rise > 0, (r - r[0]) / rise, math.nan)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan


_MEASURES: tuple[Callable[[np.ndarray], float], ...] = (
    average_accuracy,
    backward_transfer,
    forward_transfer,
    forgetting,
    forgetting_from_best,
)
