"""Likelihoods whose means are known, and a real model's."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from refinery.diagnostics import likelihood
from refinery.diagnostics._pairs import paired


def given(logprobs):
    return SimpleNamespace(logprobs=logprobs, model="self", identity="x")


def test_means_shares_and_percentiles():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 30, (50, 2))
    sides = {str(i): tuple(list(-rng.exponential(2 + s, size=lengths[i, s])) for s in (0, 1)) for i in range(50)}
    pairs = paired(["r"] * 52, ["s"] * 52)
    rows = {r["name"]: r for r in likelihood.measure(pairs, likelihoods=given({**sides, "50": ([], [-1.0])}))}
    for s, side in enumerate(("raw", "refined")):
        tokens = np.concatenate([sides[str(i)][s] for i in range(50)])
        means = [-np.mean(sides[str(i)][s]) for i in range(50)]
        assert rows[f"nll_{side}"]["value"] == pytest.approx(np.mean(means)) and rows[f"nll_{side}"]["n"] == 50
        assert rows[f"rare_{side}"]["value"] == pytest.approx(np.mean(np.exp(tokens) < 0.01))
        p95 = rows[f"nll_p95_{side}"]
        assert p95["value"] == pytest.approx(np.percentile(-tokens, 95)) and p95["low"] <= p95["value"] <= p95["high"]
    change = [np.mean(sides[str(i)][0]) - np.mean(sides[str(i)][1]) for i in range(50)]
    low, high = stats.t.interval(0.95, 49, np.mean(change), stats.sem(change))
    assert (rows["nll_change"]["value"], rows["nll_change"]["low"], rows["nll_change"]["high"]) == pytest.approx(
        (np.mean(change), low, high), rel=1e-4
    )


def test_certain_and_impossible_tokens():
    sides = {"0": ([0.0, 0.0], [math.log(0.009)] * 2), "1": ([0.0], [math.log(0.011)])}
    rows = {r["name"]: r for r in likelihood.measure(paired(["r"] * 2, ["s"] * 2), likelihoods=given(sides))}
    assert rows["nll_raw"]["value"] == 0 and rows["rare_raw"]["value"] == 0
    assert rows["rare_refined"]["value"] == pytest.approx(2 / 3) and rows["rare_change"]["value"] == 0.5


def test_nothing_known():
    assert {r["value"] for r in likelihood.measure(paired(["a"], ["b"]), likelihoods=given({}))} == {None}
