"""Histograms, Wilson's interval against statsmodels, ratios against a bootstrap."""

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from refinery.diagnostics._numbers import histogram, missing_extra, ratio_row, share_row, side_rows, wilson


def test_histogram_counts_what_lies_outside_at_its_ends():
    made = histogram(np.array([-3, 0, 0.5, 1, 7.0]), 0, 1)
    assert made["counts"] == [2, *[0] * 9, 1, *[0] * 8, 2] and made["edges"][:2] == [0, 0.05]


@pytest.mark.parametrize("count, n", [(0, 5), (5, 5), (1, 3), (37, 120), (499, 1000)])
def test_wilson_equals_statsmodels(count, n):
    assert wilson(count, n) == pytest.approx(proportion_confint(count, n, method="wilson"), abs=1e-9)


def test_no_rows():
    assert wilson(0, 0) == (None, None)
    assert share_row("f", "x", np.array([], dtype=bool))["value"] is None
    assert ratio_row("f", "x", np.array([]), np.array([]))["value"] is None


def test_sides():
    rows = {r["name"]: r for r in side_rows("f", "x", np.array([True, False, True, False]), np.array([True] * 4))}
    assert (rows["x_raw"]["value"], rows["x_refined"]["value"], rows["x_change"]["value"]) == (0.5, 1, 0.5)
    assert rows["x_raw"]["detail"]["count"] == 2


def test_ratio_interval_agrees_with_a_bootstrap_over_rows():
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 60, 400).astype(float)
    few = rng.binomial(lengths.astype(int), rng.beta(2, 10, 400)).astype(float)
    made = ratio_row("f", "x", few, lengths)
    draws = rng.integers(0, 400, (4000, 400))
    theirs = np.quantile(few[draws].sum(1) / lengths[draws].sum(1), [0.025, 0.975])
    assert made["value"] == few.sum() / lengths.sum()
    assert (made["low"], made["high"]) == pytest.approx(tuple(theirs), abs=0.1 * (theirs[1] - theirs[0]))


def test_a_missing_library_is_named_with_its_extra():
    assert missing_extra("json") == ""
    assert missing_extra("nothing_of_that_name") == 'needs nothing_of_that_name: pip install "refinery[diagnose]"'
