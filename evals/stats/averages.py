"""Averages over benchmarks whose scores do not begin at 0."""

from typing import TypeVar

import numpy as np

Scores = TypeVar("Scores", float, np.ndarray)


def centred(score: Scores, chance: float) -> Scores:
    """(score - chance) / (1 - chance): 0 is guessing, 1 is perfect, below 0 is worse than guessing.

    A two-way choice lives between 50 and 100%, so that in a plain mean a point of it counts half of what it is worth.
    ValueError where chance leaves nothing above it.
    """
    if not 0 <= chance < 1:
        raise ValueError(f"chance must be in [0, 1), not {chance}")
    return (score - chance) / (1 - chance)
