"""Estimators for pairs, clusters, sequences and few seeds, against scipy, statsmodels, closed forms and simulation."""

import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import integrate
from scipy import stats as scipy_stats
from statsmodels.stats.proportion import proportion_effectsize

from evals import stats
from evals.stats import Block, Spread

RNG = np.random.default_rng


# ---- how far an estimate may be off


@pytest.mark.parametrize("df", [1, 2, 4, 67])
@pytest.mark.parametrize("distance", [0.0, 0.5, 3.0, 30.0])
def test_a_variance_that_seeds_alone_show_gives_student_t(df: int, distance: float) -> None:
    spread = Spread(items=0.0, seeds=0.25, seeds_df=df)
    assert spread.tail(distance) == pytest.approx(scipy_stats.t.sf(distance / 0.5, df), rel=2e-4)
    assert spread.reach(0.975) == pytest.approx(0.5 * scipy_stats.t.ppf(0.975, df), rel=1e-4)
    assert spread.df == pytest.approx(df)


def test_a_variance_that_items_alone_show_gives_student_t() -> None:
    spread = Spread(items=0.09, items_df=11)
    assert spread.tail(0.7) == pytest.approx(scipy_stats.t.sf(0.7 / 0.3, 11))
    assert spread.reach(0.9) == pytest.approx(0.3 * scipy_stats.t.ppf(0.9, 11))


def test_two_parts_are_the_mixture_that_they_are_said_to_be() -> None:
    """By another road: the density of the chi-squared variable integrated over."""

    def given(chi_squared: float) -> float:
        sd = math.sqrt(0.3 + 0.2 * 2 / chi_squared)
        return float(scipy_stats.norm.sf(1.5 / sd) * scipy_stats.chi2.pdf(chi_squared, 2))

    found = Spread(items=0.3, seeds=0.2, seeds_df=2).tail(1.5)
    assert found == pytest.approx(integrate.quad(given, 0, np.inf)[0], rel=1e-5)


def test_what_items_alone_show_is_never_undercut() -> None:
    agreeing = Spread(items=0.0, items_df=100, seeds=1e-6, seeds_df=2, least=0.04)
    assert agreeing.reach(0.975) == pytest.approx(0.2 * scipy_stats.t.ppf(0.975, 100))


# ---- clusters


def worlds(clusters: int, size: int, key: int) -> tuple[np.ndarray, list[int]]:
    rng = RNG(key)
    sizes = rng.integers(1, 2 * size, clusters)
    labels = np.repeat(np.arange(clusters), sizes)
    return rng.normal(0, 1, clusters)[labels] + rng.normal(0, 1, len(labels)), list(labels)


def test_cluster_mean_is_statsmodels() -> None:
    values, labels = worlds(12, 9, 0)
    fit = sm.OLS(values, np.ones(len(values))).fit(cov_type="cluster", cov_kwds={"groups": np.array(labels)})
    found = stats.cluster_mean(values, labels)
    assert (found.value, found.se) == pytest.approx((fit.params[0], fit.bse[0]))
    half = scipy_stats.t.ppf(0.975, 11) * fit.bse[0]
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half))


def test_items_that_are_their_own_clusters_change_nothing() -> None:
    x = RNG(1).normal(0, 1, (3, 40))
    assert (stats.by_cluster(x, list(range(40))) == x).all()


def test_clusters_keep_every_mean() -> None:
    x, labels = RNG(2).normal(0, 1, (3, 60, 2)), [i % 7 for i in range(60)]
    found = stats.by_cluster(x, labels)
    assert found.shape == (3, 7, 2)
    assert found.mean(1) == pytest.approx(x.mean(1))


def test_crossed_over_clusters_holds_the_truth_and_over_items_does_not() -> None:
    """Twenty documents with ten questions each: items taken for independent promise too much."""
    held = {"clusters": 0, "items": 0}
    labels = [i // 10 for i in range(200)]
    for key in range(300):
        rng = RNG(key)
        x = rng.normal(0, 1, (1, 20)).repeat(10, axis=1) + rng.normal(0, 1, (3, 200)) + rng.normal(0, 0.05, (3, 1))
        for name, values in (("clusters", stats.by_cluster(x, labels)), ("items", x)):
            found = stats.crossed([Block(values)], draws=500)
            held[name] += found.low <= 0 <= found.high
    assert held["clusters"] / 300 >= 0.92 and held["items"] / 300 < 0.75


def test_many_items_are_drawn_in_groups_to_the_same_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    d = RNG(9).integers(-1, 2, (3, 9000)).astype(float) + RNG(10).normal(0, 0.05, (3, 1))
    grouped = stats.crossed([Block(d)], draws=2000)
    monkeypatch.setattr("evals.stats.crossing.GROUPS", 10_000)
    whole = stats.crossed([Block(d)], draws=2000)
    assert (grouped.value, grouped.low, grouped.high) == pytest.approx((whole.value, whole.low, whole.high), abs=5e-4)


# ---- pairs


def test_changes_count_what_was_lost_and_gained() -> None:
    first, second = np.array([1.0, 1, 0, 0, 0.5]), np.array([1.0, 0, 1, 1, 0.25])
    found = stats.changes(first, second)
    assert (found.lost, found.gained, found.n) == (2, 2, 5) and found.mcnemar == 1.0


@pytest.mark.parametrize(("lost", "gained"), [(4, 11), (30, 30), (60, 25), (0, 7), (7, 0)])
def test_odds_ratio_is_exact_and_agrees_with_mcnemar(lost: int, gained: int) -> None:
    value, low, high = stats.odds_ratio(lost, gained)
    ends = scipy_stats.binomtest(gained, lost + gained).proportion_ci(0.95, method="exact")
    odds = [e / (1 - e) if e < 1 else math.inf for e in (ends.low, ends.high)]
    assert (low, high) == pytest.approx(odds)
    assert value == (math.inf if lost == 0 else pytest.approx(gained / lost))
    assert (low <= 1 <= high) == (stats.mcnemar(lost, gained) > 0.05)


def test_odds_ratio_of_nothing_is_unknown() -> None:
    assert all(math.isnan(x) for x in stats.odds_ratio(0, 0))


def test_discordant_odds_are_the_conditional_odds_ratio() -> None:
    """Many strata of one pair each: Mantel-Haenszel's odds ratio is gained over lost."""
    lost, gained = 12, 30
    pairs = np.array([[1, 0]] * gained + [[0, 1]] * lost)
    strata = sm.stats.StratifiedTable([np.array([[b, 1 - b], [a, 1 - a]], dtype=float) for a, b in pairs])
    assert stats.odds_ratio(lost, gained)[0] == pytest.approx(1 / strata.oddsratio_pooled)


def test_cohens_h_is_statsmodels() -> None:
    for first, second in ((0.2, 0.5), (0.9, 0.1), (0.0, 1.0)):
        assert stats.cohens_h(first, second) == pytest.approx(proportion_effectsize(second, first))


def test_cohens_d_is_the_paired_t_over_root_n() -> None:
    d = RNG(3).normal(0.2, 1, 25)
    assert stats.cohens_d(d) == pytest.approx(scipy_stats.ttest_1samp(d, 0).statistic / 5)
    assert math.isnan(stats.cohens_d(np.ones(5)))


def test_sign_flip_is_scipy_exact() -> None:
    d = RNG(4).normal(0.4, 1, 12)
    oracle = scipy_stats.permutation_test((d,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert stats.sign_flip(d) == pytest.approx(oracle.pvalue)


def test_sign_flip_is_scipy_sampled() -> None:
    d = RNG(5).normal(0.15, 1, 150)
    oracle = scipy_stats.permutation_test(
        (d,), np.sum, permutation_type="samples", n_resamples=20_000, vectorized=False, rng=0
    )
    assert stats.sign_flip(d, draws=20_000) == pytest.approx(oracle.pvalue, abs=0.01)


def test_sign_flip_of_binary_scores_is_mcnemar() -> None:
    """Flipping the signs of the items that differ is tossing a coin for each."""
    d = np.array([1.0] * 11 + [-1.0] * 4)
    assert stats.sign_flip(d) == pytest.approx(stats.mcnemar(4, 11))


def test_sign_flip_keeps_a_cluster_together() -> None:
    """Fifty questions about five documents are five coins: the smallest p there can be is 2 in 32."""
    d, labels = np.full(50, 1.0), [i // 10 for i in range(50)]
    assert stats.sign_flip(d, labels) == pytest.approx(2 / 32)
    assert stats.sign_flip(d) < 0.001


# ---- decisions


def test_a_difference_of_the_detectable_size_is_found_four_times_in_five() -> None:
    rng, found, sizes = RNG(6), 0, []
    for _ in range(300):
        null = rng.normal(0, 0.3, (1, 200)) + rng.normal(0, 0.1, (4, 1)) + rng.normal(0, 1, (4, 200))
        sizes.append(stats.detectable_by(stats.crossed([Block(null)], draws=300)))
    size = float(np.mean(sizes))
    for _ in range(300):
        d = size + rng.normal(0, 0.3, (1, 200)) + rng.normal(0, 0.1, (4, 1)) + rng.normal(0, 1, (4, 200))
        found += stats.crossed([Block(d)], draws=300).p <= 0.05
    assert 0.74 <= found / 300 <= 0.98


def test_noninferiority_errs_as_seldom_as_it_says() -> None:
    """Worse by exactly the margin, few seeds: called "not worse" in at most 5 of 100, up to chance."""
    wrong = 0
    for key in range(400):
        rng = RNG(key)
        d = -0.05 + rng.normal(0, 0.05, (3, 1)) + rng.normal(0, 0.4, (3, 300))
        wrong += stats.noninferiority(stats.crossed([Block(d)], draws=300), 0.05) <= 0.05
    assert wrong / 400 <= 0.075


def test_a_family_of_null_tests_is_seldom_wrong() -> None:
    """Eight comparisons with large differences between seeds. The whole grid: tests/bench/coverage.py."""
    wrong = 0
    for key in range(250):
        rng = RNG(key)
        p = [
            stats.crossed([Block(rng.normal(0, 0.1, (3, 1)) + rng.normal(0, 0.7, (3, 200)))], draws=300).p
            for _ in range(8)
        ]
        wrong += min(stats.holm(p)) <= 0.05
    assert wrong / 250 <= 0.09


# ---- averages and sequences


def test_centred_scores() -> None:
    assert stats.centred(0.5, 0.5) == 0 and stats.centred(1.0, 0.25) == 1 and stats.centred(0.0, 0.5) == -1
    with pytest.raises(ValueError, match="chance"):
        stats.centred(0.3, 1.0)


# Rows: base, after task 1, 2, 3. By hand:
R = np.array([[0.1, 0.2, 0.3], [0.9, 0.3, 0.3], [0.7, 0.8, 0.5], [0.5, 0.9, 0.6]])


def test_the_measures_of_a_sequence() -> None:
    found = stats.continual(np.stack([R, R]))
    assert found.accuracy.value == pytest.approx((0.5 + 0.9 + 0.6) / 3)
    assert found.backward_transfer.value == pytest.approx(((0.5 - 0.9) + (0.9 - 0.8)) / 2)
    assert found.forgetting.value == pytest.approx(-found.backward_transfer.value)
    assert found.forward_transfer.value == pytest.approx(((0.3 - 0.2) + (0.5 - 0.3)) / 2)
    assert found.forgetting_from_best.value == pytest.approx(((0.9 - 0.5) + (0.8 - 0.9)) / 2)


def test_the_intervals_are_over_seeds() -> None:
    runs = np.stack([R, R + 0.02, R - 0.05])
    found = stats.continual(runs).accuracy
    oracle = stats.t_mean(runs[:, -1].mean(1))
    assert (found.low, found.high) == pytest.approx((oracle.low, oracle.high))


def test_the_best_of_noisy_scores_looks_like_forgetting() -> None:
    """Nothing is forgotten, scores are noisy: the usual measure says that something is, the other does not."""
    runs = 0.6 + RNG(7).normal(0, 0.05, (2000, 6, 5))
    found = stats.continual(runs)
    assert found.forgetting_from_best.low > 0.03
    assert abs(found.forgetting.value) < 0.005


def test_one_task_has_no_transfer() -> None:
    found = stats.continual(np.array([[[0.1], [0.8]]]))
    assert found.accuracy.value == 0.8
    assert math.isnan(found.backward_transfer.value) and math.isnan(found.forward_transfer.value)
    with pytest.raises(ValueError, match="a stage for each task"):
        stats.continual(np.zeros((1, 2, 2)))


def test_normalised_curves_run_from_the_base_to_the_best() -> None:
    found = stats.normalised(np.array([[0.2, 0.5], [0.6, 0.4], [0.4, 0.5]]))
    assert found[:, 0] == pytest.approx([0, 1, 0.5])
    assert np.isnan(found[:, 1]).all()


# ---- nothing seen


@pytest.mark.parametrize(("n", "seeds"), [(120, 1), (120, 3), (40, 5)])
def test_no_change_on_few_items_is_no_proof_of_none(n: int, seeds: int) -> None:
    """Bonett & Price's interval with no discordant pair; the exact bound on the share of changes is wider still."""
    found = stats.crossed([Block(np.zeros((seeds, n)))])
    se = math.sqrt(2) / (n + 2)
    assert found.high == -found.low == pytest.approx(scipy_stats.t.ppf(0.975, n - 1) * se)
    assert found.p == 1.0 and stats.detectable_by(found) > found.high
    assert found.high < 1 - 0.025 ** (1 / n)
    alone = stats.crossed([Block(np.ones((seeds, n)))])  # one arm, all right
    assert alone.low < 1 and alone.value == 1


def test_graded_scores_are_taken_as_they_are() -> None:
    assert stats.crossed([Block(np.full((3, 50), 0.25))]).high == pytest.approx(0.25)


def test_unseen_changes_count_once_for_blocks_that_share_their_items() -> None:
    zeros = np.zeros((3, 100))
    one = stats.crossed([Block(zeros)])
    shared = stats.crossed([Block(zeros, runs=r, items="facts", weight=0.5) for r in range(2)])
    apart = stats.crossed([Block(zeros, items=i, weight=0.5) for i in range(2)])
    assert shared.high == pytest.approx(one.high)
    assert apart.high == pytest.approx(one.high / math.sqrt(2), rel=0.02)


@pytest.mark.parametrize("lost", [0, 1, 3])
def test_unseen_changes_of_clustered_items_are_counted_by_items(lost: int) -> None:
    """The cluster-robust variance with two clusters of one item each put beside, one lost and one gained, by hand."""
    labels = [i // 12 for i in range(120)]
    x = np.zeros((1, 120))
    x[0, [12 * i for i in range(lost)]] = -1.0
    found = stats.crossed([Block(x, clusters=labels)])
    more, groups = np.concatenate([x[0], [-1.0, 1.0]]), np.array([*labels, 10, 11])
    sums = [(more - x.mean())[groups == g].sum() for g in range(12)]
    se = math.sqrt(sum(s**2 for s in sums)) / 122
    reach = scipy_stats.t.ppf(0.975, 9) * se
    assert found.low == pytest.approx(found.value - reach, rel=0.01)
    alone = stats.crossed([Block(x)])
    assert 1.0 < (found.high - found.low) / (alone.high - alone.low) < 1.2
    own = stats.crossed([Block(x, clusters=list(range(120)))])
    assert (own.low, own.high, own.p) == (alone.low, alone.high, alone.p)


def test_the_sides_of_an_unpaired_difference_count_an_unseen_change_once() -> None:
    zeros = np.zeros((3, 100))
    sides = [Block(zeros, runs=r, items="facts", shows_changes=r == 0) for r in range(2)]
    assert stats.crossed(sides).high == pytest.approx(stats.crossed([Block(zeros)]).high)
