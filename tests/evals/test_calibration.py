"""ECE and Brier score against scikit-learn and against closed forms."""

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from evals import stats
from evals.stats.calibration import BINS

RNG = np.random.default_rng(0)


def test_softmax_of_log_likelihoods_far_below_zero() -> None:
    assert stats.softmax([-1000.0, -1000.0 - np.log(3)]) == pytest.approx([0.75, 0.25])


def test_ece_is_scikit_learns_curve_weighed_by_its_bins() -> None:
    """Their bins are closed on the left, ours on the right, so no confidence lies on an edge here."""
    sure = RNG.uniform(0.2, 1.0, 700)
    right = (RNG.uniform(size=700) < sure**2).astype(float)
    shares, means = calibration_curve(right, sure, n_bins=BINS, strategy="uniform")
    counts = np.histogram(sure, np.linspace(0, 1, BINS + 1))[0]
    wanted = float((np.abs(shares - means) * counts[counts > 0]).sum() / 700)
    value, low, high = stats.ece(sure, right)
    assert value == pytest.approx(wanted, abs=1e-12) and low < value < high


def test_ece_in_closed_form() -> None:
    """Always sure at 0.9 and right in 6 of 10: off by 0.3; in two bins the distances are added by their share."""
    assert stats.ece([0.9] * 10, [1] * 6 + [0] * 4)[0] == pytest.approx(0.3)
    assert stats.ece([0.9] * 10 + [0.5] * 10, [1] * 6 + [0] * 4 + [1] * 10)[0] == pytest.approx(0.5 * 0.3 + 0.5 * 0.5)
    assert stats.ece([1.0, 0.0], [1, 0]) == (0.0, 0.0, 0.0)


def test_the_interval_holds_the_truth_where_there_are_many_items() -> None:
    """Sure at 0.95, right in 0.7: the true error is 0.25, and one bin has no bias to speak of."""
    held = 0
    for _ in range(100):
        _, low, high = stats.ece(np.full(400, 0.95), RNG.uniform(size=400) < 0.7)
        held += low <= 0.25 <= high
    assert held >= 88


@pytest.mark.parametrize("choices", [2, 4])
def test_brier_is_scikit_learns(choices: int) -> None:
    chances = RNG.dirichlet(np.ones(choices), 300)
    gold = RNG.integers(0, choices, 300)
    wanted = brier_score_loss(gold, chances, scale_by_half=False, labels=list(range(choices)))
    assert stats.brier(list(chances), list(gold)).value == pytest.approx(wanted)


def test_nothing_is_no_number() -> None:
    with pytest.raises(ValueError, match="at least one item"):
        stats.ece([], [])
