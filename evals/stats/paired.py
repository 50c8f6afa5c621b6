"""Two models on the same items: what was lost and gained, whether that could be chance, and how large it is."""

import itertools
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats as distributions

EXACT = 16
"""Up to so many clusters all ways of flipping their signs are tried."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Items on which two runs differ, first against second."""

    lost: int
    """The first scored higher."""
    gained: int
    """The second scored higher."""
    n: int

    @property
    def mcnemar(self) -> float:
        return mcnemar(self.lost, self.gained)


def changes(first: np.ndarray, second: np.ndarray) -> Changes:
    """Of two runs' scores on the same items (n,)."""
    return Changes(int((first > second).sum()), int((second > first).sum()), len(first))


def mcnemar(lost: int, gained: int) -> float:
    """Exact two-sided p value that `lost` and `gained` items are equally likely (one run against one run)."""
    n = lost + gained
    return 1.0 if n == 0 else min(1.0, 2 * float(distributions.binom.cdf(min(lost, gained), n, 0.5)))


def odds_ratio(lost: int, gained: int, confidence: float = 0.95) -> tuple[float, float, float]:
    """(value, low, high): how many items were gained for each that was lost.

    The interval is exact given how many changed at all (Clopper & Pearson on the share gained): it holds 1 where
    `mcnemar` finds no difference. NaN where nothing changed; infinite where nothing was lost.
    """
    n, half = lost + gained, (1 - confidence) / 2
    if n == 0:
        return math.nan, math.nan, math.nan
    low = float(distributions.beta.ppf(half, gained, lost + 1)) if gained else 0.0
    high = float(distributions.beta.ppf(1 - half, gained + 1, lost)) if lost else 1.0
    return _odds(gained / n), _odds(low), _odds(high)


def _odds(share: float) -> float:
    return share / (1 - share) if share < 1 else math.inf


def cohens_h(first: float, second: float) -> float:
    """Difference of two proportions on the scale on which all are equally uncertain: 0.2 is small, 0.8 large. Positive
    where the second is larger (Cohen 1988)."""
    return 2 * math.asin(math.sqrt(second)) - 2 * math.asin(math.sqrt(first))


def cohens_d(differences: np.ndarray) -> float:
    """Mean of paired differences over their standard deviation (d_z), for graded scores; NaN where none varies."""
    x = np.asarray(differences, dtype=float).ravel()
    spread = float(x.std(ddof=1)) if x.size > 1 else 0.0
    return float(x.mean()) / spread if spread else math.nan


def sign_flip(
    differences: np.ndarray, clusters: Sequence[Hashable] | None = None, draws: int = 10_000, seed: int = 0
) -> float:
    """Two-sided p value that either model might as well have been the other, cluster by cluster.

    `differences` (items,), or (seeds, items): a cluster's items keep together, and so do an item's seeds, so that the
    p value is about other items under these same seeds; `crossed` asks about both. Exact for EXACT clusters or fewer,
    else from `draws` random flips, the observed one counted, so never 0.
    """
    x = np.atleast_2d(np.asarray(differences, dtype=float)).mean(0)
    if clusters is not None:
        names = {name: place for place, name in enumerate(dict.fromkeys(clusters))}
        x = np.bincount([names[name] for name in clusters], weights=x, minlength=len(names))
    observed = abs(x.sum()) * (1 - 1e-12)
    if len(x) <= EXACT:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=len(x))))
        return float((np.abs(signs @ x) >= observed).mean())
    rng, least, done = np.random.default_rng(seed), 1, 0
    while done < draws:  # in pieces, so that memory does not grow with the items
        some = min(500, draws - done)
        signs = rng.integers(0, 2, (some, len(x)), dtype=np.int8) * 2 - 1
        least += int((np.abs(signs @ x) >= observed).sum())
        done += some
    return least / (draws + 1)
