"""Whether a model's sureness of a choice is worth what it says: expected calibration error and Brier score.

Plug-in ECE is never negative and lies above the truth by about the noise of a bin, so a well calibrated model has some
on few items; it is for comparing models on the same items, not for proving that one is calibrated.
"""

from collections.abc import Sequence

import numpy as np

from evals.stats.means import Mean, t_mean

BINS = 15
"""Of equal width over [0, 1] (Guo et al. 2017, arXiv:1706.04599)."""
DRAWS = 1000
CHUNK = 100


def softmax(logprobs: Sequence[float]) -> np.ndarray:
    """Log-likelihoods of the choices as probabilities among them."""
    values = np.asarray(logprobs, dtype=float)
    each = np.exp(values - values.max())
    return np.asarray(each / each.sum())


def ece(sure: Sequence[float], right: Sequence[float], bins: int = BINS, seed: int = 0) -> tuple[float, float, float]:
    """(value, low, high) of the expected calibration error: the mean distance of share right and mean confidence over
    bins of confidence, weighed by their items, with the 95% percentile interval of a bootstrap over items.

    `sure`: the probability of the choice that was taken, (n,); `right`: 1 where it was the right one, else 0. A bin
    holds its upper end, and the first one 0 as well. ValueError without items or of unequal lengths.
    """
    confidence, correct = np.asarray(sure, dtype=float), np.asarray(right, dtype=float)
    if confidence.shape != correct.shape or not len(confidence):
        raise ValueError("ece needs a confidence and an outcome for each of at least one item")
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.zeros((len(confidence), bins))
    gaps[np.arange(len(confidence)), place] = confidence - correct
    value = float(np.abs(gaps.sum(0)).sum() / len(confidence))
    rng, n = np.random.default_rng(seed), len(confidence)
    even = np.full(n, 1 / n)
    drawn = np.concatenate(
        [np.abs(rng.multinomial(n, even, size=CHUNK) @ gaps).sum(1) / n for _ in range(DRAWS // CHUNK)]
    )
    low, high = np.quantile(drawn, [0.025, 0.975])
    return value, float(low), float(high)


def brier(chances: Sequence[np.ndarray], gold: Sequence[int]) -> Mean:
    """Brier's score over all choices (Brier 1950): the squared distance of the probabilities from 1 for the right
    choice and 0 for the others, 0 to 2, its mean over items with a t interval."""
    each = []
    for chance, right in zip(chances, gold, strict=True):
        truth = np.zeros(len(chance))
        truth[right] = 1.0
        each.append(float(((chance - truth) ** 2).sum()))
    return t_mean(each)
