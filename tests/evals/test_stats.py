"""Every estimator against an independent oracle, and the crossed interval against the truth it promises to hold."""

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.contingency_tables import mcnemar as oracle_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import DescrStatsW, ttost_paired

from evals import stats
from evals.stats import Block


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (3, 17), (250, 480), (1, 1)])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_wilson_is_statsmodels(k: int, n: int, confidence: float) -> None:
    assert stats.wilson(k, n, confidence) == pytest.approx(
        proportion_confint(k, n, 1 - confidence, method="wilson"), abs=1e-12
    )
    assert stats.wilson(k, n)[0] <= k / n <= stats.wilson(k, n)[1]


def test_t_mean_is_statsmodels() -> None:
    x = np.random.default_rng(0).normal(0.3, 1, 12)
    mean, oracle = stats.t_mean(x), DescrStatsW(x)
    assert (mean.low, mean.high) == pytest.approx(oracle.tconfint_mean())
    assert mean.p == pytest.approx(oracle.ttest_mean(0)[1])


def test_t_mean_of_one_value_has_no_interval() -> None:
    assert math.isnan(stats.t_mean([0.4]).low)


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (1, 0), (4, 11), (30, 30), (60, 25)])
def test_mcnemar_is_statsmodels(lost: int, gained: int) -> None:
    table = [[100, lost], [gained, 50]]
    expected = 1.0 if lost == gained else oracle_mcnemar(table, exact=True).pvalue
    assert stats.mcnemar(lost, gained) == pytest.approx(expected)


def test_holm_is_statsmodels() -> None:
    for size in (1, 2, 7):
        p = np.random.default_rng(size).uniform(0, 0.1, size)
        assert stats.holm(p) == pytest.approx(list(multipletests(p, method="holm")[1]))


def test_equivalence_is_statsmodels() -> None:
    rng = np.random.default_rng(1)
    for _ in range(5):
        x, y = rng.normal(0, 1, 30), rng.normal(0.1, 1, 30)
        p, lower, _ = ttost_paired(x, y, -0.5, 0.5)
        assert stats.equivalence(stats.t_mean(x - y), 0.5) == pytest.approx(p)
        assert stats.noninferiority(stats.t_mean(x - y), 0.5) == pytest.approx(lower[1])


def test_detectable_accuracy_gives_the_textbook_sizes() -> None:
    """Two runs at 65%, 80% power: (1.96 + 0.84) sqrt(2 p (1 - p) (1 - rho) / n)."""
    for n, unpaired, paired in ((68, 22.9, 14.5), (541, 8.1, 5.1), (1319, 5.2, 3.3)):
        assert 100 * stats.detectable_accuracy(n, 0.65) == pytest.approx(unpaired, abs=0.06)
        assert 100 * stats.detectable_accuracy(n, 0.65, correlation=0.6) == pytest.approx(paired, abs=0.06)


def test_detectable_has_the_power_it_claims() -> None:
    rng = np.random.default_rng(2)
    se, df = 1 / math.sqrt(8), 7
    x = rng.normal(stats.detectable(se, df), 1, (4000, 8))
    assert (scipy_stats.ttest_1samp(x, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.04)


def test_fieller_with_no_doubt_about_the_denominator_is_a_plain_interval() -> None:
    ratio = stats.fieller(3.0, 2.0, np.array([[0.04, 0.0], [0.0, 0.0]]))
    assert (ratio.low, ratio.value, ratio.high) == pytest.approx((1.5 - 1.96 * 0.1, 1.5, 1.5 + 1.96 * 0.1), abs=1e-4)


def test_fieller_ends_are_where_the_test_of_the_ratio_turns() -> None:
    covariance, df = np.array([[0.05, 0.02], [0.02, 0.08]]), 6
    ratio = stats.fieller(1.2, 2.0, covariance, df)
    assert ratio.bounded and ratio.low < 0.6 < ratio.high
    for end in (ratio.low, ratio.high):
        tilt = np.array([1.0, -end])
        t = abs(1.2 - end * 2.0) / math.sqrt(tilt @ covariance @ tilt)
        assert 2 * scipy_stats.t.sf(t, df) == pytest.approx(0.05)


def test_fieller_gives_no_interval_where_the_denominator_may_be_zero() -> None:
    ratio = stats.fieller(1.0, 0.5, np.array([[0.1, 0.0], [0.0, 0.1]]))
    assert not ratio.bounded and math.isnan(ratio.low) and math.isnan(ratio.high)


def test_moments_of_one_seed_are_the_paired_t_over_items() -> None:
    d = np.random.default_rng(3).normal(0.1, 1, (1, 50))
    found = stats.moments([Block(d)])
    oracle = stats.t_mean(d[0])
    assert (found.estimate[0], found.covariance[0, 0], found.df[0]) == pytest.approx((oracle.value, oracle.se**2, 49))


def test_moments_where_only_seeds_differ_are_the_t_over_seeds() -> None:
    per_seed = np.array([0.1, 0.3, 0.25])
    found = stats.crossed([Block(np.repeat(per_seed[:, None], 200, axis=1))])
    oracle = stats.t_mean(per_seed)
    assert (found.low, found.high, found.p, found.df) == pytest.approx((oracle.low, oracle.high, oracle.p, 2), rel=1e-4)


def test_moments_find_the_variance_components() -> None:
    """Averaged over many worlds the variance is var(a)/S + var(b)/I + var(e)/(S I)."""
    rng = np.random.default_rng(4)
    found = []
    for _ in range(400):
        d = rng.normal(0, 0.3, (4, 1)) + rng.normal(0, 1, (1, 60)) + rng.normal(0, 1, (4, 60))
        found.append(stats.moments([Block(d)]).covariance[0, 0])
    assert np.mean(found) == pytest.approx(0.09 / 4 + 1 / 60 + 1 / 240, rel=0.08)


def test_crossed_of_one_seed_is_the_item_bootstrap() -> None:
    d = np.random.default_rng(5).integers(-1, 2, (1, 200)).astype(float)
    found = stats.crossed([Block(d)], draws=20_000)
    oracle = scipy_stats.bootstrap((d[0],), np.mean, method="percentile", n_resamples=20_000, rng=0)
    assert (found.low, found.high) == pytest.approx(oracle.confidence_interval, abs=0.01)
    assert (found.value, found.low, found.high) == tuple(
        getattr(stats.crossed([Block(d)], draws=20_000), name) for name in ("value", "low", "high")
    )


def test_blocks_on_the_same_items_and_runs_add_up() -> None:
    """Two copies of one block at half weight are that block: nothing is counted as news twice."""
    d = np.random.default_rng(6).normal(0.1, 1, (3, 80))
    once, twice = Block(d), [Block(d, weight=0.5), Block(d, weight=0.5)]
    assert stats.crossed(twice).low == pytest.approx(stats.crossed([once]).low, abs=1e-6)
    apart = [Block(d, runs=0, items=0, weight=0.5), Block(d, runs=1, items=1, weight=0.5)]
    assert stats.crossed(apart).se < 0.8 * stats.crossed([once]).se


def test_shared_items_do_not_average_out_over_runs() -> None:
    """Three trainings on other domains, the same general items: item luck stays, seed luck shrinks."""
    rng = np.random.default_rng(7)
    item = rng.normal(0, 1, (1, 100))
    shared = [Block(np.repeat(item, 3, axis=0), runs=r, items="facts", weight=1 / 3) for r in range(3)]
    own = [Block(np.repeat(item, 3, axis=0), runs=r, items=r, weight=1 / 3) for r in range(3)]
    assert stats.crossed(shared).se == pytest.approx(item.std() / 10, rel=0.1)
    assert stats.crossed(own).se == pytest.approx(item.std() / 10 / math.sqrt(3), rel=0.1)


def test_crossed_ratio_pools_by_sums() -> None:
    rng = np.random.default_rng(8)
    big = np.stack([rng.normal(0.2, 0.1, (3, 300)), rng.normal(0.4, 0.1, (3, 300))], axis=-1)
    none = np.stack([rng.normal(0.0, 0.1, (3, 300)), rng.normal(0.0, 0.1, (3, 300))], axis=-1)
    pooled = stats.crossed_ratio([Block(big, items=0, weight=0.5), Block(none, items=1, weight=0.5)])
    assert pooled.bounded and pooled.value == pytest.approx(0.5, abs=0.02)
    assert not stats.crossed_ratio([Block(none)]).bounded


# Coverage: worlds in which items differ in difficulty and seeds in skill, on the probit scale.


def binary_world(rng: np.random.Generator, skill: float, items: np.ndarray, seeds: int, spread: float) -> np.ndarray:
    luck = rng.normal(0, 1, (seeds, len(items)))
    return (skill + items + rng.normal(0, spread, (seeds, 1)) + luck > 0).astype(float)


def skill_for(accuracy: float, spread: float) -> float:
    return float(scipy_stats.norm.ppf(accuracy) * math.sqrt(2 + spread**2))


@pytest.mark.parametrize(
    ("n", "seeds", "spread"), [(300, 3, 0.12), (68, 3, 0.12), (1000, 3, 0.25), (480, 5, 0.2), (480, 1, 0.0)]
)
def test_crossed_interval_holds_the_true_difference_about_as_often_as_it_says(
    n: int, seeds: int, spread: float
) -> None:
    rng, held, worlds = np.random.default_rng(n + seeds), 0, 250
    for _ in range(worlds):
        items = rng.normal(0, 1, n)
        arms = [binary_world(rng, skill_for(a, spread), items, seeds, spread) for a in (0.7, 0.6)]
        found = stats.crossed([Block(arms[0] - arms[1])], draws=400)
        held += found.low <= 0.1 <= found.high
    assert 0.92 <= held / worlds <= 0.995


@pytest.mark.parametrize(
    ("n", "seeds", "spread", "damage"), [(541, 1, 0.0, 0.24), (480, 5, 0.15, 0.24), (541, 3, 0.05, 0.10)]
)
def test_fieller_set_holds_the_true_share_recovered(n: int, seeds: int, spread: float, damage: float) -> None:
    rng, held, worlds = np.random.default_rng(n), 0, 250
    for _ in range(worlds):
        items = rng.normal(0, 1, n)
        base = binary_world(rng, skill_for(0.65, 0), items, 1, 0.0)
        sft = binary_world(rng, skill_for(0.65 - damage, spread), items, seeds, spread)
        half = binary_world(rng, skill_for(0.65 - damage / 2, spread), items, seeds, spread)
        found = stats.crossed_ratio([Block(np.stack([half - sft, base - sft], axis=-1))])
        held += not found.bounded or found.low <= 0.5 <= found.high
    assert held / worlds >= 0.92


def test_small_damage_is_seldom_estimable() -> None:
    """541 items and 4 points of damage: Fieller's set is unbounded in about half of all cases."""
    rng, unbounded = np.random.default_rng(0), 0
    for _ in range(200):
        items = rng.normal(0, 1, 541)
        base, sft, half = (binary_world(rng, skill_for(a, 0), items, 1, 0.0) for a in (0.65, 0.61, 0.63))
        unbounded += not stats.crossed_ratio([Block(np.stack([half - sft, base - sft], -1))]).bounded
    assert 0.4 <= unbounded / 200 <= 0.9
