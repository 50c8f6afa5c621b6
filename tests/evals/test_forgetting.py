"""Comparisons on stores and arrays made for the purpose, against figures worked out by hand."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from evals import paired, stats
from evals.forgetting import compare, compare_panels, pool
from evals.panels import BASE, Panel, Panels, clusters, load
from refinery.records import Sample, Score
from refinery.store import Store

ITEMS = tuple(f"item{i:03d}" for i in range(200))


def right(share: float, seeds: int = 1, shift: int = 0) -> np.ndarray:
    """(seeds, 200): the first `share` of items right, the window moved by `shift` items from seed to seed."""
    rows = [np.roll(np.arange(200) < round(200 * share), shift * seed) for seed in range(seeds)]
    return np.array(rows, dtype=float)


def noisy(share: float, seeds: int, key: int) -> np.ndarray:
    return (np.random.default_rng(key).random((seeds, 200)) < share).astype(float)


def panel(benchmark: str, kind: str = "general", items: tuple[str, ...] = ITEMS, **values: np.ndarray) -> Panel:
    return Panel(benchmark, kind, items, values)  # type: ignore[arg-type]


def put(
    store: Store,
    checkpoint: str,
    benchmark: str,
    values: np.ndarray,
    settings: dict | None = None,
    items: tuple[str, ...] = ITEMS,
    metric: str = "acc",
) -> None:
    settings = {"batch_size": 64, "primary_metric": "acc"} | (settings or {})
    fingerprint = f"fp-{sorted(settings.items())}"
    mean = float(values.mean())
    store.add_scores(
        [Score(checkpoint, benchmark, metric, mean, mean, mean, len(values), fingerprint, settings=settings)]
    )
    store.add_samples(
        [
            Sample(checkpoint, benchmark, metric, item, float(value), "prompt", "target", "response", fingerprint)
            for item, value in zip(items, values, strict=True)
        ]
    )


def test_four_named_improvements() -> None:
    """Base 80%, baseline 40%, method 60% on one benchmark: half the damage, half as much again, 20 points."""
    loaded = Panels([panel("facts", base=right(0.8), sft=right(0.4, 3), mine=right(0.6, 3))], [])
    effect = compare_panels(loaded, baseline="sft").methods["mine"].general["facts"]
    assert effect.vs_base.value == pytest.approx(-0.2)
    assert effect.vs_baseline.value == pytest.approx(0.2)
    assert effect.damage_recovered.value == pytest.approx(0.5)
    assert effect.relative_gain.value == effect.pooled_gain.value == pytest.approx(0.5)
    assert effect.retention.value == pytest.approx(0.75)
    assert (effect.lost, effect.gained) == ((40, 40, 40), (0, 0, 0))
    assert effect.damage_recovered.low < 0.5 < effect.damage_recovered.high
    assert (effect.score.n_items, effect.score.n_seeds) == (200, 3)


def test_relative_gain_is_a_mean_of_ratios_and_pooled_gain_a_ratio_of_sums() -> None:
    loaded = Panels(
        [
            panel("facts", base=right(0.9), sft=right(0.2), mine=right(0.4)),
            panel("sums", items=tuple(f"s{i}" for i in ITEMS), base=right(0.9), sft=right(0.8), mine=right(0.8)),
        ],
        [],
    )
    mean = compare_panels(loaded, baseline="sft").methods["mine"].general_mean
    assert mean is not None
    assert mean.relative_gain.value == pytest.approx((1.0 + 0.0) / 2)
    assert mean.pooled_gain.value == pytest.approx(0.6 / 0.5 - 1)
    assert mean.damage_recovered.value == pytest.approx(0.2 / 0.8)
    assert mean.relative_gain.low < 0.5 < mean.relative_gain.high
    assert mean.lost == ()


def test_damage_that_may_be_none_is_not_estimable() -> None:
    loaded = Panels([panel("facts", base=noisy(0.7, 1, 0), sft=noisy(0.7, 3, 1), mine=noisy(0.7, 3, 2))], [])
    found = compare_panels(loaded, baseline="sft").methods["mine"].general["facts"].damage_recovered
    assert not found.estimable and math.isnan(found.low)
    assert found.note == "not estimable: the baseline's loss cannot be told from 0"


def test_a_baseline_that_gained_has_no_damage_to_recover() -> None:
    loaded = Panels([panel("facts", base=right(0.2), sft=right(0.8, 3), mine=right(0.5, 3))], [])
    found = compare_panels(loaded, baseline="sft").methods["mine"].general["facts"].damage_recovered
    assert found.note == "not estimable: the baseline's loss is negative"


def test_the_baseline_is_not_compared_with_itself() -> None:
    loaded = Panels([panel("facts", base=right(0.8), sft=right(0.4, 3), mine=right(0.6, 3))], [])
    effect = compare_panels(loaded, baseline="sft").methods["sft"].general["facts"]
    assert effect.vs_baseline.note == effect.damage_recovered.note == "this is the baseline"
    assert effect.vs_base.value == pytest.approx(-0.4)


def test_one_seed_says_so_and_the_base_does_not() -> None:
    loaded = Panels([panel("facts", base=noisy(0.8, 1, 0), sft=noisy(0.4, 1, 1))], [])
    effect = compare_panels(loaded, baseline="sft").methods["sft"].general["facts"]
    assert effect.vs_base.note == "one seed: the interval speaks of items alone"
    assert effect.base.note == ""


def test_holm_counts_every_method_and_general_benchmark() -> None:
    values = {"base": noisy(0.8, 1, 0), "sft": noisy(0.7, 3, 1), "mine": noisy(0.74, 3, 2)}
    loaded = Panels([panel("facts", **values), panel("sums", **values), panel("clinic", "domain", **values)], [])
    methods = compare_panels(loaded, baseline="sft").methods
    raw = [methods[m].general[b].vs_base.p for m in ("sft", "mine") for b in ("facts", "sums")]
    assert methods["sft"].general["facts"].p_holm == pytest.approx(min(1.0, 4 * min(raw)))
    assert math.isnan(methods["sft"].domain["clinic"].p_holm)


def test_matching_the_best_domain_score_needs_the_whole_interval() -> None:
    values = {"base": right(0.1), "sft": right(0.90, 3), "near": right(0.89, 3), "far": right(0.5, 3)}
    methods = compare_panels(Panels([panel("clinic", "domain", **values)], []), baseline="sft", margin=0.05)
    assert methods.best_domain == "sft"
    assert {n: m.matches_best_domain for n, m in methods.methods.items()} == {"sft": True, "near": True, "far": False}
    assert methods.methods["near"].vs_best_domain.p < 0.05 < methods.methods["far"].vs_best_domain.p


def test_within_margin_is_a_claim_about_the_lower_end() -> None:
    """No difference found is no proof of none: equal scores on other items, and a margin that 200 items cannot see."""
    rng = np.random.default_rng(0)
    values = {"base": right(0.8), "sft": np.array([rng.permutation(right(0.8)[0]) for _ in range(3)])}
    loaded = Panels([panel("facts", **values)], [])
    for margin, proven in ((0.02, False), (0.2, True)):
        effect = compare_panels(loaded, baseline="sft", margin=margin).methods["sft"].general["facts"]
        assert effect.vs_base.value == pytest.approx(0.0, abs=1e-9) and effect.within_margin == proven
        assert (effect.vs_base.p_worse < 0.025) == proven


def test_compare_reads_the_store(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.duckdb")
    put(store, "base0", "facts", right(0.8)[0])
    for seed in range(3):
        put(store, f"sft{seed}", "facts", right(0.4)[0])
        put(store, f"mine{seed}", "facts", np.roll(right(0.6)[0], seed))
    methods = {"sft": ["sft0", "sft1", "sft2"], "mine": ["mine0", "mine1", "mine2"]}
    found = compare(store, base="base0", methods=methods, baseline="sft", domain=[], general=["facts", "absent"])
    assert found.methods["mine"].general["facts"].vs_baseline.value == pytest.approx(0.2)
    assert found.methods["mine"].domain_mean is None and found.best_domain == ""
    assert found.notes[0] == "absent left out: the base has no score on it"


def test_items_are_joined_by_id_not_by_position(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.duckdb")
    put(store, "b", "facts", right(0.5)[0])
    put(store, "m", "facts", right(0.5)[0][::-1], items=ITEMS[::-1])
    found = load(store, base="b", methods={"m": ["m"]}, domain=[], general=["facts"]).found[0]
    assert (found.values[BASE] == found.values["m"]).all()


def test_only_like_is_compared_with_like(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.duckdb")
    for benchmark in ("facts", "sums"):
        put(store, "b", benchmark, right(0.8)[0])
        put(store, "ok", benchmark, right(0.7)[0])
    put(store, "odd", "facts", right(0.7)[0], settings={"batch_size": 32})
    put(store, "odd", "sums", right(0.7)[0])
    put(store, "few", "facts", right(0.7)[0][:100], items=ITEMS[:100])
    methods = {name: [name] for name in ("ok", "odd", "few")}
    found = compare(store, base="b", methods=methods, baseline="ok", domain=[], general=["facts", "sums"])
    assert set(found.methods["ok"].general) == {"facts", "sums"}
    assert set(found.methods["odd"].general) == {"sums"} and found.methods["odd"].general_mean is None
    assert "few" not in found.methods
    assert found.notes == [
        "odd: facts left out: checkpoint odd was measured under other settings (batch_size 32 instead of 64)",
        "few: facts left out: checkpoint few was asked other items than the base",
        "few: sums left out: checkpoint few has no score on it",
        "odd: no general mean, as it lacks a benchmark",
    ]


def test_of_several_settings_the_shared_one_is_used(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.duckdb")
    put(store, "b", "facts", right(0.1)[0], settings={"batch_size": 8})
    put(store, "b", "facts", right(0.8)[0])
    put(store, "m", "facts", right(0.7)[0])
    found = load(store, base="b", methods={"m": ["m"]}, domain=[], general=["facts"])
    assert not found.notes and found.found[0].values[BASE].mean() == pytest.approx(0.8)


def test_pooled_stores_share_items_but_not_seeds() -> None:
    """Three domains, the same general items: averaging over stores shrinks seed luck, never item luck."""
    rng = np.random.default_rng(0)
    item_effect = rng.normal(0, 1, (1, 200))

    def one(spread: float) -> Panels:
        sft = item_effect + rng.normal(0, spread, (3, 1))
        return Panels([panel("facts", base=np.zeros((1, 200)), sft=np.broadcast_to(sft, (3, 200)))], [])

    stores = {name: one(0.0) for name in ("clinic", "harbor", "market")}
    alone = compare_panels(stores["clinic"], baseline="sft").methods["sft"].general["facts"].vs_base
    pooled = pool(stores, baseline="sft").methods["sft"].general["facts"].vs_base
    assert pooled.high - pooled.low == pytest.approx(alone.high - alone.low, rel=0.1)
    assert (alone.n_seeds, pooled.n_seeds, pooled.n_items) == (3, 9, 200)
    stores = {name: one(2.0) for name in ("clinic", "harbor", "market")}
    alone = compare_panels(stores["clinic"], baseline="sft").methods["sft"].general["facts"].vs_base
    pooled = pool(stores, baseline="sft").methods["sft"].general["facts"].vs_base
    assert pooled.high - pooled.low < 0.7 * (alone.high - alone.low)


def test_a_difference_says_what_it_could_have_found() -> None:
    """Normal theory for one run: (t + 0.84) standard errors."""
    values = {"base": noisy(0.7, 1, 0), "sft": noisy(0.7, 1, 1)}
    effect = compare_panels(Panels([panel("facts", **values)], []), baseline="sft").methods["sft"].general["facts"]
    se = float((values["sft"] - values["base"]).std(ddof=1)) / math.sqrt(200)
    assert effect.vs_base.detectable == pytest.approx((1.972 + 0.844) * se, rel=0.03)
    assert math.isnan(effect.score.detectable)


def test_the_centred_mean_gives_a_two_way_choice_its_weight() -> None:
    """30 points lost of the 50 above chance are 60; 30 points of a written benchmark are 30."""
    found = [panel("choice", base=right(1.0), sft=right(0.7, 3)), panel("facts", base=right(1.0), sft=right(0.7, 3))]
    for each, chance in zip(found, (0.5, 0.0), strict=True):
        object.__setattr__(each, "chance", chance)
    method = compare_panels(Panels(found, []), baseline="sft").methods["sft"]
    assert method.general_mean is not None and method.general_mean.vs_base.value == pytest.approx(-0.3)
    assert method.general_centred is not None
    assert method.general_centred.vs_base.value == pytest.approx(-(0.6 + 0.3) / 2)
    assert method.general_centred.base.value == pytest.approx(1.0)
    object.__setattr__(found[0], "chance", None)
    assert compare_panels(Panels(found, []), baseline="sft").methods["sft"].general_centred is None


def test_items_that_share_a_document_widen_the_interval() -> None:
    """Ten questions a document, answered alike: twenty documents' worth of evidence, not two hundred items'."""
    documents = np.random.default_rng(3).random(20) < 0.6
    sft = np.repeat(documents, 10).astype(float)[None]
    alone = [panel("facts", base=np.ones((1, 200)), sft=sft)]
    named = tuple(f"doc{i // 10:02d}/{i:03d}" for i in range(200))
    grouped = [panel("facts", items=named, base=np.ones((1, 200)), sft=sft)]
    widths = []
    for found in (alone, grouped):
        vs_base = compare_panels(Panels(found, []), baseline="sft").methods["sft"].general["facts"].vs_base
        widths.append(vs_base.high - vs_base.low)
    assert math.sqrt(10) < widths[1] / widths[0] < 1.25 * math.sqrt(10)  # and t with 19 degrees of freedom


def test_one_run_on_clustered_items_holds_the_truth() -> None:
    """Ten groups of ten items, each with a share of its own: Wilson's interval takes them for a hundred items."""
    items = tuple(f"api{i // 10}/{i}" for i in range(100))
    rng, held = np.random.default_rng(0), 0
    for _ in range(300):
        x = (rng.random((10, 10)) < rng.beta(1, 1, 10)[:, None]).astype(float).reshape(1, -1)
        score = paired.mean([panel("apis", items=items, base=x)], [BASE], lambda b: b, 0)
        held += score.low <= 0.5 <= score.high
    assert held / 300 >= 0.92
    plain = paired.mean([panel("apis", items=ITEMS[:100], base=x)], [BASE], lambda b: b, 0)
    assert (plain.low, plain.high) == stats.wilson(float(x.sum()), 100)


# ---- methods with other seeds


def seeded(values: dict[str, np.ndarray], **seeds: list) -> Panel:
    return Panel("facts", "general", ITEMS, values, seeds=seeds)


def test_a_score_is_of_all_seeds_and_a_difference_of_those_that_both_have() -> None:
    values = {"base": noisy(0.8, 1, 0), "sft": noisy(0.5, 3, 1), "mine": noisy(0.6, 2, 2)}
    found = compare_panels(Panels([seeded(values, sft=[0, 1, 2], mine=[2, 7])], []), baseline="sft")
    sft, mine = (found.methods[name].general["facts"] for name in ("sft", "mine"))
    assert sft.score.value == pytest.approx(values["sft"].mean()) and sft.score.n_seeds == 3
    assert mine.vs_base.value == pytest.approx(values["mine"].mean() - values["base"].mean())
    assert mine.vs_base.n_seeds == 2 and len(mine.lost) == 2
    assert mine.vs_baseline.value == pytest.approx(values["mine"][0].mean() - values["sft"][2].mean())
    assert mine.vs_baseline.n_seeds == 1 and mine.vs_baseline.note == "one seed: the interval speaks of items alone"
    assert "mine and sft differ in seeds: their difference is on the 1 that both have" in found.notes


def test_without_a_common_seed_a_difference_is_one_of_means() -> None:
    """Its variance by hand: both methods' seeds, and the items, each mean over its own seeds."""
    rng = np.random.default_rng(0)
    hard = rng.random(200)
    values = {"base": np.ones((1, 200))} | {
        name: np.clip(hard + rng.normal(at, 0.05, (n, 1)) + rng.normal(0, 0.1, (n, 200)), -9, 9)
        for name, at, n in (("sft", 0.0, 4), ("mine", 0.1, 3))
    }
    found = compare_panels(Panels([seeded(values, sft=[0, 1, 2, 3], mine=["a", "b", "c"])], []), baseline="sft")
    change = found.methods["mine"].general["facts"].vs_baseline
    assert change.value == pytest.approx(values["mine"].mean() - values["sft"].mean())
    assert change.n_seeds == 3 and change.note == "the methods have no seed in common"
    between = sum(values[name].mean(1).var(ddof=1) / len(values[name]) for name in ("sft", "mine"))
    items = (values["mine"].mean(0) - values["sft"].mean(0)).var(ddof=1) / 200
    se = math.sqrt(between + items)
    assert 2.3 * se < change.high - change.value < 4 * se  # t with some five degrees of freedom
    recovered = found.methods["mine"].general["facts"].damage_recovered
    by_hand = (values["mine"].mean() - values["sft"].mean()) / (1 - values["sft"].mean())
    assert recovered.value == pytest.approx(by_hand)
    assert found.methods["mine"].general["facts"].relative_gain.value == pytest.approx(
        values["mine"].mean() / values["sft"].mean() - 1
    )
    assert any("have no seed in common" in note for note in found.notes)


def test_unpaired_differences_hold_the_truth() -> None:
    held = 0
    for key in range(200):
        rng = np.random.default_rng(key)
        hard = rng.random(200)
        sides = {n: hard + rng.normal(0, 0.05, (3, 1)) + rng.normal(0, 0.2, (3, 200)) for n in ("sft", "mine")}
        one = seeded({"base": np.ones((1, 200)), **sides}, sft=[0, 1, 2], mine=[3, 4, 5])
        change = paired.mean([one], ["mine", "sft"], paired.difference, 0)
        held += change.low <= 0 <= change.high
    assert held / 200 >= 0.92


def test_the_least_forgetful_of_the_best_is_named_with_its_lead() -> None:
    values = {"base": right(0.9), "sft": right(0.5, 3), "near": right(0.79, 3), "mine": right(0.8, 3)}
    same = {name: right(0.9, 3) for name in ("sft", "near", "mine")} | {"base": right(0.1)}
    found = compare_panels(Panels([panel("clinic", "domain", **same), panel("facts", **values)], []), baseline="sft")
    assert found.best_general == "mine"
    leads = {name: method.vs_best_general for name, method in found.methods.items()}
    assert leads["mine"].value == 0 and leads["near"].value == pytest.approx(-0.01) and leads["near"].high > 0
    assert leads["sft"].value == pytest.approx(-0.3) and leads["sft"].high < 0


def test_few_groups_are_parts_of_a_benchmark_and_no_clusters() -> None:
    assert clusters(tuple(f"part{i % 7}/{i}" for i in range(70))) is None
    assert clusters(tuple(f"doc{i % 8}/{i}" for i in range(80))) == [f"doc{i % 8}" for i in range(80)]
    assert clusters(tuple(str(i) for i in range(80))) is None


def test_an_import_is_compared_where_the_prompts_settle_it(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.duckdb")
    put(store, "b", "facts", right(0.8)[0], settings={"task": "d1"})
    put(store, "m", "facts", right(0.7)[0], settings={"task": "unknown", "imported": "lm-eval"})
    put(store, "n", "facts", right(0.7)[0], settings={"task": "unknown", "imported": "x", "max_tokens": "unknown"})
    found = load(store, base="b", methods={"m": ["m"], "n": ["n"]}, domain=[], general=["facts"])
    assert set(found.found[0].values) == {BASE, "m"}
    assert found.notes == [
        "n: facts left out: checkpoint n was measured under other settings (max_tokens unknown on both sides)"
    ]


def test_stores_measured_otherwise_are_not_pooled(tmp_path: Path) -> None:
    loaded = {}
    for name, size in (("clinic", 64), ("harbor", 64), ("market", 8)):
        store = Store(tmp_path / f"{name}.duckdb")
        put(store, "b", "facts", right(0.8)[0], settings={"batch_size": size})
        put(store, "m", "facts", right(0.5)[0], settings={"batch_size": size})
        loaded[name] = load(store, base="b", methods={"m": ["m"]}, domain=[], general=["facts"])
    found = pool(loaded, baseline="m")
    assert found.notes == ["market: facts left out: unlike clinic's (batch_size 8 instead of 64)"]
    assert found.methods["m"].n_seeds == 2


def said_and_measured(store: Store) -> tuple[list[str], dict[str, float]]:
    found = load(store, base="base", methods={"a": ["a0"], "b": ["b0"]}, domain=[], general=["facts"])
    return found.notes, {name: float(values.mean()) for name, values in found.found[0].values.items()}


def test_of_several_evaluations_the_newest_counts(tmp_path: Path) -> None:
    """Whichever digest sorts first; and one that stands counts again when it is written again."""
    store = Store(tmp_path / "s.duckdb")
    for limit, share in ((3, 0.9), (1, 0.8), (2, 0.7)):
        for name in ("b0", "base", "a0"):
            put(store, name, "facts", right(share)[0], {"limit": limit})
        assert said_and_measured(store) == ([], {"base": share, "a": share, "b": share})
    for name in ("base", "a0", "b0"):
        store.add_scores([score for score in store.scores(name) if score.settings["limit"] == 1])
    assert said_and_measured(Store(store.path)) == ([], {"base": 0.8, "a": 0.8, "b": 0.8})


def test_a_newer_evaluation_that_fewer_share_counts_and_is_told(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.duckdb")
    for name in ("base", "a0", "b0"):
        put(store, name, "facts", right(0.9)[0], {"limit": 1})
    put(store, "base", "facts", right(0.7)[0], {"limit": 2})
    notes, values = said_and_measured(store)
    assert values == {"base": 0.9, "a": 0.9, "b": 0.9}
    assert notes == ["facts: the evaluation before counts, as the newest (limit 2 instead of 1) stands alone"]
    put(store, "a0", "facts", right(0.6)[0], {"limit": 2})
    notes, values = said_and_measured(store)
    assert values == {"base": 0.7, "a": 0.6}
    assert notes == [
        "facts: the newest evaluation counts; an older one (limit 1 instead of 2) was made of more checkpoints",
        "b: facts left out: checkpoint b0 was measured under other settings (limit 1 instead of 2)",
    ]


def test_the_base_asked_another_task_since_is_another_point_of_a_matrix(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.duckdb")
    for task, name in (("x", "a0"), ("y", "of another point")):
        put(store, "base", "facts", right(0.9)[0], {"task": task})
        put(store, name, "facts", right(0.8)[0], {"task": task})
    found = load(store, base="base", methods={"a": ["a0"]}, domain=[], general=["facts"])
    assert float(found.found[0].values["a"].mean()) == 0.8 and found.notes == []


def judged(store: Store, checkpoint: str, values: np.ndarray, ungraded: Sequence[int]) -> None:
    """As a benchmark that a model grades leaves it: `ungraded` for every item, the score for those with a grade."""
    kept = [place for place in range(200) if place not in ungraded]
    missed = np.isin(np.arange(200), ungraded).astype(float)
    put(store, checkpoint, "chats", missed, metric="ungraded")
    put(store, checkpoint, "chats", values[kept], items=tuple(ITEMS[place] for place in kept))


def test_items_that_a_judge_did_not_grade_are_left_out_on_all_sides(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.duckdb")
    judged(store, "base", right(0.8)[0], [0])
    judged(store, "a0", right(0.6)[0], [199, 198])
    judged(store, "b0", right(0.5)[0], [])
    found = load(store, base="base", methods={"a": ["a0"], "b": ["b0"]}, domain=[], general=["chats"])
    (one,) = found.found
    assert one.items == ITEMS[1:198]
    means = {name: float(values.mean()) for name, values in one.values.items()}
    assert means == {"base": 159 / 197, "a": 119 / 197, "b": 99 / 197}
    assert found.notes == ["chats: 3 of 200 items left out: the judge gave no grade to one model or another"]


def test_a_model_of_which_too_much_was_not_graded_is_left_out(tmp_path: Path) -> None:
    store = Store(tmp_path / "s.duckdb")
    judged(store, "base", right(0.8)[0], [0])
    judged(store, "a0", right(0.6)[0], range(21))
    judged(store, "b0", right(0.5)[0], range(20))
    methods = {"a": ["a0"], "b": ["b0"]}
    found = load(store, base="base", methods=methods, domain=[], general=["chats"])
    assert list(found.found[0].values) == [BASE, "b"] and len(found.found[0].items) == 180
    assert found.notes[0] == "a: chats left out: the judge gave no grade on 21 of 200 items"
    judged(store, "poor", right(0.8)[0], range(30))
    found = load(store, base="poor", methods=methods, domain=[], general=["chats"])
    assert not found.found
    assert found.notes == ["chats left out: of the base the judge gave no grade on 30 of 200 items"]
