"""Regressions and rankings against statsmodels and scipy, and the reader on a store made for the purpose."""

import math
from pathlib import Path

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats as scipy_stats

from evals.predicting import Observation, collect, predictions, r2_interval, ranked, regress
from refinery.records import Sample, Score
from refinery.spec import SourceSpec, Spec, StepSpec
from refinery.store import Store
from trainers.methods import sft


def runs(n: int, noise: float, key: int = 0) -> tuple[dict[str, list[float]], list[float]]:
    rng = np.random.default_rng(key)
    a, b = rng.normal(0, 1, n), rng.normal(0, 1, n)
    return {"a": list(a), "b": list(b)}, list(0.1 + 0.3 * a - 0.2 * b + rng.normal(0, noise, n))


def test_a_fit_is_statsmodels() -> None:
    x, y = runs(15, 0.2)
    found = regress(x, y)
    oracle = sm.OLS(y, sm.add_constant(np.column_stack([x["a"], x["b"]]))).fit()
    assert found is not None
    assert (found.intercept, *found.slopes) == pytest.approx(oracle.params)
    assert (found.r2, found.p, found.n) == pytest.approx((oracle.rsquared, oracle.f_pvalue, 15))


def test_leaving_one_out_is_the_press_statistic() -> None:
    """Closed form: the residual over one minus the leverage."""
    x, y = runs(12, 0.3)
    found = regress(x, y)
    influence = sm.OLS(y, sm.add_constant(np.column_stack([x["a"], x["b"]]))).fit().get_influence()
    means = [(sum(y) - each) / 11 for each in y]
    base = sum((each - mean) ** 2 for each, mean in zip(y, means, strict=True))
    assert found is not None and found.r2_left_out == pytest.approx(1 - (influence.resid_press**2).sum() / base)


def test_leaving_whole_methods_out_is_harder_where_methods_are_all_that_differ() -> None:
    """Three methods, five runs each; the measure tells methods apart, but says nothing within one or of a new one."""
    rng = np.random.default_rng(1)
    method = np.repeat([0, 1, 2], 5)
    x = np.array([0.0, 1.0, 2.0])[method] + rng.normal(0, 0.01, 15)
    y = np.array([0.1, 0.5, 0.0])[method] + rng.normal(0, 0.01, 15)
    known = regress({"x": list(x), "x2": list(x**2)}, list(y), list(method))
    assert known is not None and known.groups == 3
    assert known.r2_left_out > 0.9 and not known.r2_group_left_out > 0.5


def test_the_interval_of_r2_holds_it() -> None:
    """Measures as given, noise drawn anew: the population's share is lambda / (lambda + n)."""
    rng = np.random.default_rng(2)
    x = rng.normal(0, 1, 15)
    x -= x.mean()
    held, noise = 0, 0.8
    signal = float((x**2).sum()) / noise**2
    truth = signal / (signal + 15)
    for _ in range(400):
        fit = regress({"x": list(x)}, list(x + rng.normal(0, noise, 15)))
        assert fit is not None
        held += fit.low <= truth <= fit.high
    assert 0.92 <= held / 400 <= 0.98


def test_the_interval_of_nothing_begins_at_zero() -> None:
    low, high = r2_interval(0.01, 12, 1)
    assert low == 0.0 and 0.1 < high < 0.6
    assert r2_interval(0.97, 30, 1)[0] > 0.9


def test_too_few_runs_and_measures_that_do_not_vary_give_no_fit() -> None:
    assert regress({"x": [1, 2, 3]}, [1, 2, 4]) is None
    assert regress({"x": [1, 1, 1, 1, 1]}, [1, 2, 3, 4, 5]) is None
    assert regress({"x": [1, 2, 3, 4, 5]}, [1, 1, 1, 1, 1]) is None


@pytest.mark.parametrize("n", [5, 7, 30])
def test_a_ranking_is_scipys(n: int) -> None:
    rng = np.random.default_rng(n)
    x = rng.integers(0, 6, n).astype(float)
    y = x + rng.normal(0, 2, n)
    found = ranked(x, y)
    assert found is not None
    assert found.spearman == pytest.approx(scipy_stats.spearmanr(x, y).statistic)
    assert found.kendall == pytest.approx(scipy_stats.kendalltau(x, y).statistic)
    oracle = scipy_stats.permutation_test(
        (x,), lambda s: abs(scipy_stats.spearmanr(s, y).statistic), permutation_type="pairings",
        alternative="greater", n_resamples=np.inf if n <= 7 else 3000, rng=0,
    )  # fmt: skip
    assert found.p == pytest.approx(oracle.pvalue, abs=1e-9 if n <= 7 else 0.02)


def test_no_ranking_of_two_or_of_ties() -> None:
    assert ranked([1, 2], [1, 2]) is None and ranked([1, 1, 1], [1, 2, 3]) is None


def test_what_observations_allow() -> None:
    nll = {"raw": 2.0, "rewritten": 1.2, "fused": 1.5, "own": 0.7}
    rng = np.random.default_rng(3)
    seen = [
        Observation(
            m, s, 0.2 * v + rng.normal(0, 0.01), {"nll": v, "forward_kl": v + rng.normal(0, 0.01), "reverse_kl": 1.0}
        )
        for m, v in nll.items()
        for s in range(3)
    ]  # fmt: skip
    found = predictions(seen)
    assert set(found.explained) == {"forward_kl", "nll"} and found.explained["nll"].groups == 4
    assert found.explained["nll"].r2 > 0.95 and found.explained["nll"].r2_group_left_out > 0.8
    assert set(found.forecast) == {"nll"}
    assert found.forecast["nll"].spearman == 1.0 and found.forecast["nll"].p == pytest.approx(2 / 24)
    assert found.notes == ["reverse_kl: too few runs, or none that differ, to regress on (12)"]


# ---- the reader


def test_what_a_store_holds(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.duckdb")
    params = sft.Params()
    methods = {
        "raw": {"method": "sft", "data": "source", "params": params},
        "fused": {"method": "sft", "params": params},
    }
    spec = Spec(
        name="x",
        source=SourceSpec(lab="clinic"),
        graph={"close": StepSpec(op="check_answer", **{"from": "source"})},
        train={"data": "close", "seeds": [0, 1], "methods": methods},
        evaluate={"domain": ["clinic"], "general": ["facts", "sums"]},
    )
    for name, op, upstream in (("source", "source", []), ("close", "check_answer", ["fp_source"])):
        store.start_step(f"fp_{name}", "run", name, op, 1, {}, upstream, {})
    rows = {"likelihood": {"nll_raw": 2.5, "nll_refined": 1.5, "nll_change": -1.0}, "length": {"words_ratio": 0.5}}
    rows["embedding"] = {"cosine_mean": 0.8, "own_mmd2_raw": 0.4, "own_mmd2_refined": 0.1}
    store.add_diagnostics(
        "fp_close",
        [
            {"family": f, "name": n, "value": v, "n": 9, "low": None, "high": None, "detail": {}}
            for f, each in rows.items()
            for n, v in each.items()
        ],
    )
    shares = {"base": (0.9, 0.8), "raw0": (0.5, 0.6), "raw1": (0.4, 0.6), "fused0": (0.8, 0.8), "fused1": (0.8, 0.7)}
    for checkpoint, values in shares.items():
        name, seed = (checkpoint, 0) if checkpoint == "base" else (checkpoint[:-1], int(checkpoint[-1]))
        role = "base" if name == "base" else "final"
        store.start_checkpoint(checkpoint, "run", name, "sft", {}, seed, "", "base", "", role)
        store.finish_checkpoint(checkpoint, {})
        settings = {"primary_metric": "acc", "batch_size": 8 if checkpoint == "fused1" else 64}
        for benchmark, share in zip(("facts", "sums"), values, strict=True):
            fingerprint = f"f{settings['batch_size']}"
            store.add_scores([Score(checkpoint, benchmark, "acc", share, 0, 1, 10, fingerprint, True, settings)])
            correct = [float(i < round(10 * share)) for i in range(10)]
            store.add_samples(
                [
                    Sample(checkpoint, benchmark, "acc", str(i), v, "", "", "", fingerprint)
                    for i, v in enumerate(correct)
                ]
            )
    store.add_training_metrics("raw0", [(10, "forward_kl", 0.3), (20, "forward_kl", 0.7), (20, "loss", 1.0)])
    found, notes = collect(store, spec)
    assert sorted((o.method, o.seed) for o in found) == [("fused", 0), ("raw", 0), ("raw", 1)]
    by_name = {(o.method, o.seed): o for o in found}
    assert by_name["raw", 0].forgotten == pytest.approx((0.4 + 0.2) / 2)
    assert by_name["raw", 0].measures == {
        "forward_kl": 0.7, "nll": 2.5, "nll_change": 0.0, "length_shift": 0.0, "embedding_to_own": 0.4,
        "embedding_moved": 0.0,
    }  # fmt: skip
    assert by_name["fused", 0].measures == pytest.approx(
        {"nll": 1.5, "nll_change": -1.0, "length_shift": math.log(2), "embedding_to_own": 0.1, "embedding_moved": 0.2}
    )
    assert len(notes) == 2 and "fused seed 1: facts left out" in notes[0] and "batch_size 8 instead of 64" in notes[0]
