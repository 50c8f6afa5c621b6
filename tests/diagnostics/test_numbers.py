"""The sample of pairs that large sets are measured on."""

import numpy as np
from scipy import stats

from refinery.diagnostics._numbers import histogram, pick


def test_a_sample_is_told_by_its_texts_not_by_their_place():
    raw = [f"answer {i}" for i in range(1000)]
    chosen = pick(raw, 100, seed=0)
    assert len(set(chosen.tolist())) == 100 and (np.diff(chosen) > 0).all()
    back = pick(raw[::-1], 100, seed=0)
    assert {raw[i] for i in chosen} == {raw[::-1][i] for i in back}
    assert set(pick(raw, 100, seed=1)) != set(chosen)
    half = pick(raw[:500], 100, seed=0)
    assert {i for i in chosen if i < 500} <= set(half)
    assert pick(raw, 1000, seed=0).tolist() == list(range(1000))


def test_equal_answers_are_drawn_by_chance_too():
    raw = ["yes", "no"] * 2000
    share = np.mean([raw[i] == "yes" for i in pick(raw, 1000, seed=0)])
    assert stats.binomtest(round(share * 1000), 1000, 0.5).pvalue > 0.001
    assert len(pick(["yes", "\ud800"] * 50, 10, seed=0)) == 10


def test_histogram_counts_what_lies_outside_at_its_ends():
    made = histogram(np.array([-3, 0, 0.5, 1, 7.0]), 0, 1)
    assert made["counts"] == [2, *[0] * 9, 1, *[0] * 8, 2] and made["edges"][:2] == [0, 0.05]
