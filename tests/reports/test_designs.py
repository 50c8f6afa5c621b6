"""Sweeps and crossings are found by what methods were trained with, and effects are what a regression finds."""

import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from evals.panels import BASE, Panel
from refinery.records import Score
from reports.cells import Cell, shown
from reports.designs import contrast, designs, differing, effects, missing, sweeps

ITEMS = tuple(f"i{n}" for n in range(200))


def cell(name: str, values: dict[str, np.ndarray] | None = None, **settings: Any) -> Cell:
    panels = [
        Panel(benchmark, "domain" if benchmark == "d" else "general", ITEMS, {BASE: np.zeros((1, 200)), name: x})
        for benchmark, x in (values or {}).items()
    ]
    return Cell(name, name, "spec", 0, settings, None, panels)


def scores(mean: float, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {b: mean + rng.normal(0, 0.1, (3, 200)) for b in ("d", "g", "h")}


# ---- what is found


def test_a_sweep_is_methods_that_differ_in_one_key() -> None:
    cells = [
        cell("k512", method="raft", data="fused", top_k=512, temperature=1.5),
        cell("k16", method="raft", data="fused", top_k=16, temperature=1.5),
        cell("raw", method="raft", data="source", top_k=512, temperature=1.5),
        cell("hot", method="raft", data="fused", top_k=512, temperature=2.0),
        cell("sft", method="sft", data="fused"),
    ]
    found = {sweep.key: [c.name for c in sweep.cells] for sweep in sweeps(cells)}
    assert found == {"top_k": ["k16", "k512"], "temperature": ["k512", "hot"]}  # by value; two words are no sweep


def test_words_are_swept_from_three_values_on_and_keep_their_order() -> None:
    kinds = ["forward", "reverse", "jsd"]
    cells = [cell(kind, method="raft", divergence=kind, cap=None) for kind in kinds]
    (sweep,) = sweeps(cells)
    assert not sweep.numeric and sweep.values == kinds
    assert sweeps(cells[:2]) == []
    mixed = [cell(str(cap), method="raft", cap=cap) for cap in (None, 1.0, 2.0)]
    assert [s.values for s in sweeps(mixed)] == [[None, 1.0, 2.0]]
    same = [cell("a", method="raft", k=1), cell("b", method="raft", k=1), cell("c", method="raft", k=2)]
    assert sweeps(same) == []  # two methods with one value: which of them the curve goes through is nobody's to say


def test_two_sweeps_of_one_key_are_told_apart() -> None:
    cells = [cell(f"{d}{k}", method="raft", data=d, k=k) for d in ("raw", "fused") for k in (1, 2, 3)]
    found = [sweep for sweep in sweeps(cells) if sweep.key == "k"]
    assert len(found) == 2
    words = differing([sweep.cells[0] for sweep in found], "k")
    assert sorted(words.values()) == ["fused", "raw"]


def test_a_crossing_is_found_and_levels_that_are_not_crossed_are_left_out() -> None:
    cells = [
        cell("a", method="sft", data="source"),
        cell("b", method="sft", data="fused"),
        cell("c", method="raft", data="source", top_k=8),
        cell("d", method="raft", data="fused", top_k=8),
        cell("e", method="opd", data="fused", top_k=8),
    ]
    (design,) = designs(cells)
    assert dict(design.factors) == {"method": ("sft", "raft"), "data": ("source", "fused")}
    assert {key: c.name for key, c in design.cells.items()} == {
        ("sft", "source"): "a", ("sft", "fused"): "b", ("raft", "source"): "c", ("raft", "fused"): "d",
    }  # fmt: skip
    assert designs(cells[1:]) == []
    assert [(data, both, c.name) for data, both, c in missing(cells[:2] + cells[3:4])] == [
        ("source", "sft and raft", "d")
    ]


def test_three_factors_are_one_design_and_not_three() -> None:
    cells = [
        cell(f"{m}{d}{lr}", method=m, data=d, rate=lr)
        for m in ("sft", "dft")
        for d in ("raw", "fused")
        for lr in (1, 2)
    ]
    (design,) = designs(cells)
    assert list(design.factors) == ["method", "data", "rate"] and len(design.cells) == 8


def test_a_key_that_goes_with_the_method_is_part_of_it() -> None:
    cells = [cell(f"{m}{d}", method=m, data=d, rate=r) for m, r in (("sft", 1), ("dft", 2)) for d in ("raw", "fused")]
    (design,) = designs(cells)
    assert list(design.factors) == ["method", "data"]


def test_one_recipes_own_settings_are_crossed_and_named_by_what_differs() -> None:
    common = {"data": "fused", "top_k": 512, "tail": "renorm", "shown": "answer"}
    cells = [cell("sft_raw", method="sft", data="source"), cell("sft", method="sft", data="fused")]
    cells += [
        cell(name, method="raft", **{**common, **changed})
        for name, changed in {
            "raft": {}, "k8": {"top_k": 8}, "k8_bucket": {"top_k": 8, "tail": "bucket"}, "bucket": {"tail": "bucket"},
            "raft_raw": {"data": "source"}, "kl": {"shown": None}, "kl_raw": {"shown": None, "data": "source"},
        }.items()
    ]  # fmt: skip
    objective, support = designs(cells)
    assert dict(objective.factors) == {
        "method": ("sft", "raft, shown answer", "raft, shown none"), "data": ("source", "fused")
    }  # fmt: skip
    assert dict(support.factors) == {"top_k": ("512", "8"), "tail": ("renorm", "bucket")}
    assert {c.name for c in support.cells.values()} == {"raft", "k8", "k8_bucket", "bucket"}


def test_settings_of_steps_cross_with_methods_though_raw_data_have_none() -> None:
    cells = [cell(f"raw{tau}", method="sft", data="source") for tau in (1, 2)]
    cells += [
        cell(f"{m}{tau}", method=m, data="close", **{"close.min_cosine": tau})
        for tau in (0.5, 0.8)
        for m in ("sft", "dft")
    ]
    (design,) = designs(cells)
    assert dict(design.factors) == {"method": ("sft", "dft"), "close.min_cosine": ("0.5", "0.8")}


@pytest.mark.parametrize(("value", "text"), [(None, "none"), (True, "true"), (0.0003, "0.0003"), ((), "none"),
                                             (("a", "b"), "a, b"), ("x" * 60, "…" + "x" * 39)])  # fmt: skip
def test_settings_as_labels(value: Any, text: str) -> None:
    assert shown(value) == text


# ---- what is measured


def regression(y: dict[tuple[int, ...], float], size: int) -> dict[tuple[int, ...], float]:
    """Effects of a 2 x ... x 2 design by least squares on coded levels, in the units of `designs.effects`: a main
    effect is twice its coefficient at -1/+1, an interaction of two four times."""
    keys = list(itertools.product((0, 1), repeat=size))
    subsets = [s for n in range(size + 1) for s in itertools.combinations(range(size), n)]
    x = np.array([[np.prod([2 * key[i] - 1 for i in s]) for s in subsets] for key in keys])
    found = np.linalg.lstsq(x, np.array([y[key] for key in keys]), rcond=None)[0]
    return {s: coefficient * 2 ** len(s) for s, coefficient in zip(subsets, found, strict=True)}


@pytest.mark.parametrize("size", [2, 3])
def test_effects_are_those_of_a_regression_on_coded_levels(size: int) -> None:
    names = ["method", "data", "rate"][:size]
    levels = {"method": ("sft", "dft"), "data": ("raw", "fused"), "rate": (1, 2)}
    cells, means = [], {}
    for number, key in enumerate(itertools.product((0, 1), repeat=size)):
        values = scores(0.1 * number + 0.3 * key[0] * key[1], number)
        cells.append(cell(f"c{number}", values, **{n: levels[n][k] for n, k in zip(names, key, strict=True)}))
        means[key] = float(np.mean([values["g"].mean(), values["h"].mean()]))
    (design,) = designs(cells)
    expected = regression(means, size)
    found = effects(design, [])
    assert len(found) == 2**size - 1
    for effect in found:
        subset = tuple(names.index(name) for name in effect.levels)
        assert effect.general.value == pytest.approx(expected[subset], abs=1e-6)
        assert effect.general.low <= effect.general.value <= effect.general.high
        assert effect.domain.value != effect.general.value


def test_three_levels_are_each_against_the_first() -> None:
    means = {("sft", "raw"): 0.1, ("dft", "raw"): 0.2, ("gem", "raw"): 0.4,
             ("sft", "fused"): 0.2, ("dft", "fused"): 0.6, ("gem", "fused"): 0.9}  # fmt: skip
    cells = [cell(f"{m}{d}", {"g": np.full((2, 200), mean)}, method=m, data=d) for (m, d), mean in means.items()]
    (design,) = designs(cells)
    found = {tuple(effect.levels.items()): effect.general.value for effect in effects(design, [])}
    assert found[("method", "dft"),] == pytest.approx((0.1 + 0.4) / 2)
    assert found[("method", "gem"),] == pytest.approx((0.3 + 0.7) / 2)
    assert found[("data", "fused"),] == pytest.approx((0.1 + 0.4 + 0.5) / 3)
    assert found[("method", "gem"), ("data", "fused")] == pytest.approx(0.7 - 0.3)
    assert all(effect.domain is None for effect in effects(design, []))


def test_a_contrast_is_paired_and_refuses_other_items() -> None:
    rng = np.random.default_rng(0)
    hard = rng.random(200)
    one = cell("one", {"g": (hard + rng.normal(0, 0.01, (3, 200)))})
    other = cell("other", {"g": (hard + 0.02 + rng.normal(0, 0.01, (3, 200)))})
    found = contrast([(other, 1.0), (one, -1.0)], "general", [])
    assert found.value == pytest.approx(0.02, abs=0.005) and found.low > 0.01  # unpaired the interval holds 0
    panel = other.panels[0]
    strange = Cell("other", "other", "spec", 0, {}, None, [Panel("g", "general", panel.items[::-1], panel.values)])
    assert contrast([(strange, 1.0), (one, -1.0)], "general", []) is None
    assert contrast([(other, 1.0), (one, -1.0)], "domain", []) is None


def test_a_contrast_of_clustered_items_is_that_of_the_comparison() -> None:
    from evals import paired

    items = tuple(f"api{i // 20}/{i}" for i in range(200))
    rng = np.random.default_rng(0)
    hard = np.repeat(rng.random(10), 20)
    values = {BASE: np.zeros((1, 200))} | {
        n: (rng.random((3, 200)) < hard * k).astype(float) for n, k in zip("ab", (1, 0.7), strict=True)
    }
    panel = Panel("g", "general", items, values)
    one, other = (Cell(n, n, "spec", 0, {}, None, [panel]) for n in "ab")
    found = contrast([(one, 1.0), (other, -1.0)], "general", [])
    expected = paired.mean([panel], ["a", "b"], paired.difference, 0)
    assert (found.value, found.low, found.high) == pytest.approx((expected.value, expected.low, expected.high))
    alone = Panel("g", "general", ITEMS, values)
    plain = contrast([(replace(one, panels=[alone]), 1.0), (replace(other, panels=[alone]), -1.0)], "general", [])
    assert found.high - found.low > 1.2 * (plain.high - plain.low)


def test_a_contrast_of_what_was_measured_otherwise_is_none_and_said() -> None:
    def measured(name: str, **settings: Any) -> Cell:
        like = Score("base", "g", "acc", 0, 0, 0, 200, f"fp-{settings}", True, settings)
        (panel,) = cell(name, {"g": scores(0.5, len(name))["g"]}).panels
        return Cell(f"s/{name}", name, "spec", 0, {}, None, [replace(panel, like=like)])

    short, same, long = measured("a", max_tokens=64), measured("bb", max_tokens=64), measured("c", max_tokens=1024)
    notes: list[str] = []
    assert contrast([(same, 1.0), (short, -1.0)], "general", notes) is not None and notes == []
    assert contrast([(long, 1.0), (short, -1.0)], "general", notes) is None
    assert notes == [
        "No difference is shown on g: s/a was measured otherwise than s/c (max_tokens 64 instead of 1024)."
    ]


def test_a_contrast_pairs_equal_seeds_wherever_they_stand() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.random((3, 200)), rng.random((2, 200))
    one, other = cell("one", {"g": x}), cell("other", {"g": y})
    one = replace(one, panels=[replace(one.panels[0], seeds={"one": [0, 1, 2]})])
    some = replace(other, panels=[replace(other.panels[0], seeds={"other": [2, 5]})])
    found = contrast([(one, 1.0), (some, -1.0)], "general", [])
    assert found.value == pytest.approx(x[2].mean() - y[0].mean())
    notes: list[str] = []
    none = replace(other, panels=[replace(other.panels[0], seeds={"other": [7, 8]})])
    found = contrast([(one, 1.0), (none, -1.0)], "general", notes)
    assert found.value == pytest.approx(x.mean() - y.mean()) and found.low < found.value < found.high
    assert notes == ["one, other have no seed in common: not paired by seed."]


# ---- in a report


@pytest.fixture(scope="module")
def richer(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The toy run with a sweep of top_k and RAFT on raw data: the 2 x 2 that tells data from objective."""
    from refinery.spec import MethodSpec
    from refinery.store import Store
    from tests.reports import conftest as toy

    class Recipe(toy.Recipe):
        top_k: int = 512

    spec = toy.make_spec(train=True)
    before = {benchmark: (chance, dict(methods)) for benchmark, (chance, methods) in toy.SCORES.items()}
    for _, methods in toy.SCORES.values():
        methods["raft_k16"], methods["raft_raw"] = methods["raft"] - 0.1, methods["raft"] - 0.25
    spec.train.methods["raft"] = MethodSpec(method="raft", params=Recipe())
    spec.train.methods["raft_k16"] = MethodSpec(method="raft", params=Recipe(top_k=16))
    spec.train.methods["raft_raw"] = MethodSpec(method="raft", data="source", params=Recipe())
    spec.train.data = "agrees"
    store = Store(tmp_path_factory.mktemp("richer") / "toy.duckdb")
    try:
        toy.fill(store, spec, train=True)
    finally:
        toy.SCORES.update(before)
    return SimpleNamespace(store=store, spec=spec)


def test_a_report_shows_the_sweep_and_the_crossing(richer: SimpleNamespace) -> None:
    from reports.blocks import Figure, Table, plain
    from reports.gather import gather
    from reports.sections import factorial, sensitivity

    data = gather(richer.store, richer.spec)
    (figure,) = [block for block in sensitivity.render(data) if isinstance(block, Figure)]
    assert figure.title == "What top_k does" and [plain(row[0]) for row in figure.data.rows] == [
        "16 raft_k16",
        "512 raft",
    ]
    own = {name: method.general_mean.score.value for name, method in data.comparison.methods.items()}
    shown_difference = float(plain(figure.data.rows[1][5]).split(" ")[0].replace("+", ""))
    assert shown_difference == pytest.approx(100 * (own["raft"] - own["raft_k16"]), abs=0.5)
    blocks = factorial.render(data)
    tables = [block for block in blocks if isinstance(block, Table)]
    names = [plain(row[0]) for row in tables[0].rows]
    assert names == ["method raft against sft", "data agrees against source",
                     "Interaction: method raft against sft; data agrees against source"]  # fmt: skip
    data_effect = (own["sft_close"] - own["sft_raw"] + own["raft"] - own["raft_raw"]) / 2
    assert float(plain(tables[0].rows[1][3]).split(" ")[0].replace("+", "")) == pytest.approx(
        100 * data_effect, abs=0.5
    )
