"""Lengths against numpy, scipy.stats and a bootstrap."""

import numpy as np
import pytest
from scipy import stats

from refinery.diagnostics import length
from refinery.diagnostics._numbers import t_975
from refinery.diagnostics._pairs import paired

RNG = np.random.default_rng(3)
RAW = [" ".join(["word"] * int(k)) for k in RNG.integers(0, 60, 400)]
REFINED = [t + "\n\n more" * int(k) for t, k in zip(RAW, RNG.integers(0, 25, 400), strict=True)]


class Tokenizer:
    """One token per three characters, rounded up."""

    def __call__(self, texts, **settings):
        assert settings == {"add_special_tokens": False, "truncation": False, "verbose": False}
        return {"input_ids": [[0] * -(-len(t) // 3) for t in texts]}


def test_every_row_against_numpy_and_scipy():
    rows = {r["name"]: r for r in length.measure(paired(RAW, REFINED), tokenizer=Tokenizer())}
    counts = {
        "words": (lambda t: len(t.split())),
        "characters": len,
        "sentence": (lambda t: len(t.split()) / max(1, len([p for p in t.split("\n") if p.strip()]))),
        "tokens": (lambda t: -(-len(t) // 3)),
    }
    assert set(rows) == {
        f"{unit}_{name}"
        for unit in counts
        for name in (
            "ratio",
            "ks",
            "wasserstein",
            *(f"{s}_{m}" for s in ("raw", "refined") for m in ("mean", "median", "p95")),
        )
    }
    for unit, count in counts.items():
        x, y = [[count(t) for t in side] for side in (RAW, REFINED)]
        for side, values in (("raw", x), ("refined", y)):
            mean = rows[f"{unit}_{side}_mean"]
            assert mean["value"] == pytest.approx(np.mean(values))
            interval = stats.t.interval(0.95, 399, np.mean(values), stats.sem(values))
            assert (mean["low"], mean["high"]) == pytest.approx(interval, rel=1e-5)
            assert rows[f"{unit}_{side}_median"]["value"] == np.median(values)
            assert rows[f"{unit}_{side}_p95"]["value"] == pytest.approx(np.percentile(values, 95))
            bins = rows[f"{unit}_ratio"]["detail"]["histogram"][side]
            assert sum(bins["counts"]) == 400 and bins["edges"][0] == 0
        assert rows[f"{unit}_ratio"]["value"] == pytest.approx(sum(y) / sum(x))
        theirs = stats.ks_2samp(x, y, method="asymp")
        ours = rows[f"{unit}_ks"]
        assert ours["value"] == pytest.approx(theirs.statistic, abs=1e-12)
        assert ours["detail"]["p"] == pytest.approx(theirs.pvalue, rel=0.1, abs=1e-12)
        assert rows[f"{unit}_wasserstein"]["value"] == pytest.approx(stats.wasserstein_distance(x, y))


def test_without_a_tokenizer_there_are_no_tokens():
    assert not [r for r in length.measure(paired(RAW, REFINED)) if r["name"].startswith("tokens")]


@pytest.mark.parametrize("shift", [0, 0.05, 0.1, 0.2, 0.4])
def test_ks_p_over_its_range(shift):
    x, y = RNG.normal(size=300), RNG.normal(size=300) + shift
    d, p = length.kolmogorov_smirnov(x, y)
    theirs = stats.ks_2samp(x, y)
    assert d == pytest.approx(theirs.statistic, abs=1e-12)
    assert p == pytest.approx(theirs.pvalue, abs=0.012, rel=0.1)


def test_ks_of_one_sample_with_itself():
    assert length.kolmogorov_smirnov(np.arange(9.0), np.arange(9.0)) == (0, 1)


def test_ratio_interval_agrees_with_a_paired_bootstrap():
    x = RNG.gamma(2, 20, 500)
    y = x * RNG.uniform(1, 3, 500) + RNG.gamma(2, 5, 500)
    ours = length.ratio_interval(x, y)
    draws = RNG.integers(0, 500, (20_000, 500))
    theirs = np.quantile(y[draws].mean(1) / x[draws].mean(1), [0.025, 0.975])
    width = theirs[1] - theirs[0]
    assert ours == pytest.approx(tuple(theirs), abs=0.05 * width)
    assert length.ratio_interval(x, 2 * x) == pytest.approx((2, 2))


def test_empty_and_single():
    for row in length.measure(paired([], [])):
        assert row["value"] is None and row["n"] == 0
    rows = {r["name"]: r for r in length.measure(paired([""], ["a b"]))}
    assert rows["words_ratio"]["value"] is None  # nothing to divide by
    assert rows["words_refined_mean"]["value"] == 2 and rows["words_refined_mean"]["low"] is None


@pytest.mark.parametrize("df", [1, 2, 4, 8, 9, 10, 29, 1999])
def test_t_quantile(df):
    assert t_975(df) == pytest.approx(stats.t.ppf(0.975, df), abs=1e-3)
