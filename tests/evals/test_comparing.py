"""Two arms from stores made for the purpose, against figures worked out by hand."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from evals import stats
from evals.comparing import Arm, Run, adjust, compare
from refinery.errors import UserError
from refinery.records import Sample, Score
from refinery.store import Store

ITEMS = [f"item{i:03d}" for i in range(200)]


def put(store: Store, checkpoint: str, benchmark: str, values: np.ndarray, items: list[str] = ITEMS, metric="acc",
        rises: bool = True, target: str = "t", **settings: object) -> None:  # fmt: skip
    known = {"batch_size": 64, "primary_metric": metric, **settings}
    fingerprint = f"fp-{sorted(known.items())}"
    mean = float(values.mean())
    store.add_scores([Score(checkpoint, benchmark, metric, mean, mean, mean, len(values), fingerprint, rises, known)])
    rows = zip(items, values, strict=True)
    store.add_samples(
        [Sample(checkpoint, benchmark, metric, i, float(v), "p", target, "r", fingerprint) for i, v in rows]
    )


def right(share: float, shift: int = 0) -> np.ndarray:
    return np.roll(np.arange(200) < round(200 * share), shift).astype(float)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "s.duckdb")


def arm(store: Store, name: str, seeds: int = 1) -> Arm:
    return Arm(name, [Run(store, f"{name}{s}", s) for s in range(seeds)])


def base(store: Store) -> Arm:
    return Arm("base", [Run(store, "base", None)])


KINDS = {"clinic": "domain", "facts": "general", "sums": "general"}
FACTS = {"facts": "general"}


def test_a_comparison_by_hand(store: Store) -> None:
    put(store, "a0", "facts", right(0.8))
    put(store, "b0", "facts", right(0.7))
    (line,) = compare(arm(store, "a"), arm(store, "b"), KINDS).lines
    assert (line.first, line.second) == (0.8, 0.7)
    assert line.difference.value == pytest.approx(-0.1)
    assert [(c.lost, c.gained) for c in line.changes] == [(20, 0)]
    assert line.changes[0].mcnemar == pytest.approx(2 * 0.5**20)
    assert line.sign_flip == pytest.approx(1e-4, abs=1e-4)
    assert line.cohens_h == pytest.approx(stats.cohens_h(0.8, 0.7))
    assert (line.n, line.n_clusters, line.runs, line.kind) == (200, 200, 1, "general")
    found = stats.t_mean(right(0.7) - right(0.8))
    assert (line.difference.low, line.difference.high) == pytest.approx((found.low, found.high), abs=0.005)


def test_seeds_are_paired_and_only_those_that_both_have(store: Store) -> None:
    for seed in range(3):
        put(store, f"a{seed}", "facts", right(0.8, seed))
        put(store, f"b{seed}", "facts", right(0.7, seed))
    first, second = arm(store, "a", 3), arm(store, "b", 3)
    second.runs.reverse()
    found = compare(first, second, FACTS)
    assert [(c.lost, c.gained) for c in found.lines[0].changes] == [(20, 0)] * 3 and not found.notes
    second.runs.pop(0)
    found = compare(first, second, FACTS)
    assert found.lines[0].runs == 2 and found.notes == ["compared on the seeds that both have: 0, 1"]


def test_a_run_without_a_seed_stands_beside_every_run(store: Store) -> None:
    put(store, "base", "facts", right(0.8))
    for seed in range(3):
        put(store, f"b{seed}", "facts", right(0.7, seed))
    line = compare(base(store), arm(store, "b", 3), KINDS).lines[0]
    assert line.runs == 3 and [c.lost for c in line.changes] == [20, 20, 20]


def test_means_count_benchmarks_equally_and_need_all_of_them(store: Store) -> None:
    for name, (benchmark, share) in {"a0": ("facts", 0.8), "b0": ("facts", 0.6)}.items():
        put(store, name, benchmark, right(share))
    put(store, "a0", "sums", right(0.5)[:100], ITEMS[:100])
    put(store, "b0", "sums", right(0.4)[:100], ITEMS[:100])
    found = compare(arm(store, "a"), arm(store, "b"), KINDS)
    by_hand = (-0.2 + float(right(0.4)[:100].mean() - right(0.5)[:100].mean())) / 2
    assert found.means["general_mean"].difference.value == pytest.approx(by_hand)
    assert "domain_mean" not in found.means
    put(store, "a0", "sums", right(0.5)[:100], ITEMS[:100])
    put(store, "c0", "facts", right(0.5))
    found = compare(arm(store, "a"), arm(store, "c"), KINDS)
    assert [line.name for line in found.lines] == ["facts"] and not found.means
    with pytest.raises(UserError, match="general_mean of a and c: sums: c has no score on it"):
        found.find("general_mean")


def test_other_settings_are_refused_by_name_and_may_be_accepted(store: Store) -> None:
    put(store, "a0", "facts", right(0.8))
    put(store, "b0", "facts", right(0.7), batch_size=8)
    found = compare(arm(store, "a"), arm(store, "b"), FACTS)
    assert not found.lines and found.refused == {"facts": "not comparable: b has batch_size 8 instead of 64 (a)"}
    found = compare(arm(store, "a"), arm(store, "b"), FACTS, accept=["batch_size"])
    assert found.lines[0].warnings == ("batch_size 8 instead of 64 (accepted)",)


def test_other_items_and_other_targets_are_refused(store: Store) -> None:
    put(store, "a0", "facts", right(0.8))
    put(store, "b0", "facts", right(0.7)[:150], ITEMS[:150])
    found = compare(arm(store, "a"), arm(store, "b"), FACTS)
    assert found.refused == {"facts": "b was asked other items: 150 of 200 prompts are the same, 0 are others"}
    put(store, "d0", "facts", right(0.8), task="d1")
    put(store, "x0", "facts", right(0.7), imported="lm-eval", task="unknown", target="t")
    put(store, "y0", "facts", right(0.7), imported="lm-eval", task="unknown", target="other")
    assert compare(arm(store, "d"), arm(store, "x"), FACTS).lines
    assert compare(arm(store, "d"), arm(store, "y"), FACTS).refused == {
        "facts": "not comparable: y has task unknown on one side (d)"
    }


def test_scores_without_items_are_refused(store: Store) -> None:
    for name in ("a0", "b0"):
        store.add_scores([Score(name, "facts", "acc", 0.5, 0.4, 0.6, 200, "f", True, {})])
    assert compare(arm(store, "a"), arm(store, "b"), FACTS).refused == {"facts": "a kept no scores of single items"}


def test_two_stores(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "other.duckdb")
    put(store, "a0", "facts", right(0.8))
    put(other, "a0", "facts", right(0.7))
    line = compare(arm(store, "a"), arm(other, "a"), KINDS).lines[0]
    assert line.difference.value == pytest.approx(-0.1)


def test_where_less_is_better_more_is_lost(store: Store) -> None:
    put(store, "a0", "facts", right(0.5), metric="errors", rises=False)
    put(store, "b0", "facts", right(0.7), metric="errors", rises=False)
    found = compare(arm(store, "a"), arm(store, "b"), FACTS)
    assert found.lines[0].changes[0].lost == 40 and found.lines[0].difference.value == pytest.approx(0.2)
    assert not found.means and found.notes == ["no general_mean: of facts less is better"]


def test_items_in_groups_are_clusters(store: Store) -> None:
    items = [f"doc{i % 20:02d}/item{i:03d}" for i in range(200)]
    a = np.array([float(i % 20 < 15) for i in range(200)])
    b = np.array([float(i % 20 < 11) for i in range(200)])
    put(store, "a0", "facts", a, items)
    put(store, "b0", "facts", b, items)
    line = compare(arm(store, "a"), arm(store, "b"), KINDS).lines[0]
    oracle = stats.cluster_mean(b - a, [item.split("/")[0] for item in items])
    assert line.n_clusters == 20
    assert line.difference.high == pytest.approx(oracle.high, abs=1e-6) or line.difference.high > oracle.high - 1e-6
    assert line.sign_flip == pytest.approx(2 / 16, abs=0.02)  # four documents differ, all one way


def test_holm_is_over_the_whole_family(store: Store) -> None:
    rng = np.random.default_rng(0)
    for name in ("a0", "b0", "c0"):
        for benchmark in ("facts", "sums"):
            put(store, name, benchmark, (rng.random(200) < 0.6).astype(float))
    both = adjust([compare(arm(store, "a"), arm(store, other), KINDS) for other in ("b", "c")])
    raw = [line.difference.p for each in both for line in each.lines]
    assert [line.p_holm for each in both for line in each.lines] == pytest.approx(stats.holm(raw))
    assert all(math.isnan(mean.p_holm) for each in both for mean in each.means.values())


def test_an_arm_without_a_checkpoint_is_refused(store: Store) -> None:
    with pytest.raises(UserError, match="b has no finished checkpoint"):
        compare(arm(store, "a"), Arm("b", []), KINDS)


def test_of_several_evaluations_the_newest_that_both_have_counts(store: Store) -> None:
    for limit, share in ((3, 0.9), (1, 0.8), (2, 0.7)):
        for name in ("b0", "base"):
            put(store, name, "facts", right(share), limit=limit)
        (line,) = compare(base(store), arm(store, "b"), KINDS).lines
        assert (line.first, line.second, line.warnings) == (share, share, ())
    put(store, "base", "facts", right(0.5), limit=4)
    (line,) = compare(base(store), arm(store, "b"), KINDS).lines
    assert line.first == 0.7
    assert line.warnings == ("the evaluation before counts, as the newest (limit 4 instead of 2) stands alone",)


def test_a_mean_wants_every_benchmark_of_its_kind_scored_or_not(store: Store) -> None:
    """Nothing lost on the one that was scored is no proof about the ones that were not."""
    put(store, "base", "facts", right(0.8))
    put(store, "b0", "facts", right(0.8))
    found = compare(base(store), arm(store, "b"), {**KINDS, "ifeval": "general"})
    assert [line.name for line in found.lines] == ["facts"] and not found.means
    assert found.refused == dict.fromkeys(("clinic", "sums", "ifeval"), "neither base nor b has a score on it")
    with pytest.raises(
        UserError, match=r"general_mean of base and b: sums, ifeval: neither base nor b has a score on it"
    ):
        found.find("general_mean")


def test_what_a_null_could_have_found_is_at_the_level_that_decided(store: Store) -> None:
    """Of 20 benchmarks each stands at a twentieth of 5%; simulated with the error that was seen, a true difference of
    that size is found in four cases of five or, as Holm spends what others leave, a little more often."""
    rng, kinds = np.random.default_rng(1), {f"b{n:02d}": "general" for n in range(20)}
    for name in kinds:
        before = rng.random(200) < 0.7
        put(store, "a0", name, before.astype(float))
        put(store, "b0", name, np.where(rng.random(200) < 0.2, ~before, before).astype(float))
    found = compare(arm(store, "a"), arm(store, "b"), kinds)
    line = next(line for line in found.lines if line.null)
    d = line.difference
    assert line.detectable == pytest.approx(stats.detectable_by(d, confidence=1 - 0.05 / 20))
    assert line.detectable > 1.2 * stats.detectable_by(d)
    z = rng.normal(line.detectable / d.se, 1, (4000, 20))
    z[:, 1:] -= line.detectable / d.se  # the other 19 are true nulls
    adjusted = np.array([stats.holm(list(p)) for p in 2 * norm.sf(abs(z))])
    assert 0.78 < (adjusted[:, 0] <= 0.05).mean() < 0.86
    mean = found.means["general_mean"]
    assert mean.detectable == pytest.approx(stats.detectable_by(mean.difference))


def judged(store: Store, checkpoint: str, values: np.ndarray, ungraded: range) -> None:
    kept = [place for place in range(200) if place not in ungraded]
    put(store, checkpoint, "facts", np.isin(np.arange(200), ungraded).astype(float), metric="ungraded",
        primary_metric="acc", target="")  # fmt: skip
    put(store, checkpoint, "facts", values[kept], [ITEMS[place] for place in kept])


def test_items_that_a_judge_did_not_grade_are_left_out_and_counted(store: Store) -> None:
    judged(store, "base", right(0.8), range(1))
    judged(store, "b0", right(0.6), range(190, 200))
    (line,) = compare(base(store), arm(store, "b"), FACTS).lines
    assert (line.n, line.first, line.second) == (189, 159 / 189, 119 / 189)
    assert line.warnings == ("on 11 of 200 items the judge gave no grade in one run or another, which are left out",)
    judged(store, "c0", right(0.6), range(179, 200))
    assert compare(base(store), arm(store, "c"), FACTS).refused == {
        "facts": "on 22 of 200 items the judge gave no grade in one run or another"
    }
