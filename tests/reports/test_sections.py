"""The newer sections: each figure found again from the rows, what is unknown said to be, nothing shown without data."""

import re
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from evals.forgetting import compare_panels
from evals.paired import Estimate
from evals.panels import Panels
from refinery.records import digest
from refinery.spec import EvaluateSpec
from refinery.spec_models import Price, StageSpec
from refinery.store import Store
from reports import machine
from reports.blocks import Explorer, Figure, Paragraph, Table, plain
from reports.gather import gather
from reports.gather_items import PER_BENCHMARK
from reports.sections import (
    cost,
    factorial,
    forecasts,
    forgetting,
    items,
    pareto,
    provenance,
    recovery,
    sensitivity,
    stages,
)
from reports.sections.summary import in_plane
from tests.reports import conftest as toy_run


@pytest.fixture(scope="module")
def data(toy: SimpleNamespace) -> Any:
    return gather(toy.store, toy.spec)


def first(blocks: Any, kind: type) -> Any:
    return next(block for block in blocks if isinstance(block, kind))


def cells(table: Table) -> dict[str, list[str]]:
    return {plain(row[0]): [plain(cell) for cell in row[1:]] for row in table.rows}


# ---- how sure


def test_a_null_has_what_would_have_been_found_and_the_mean_is_shown_centred(data: Any) -> None:
    """Of a four-way choice a point is worth 4/3 of one between guessing and perfect."""
    blocks = forgetting.render(data)
    (certain,) = [b for b in blocks if isinstance(b, Table)]
    shown = {name: row[2] for name, row in cells(certain).items()}
    raft = data.comparison.methods["raft"].general_mean.vs_base
    assert raft.p > 0.05 and shown == {"sft_raw": "", "sft_close": "", "raft": f"{100 * raft.detectable:.1f}"}
    assert not any("centred" in plain(b.text) for b in blocks if isinstance(b, Paragraph))
    panels = [replace(panel, chance=0.25) for panel in data.panels]
    comparison = compare_panels(Panels(panels, []), baseline="sft_raw")
    own = replace(data, comparison=comparison)
    (line,) = [plain(b.text) for b in forgetting.render(own) if isinstance(b, Paragraph) and "centred" in plain(b.text)]
    general = [panel.values for panel in panels if panel.kind == "general"]
    for name in comparison.methods:
        change = np.mean([(values[name].mean() - values["base"].mean()) / 0.75 for values in general])
        said = re.search(rf"{name} ([−+]?[0-9.]+)", line)
        assert said is not None and float(said[1].replace("−", "-")) == pytest.approx(100 * change, abs=0.06)
    centred = {n["method"]: n["value"] for n in machine.numbers(own) if n["benchmark"] == "centred mean"
               and n["quantity"] == "vs_base"}  # fmt: skip
    assert centred["raft"] == pytest.approx(np.mean([(v["raft"].mean() - v["base"].mean()) / 0.75 for v in general]))


# ---- gain against loss


def test_the_front_holds_whom_no_one_beats_on_both_sides(data: Any) -> None:
    measured = in_plane(data.comparison)
    levels = {m.name: (m.domain.score.value, m.general.score.value) for m in measured}
    beaten = pareto.dominated(measured)
    for name, own in levels.items():
        by = {n for n, its in levels.items() if its[0] >= own[0] and its[1] >= own[1] and its != own}
        assert set(beaten[name]) == by
    assert beaten["raft"] == [] and "raft" in beaten["sft_raw"]
    text = plain(first(pareto.render(data), Paragraph).text)
    assert text.startswith("By their means alone no method is better on both sides than raft")


def test_where_none_beats_another_that_is_said(data: Any) -> None:
    measured = in_plane(data.comparison)
    beaten = pareto.dominated(measured)
    level = [m for m in measured if not any(other in beaten[m.name] for other in (n.name for n in measured))]
    pair = [*level, replace(level[0], name="its_twin")]  # alike, so that neither beats the other
    text = plain(pareto._front(pair).text)
    assert text == f"By their means alone none of {', '.join(m.name for m in pair)} beats another on both sides."


def test_weights_from_elsewhere_learned_from_nothing_that_is_known(data: Any) -> None:
    runs = {name: [{**row, "data_fingerprint": ""} for row in rows] for name, rows in data.checkpoints.items()}
    for given, empty in ((data, False), (replace(data, checkpoints=runs), True)):
        table = first(provenance._weights(given), Table)
        assert [row[3] == "" for row in table.rows] == [True, *[empty] * (len(table.rows) - 1)]


# ---- recovery


def test_a_mark_never_floats_outside_its_own_interval() -> None:
    """What reaches beyond the picture is cut on the far side of the mark, and says so."""
    far, wide, plain_one = (Estimate(*ends, 9, 1) for ends in ((-2.11, -3.31, -1.43), (0.5, -9, 12), (0.5, 0.2, 0.8)))
    drawn = recovery._dots([far, wide, plain_one])
    assert all(dot.low <= dot.value - 0.3 and dot.value + 0.3 <= dot.high for dot in drawn)
    assert [dot.goes_on for dot in drawn] == ["<", "<>", ""]
    assert [(dot.low, dot.high) for dot in drawn[:2]] == [(-2.61, -1.43), (-2.61, 3)]


def test_recovery_per_benchmark_is_the_share_of_the_baselines_loss(data: Any) -> None:
    found = cells(first(recovery.render(data), Figure).data)
    panels = {panel.benchmark: panel.values for panel in data.panels}
    for name in ("sft_close", "raft"):
        for cell, benchmark in zip(found[name][1:], data.spec.evaluate.general, strict=True):
            own, base, bad = (panels[benchmark][arm].mean() for arm in (name, "base", "sft_raw"))
            assert float(cell.split("%")[0]) == pytest.approx(100 * (own - bad) / (base - bad), abs=0.51)


# ---- the verdict


def verdict_of(shares: dict[str, float]) -> list[str]:
    """Every method equal on the domain; each loses as many of 300 general items as its share says, others each seed."""
    from evals.forgetting import compare_panels
    from evals.panels import BASE, Panel, Panels
    from reports.sections.summary import verdict

    items_ = tuple(f"i{n:03d}" for n in range(300))
    lost = {
        name: np.stack([np.roll(np.arange(300) >= 300 * share, 30 * (number + seed)) for seed in range(3)]).astype(
            float
        )
        for number, (name, share) in enumerate(shares.items())
    }
    domain = {BASE: np.zeros((1, 300)), **{name: np.ones((3, 300)) for name in shares}}
    panels = [Panel("d", "domain", items_, domain), Panel("g", "general", items_, {BASE: np.ones((1, 300)), **lost})]
    comparison = compare_panels(Panels(panels, []), baseline="sft")
    lead, *_ = verdict(comparison, in_plane(comparison))
    return [plain(text) for text in lead.items]


def test_who_forgets_least_is_said_only_where_it_is_known() -> None:
    apart = verdict_of({"sft": 0.3, "mine": 0.05, "other": 0.2})[1]
    assert apart.startswith("mine forgets least of those: it loses 5.0")
    close = verdict_of({"sft": 0.3, "mine": 0.05, "other": 0.055, "third": 0.06})[1]
    assert close.startswith(
        "mine has the highest general mean of those, and 2 others cannot be told from it: it loses 5.0"
    )
    assert "one other cannot be told" in verdict_of({"sft": 0.3, "mine": 0.05, "other": 0.055})[1]


# ---- items


def test_the_page_holds_lost_and_gained_items_of_every_method_up_to_the_limit(data: Any) -> None:
    explorer = first(items.render(data), Explorer)
    assert list(explorer.arms) == ["base", "sft_raw", "sft_close", "raft"]
    for panel, found in zip(data.panels, explorer.sets, strict=True):
        differs = {arm: panel.values[arm][0] - panel.values["base"][0] for arm in explorer.arms}
        changed = np.any([d != 0 for d in differs.values()], axis=0)
        assert found.changed == changed.sum() and found.total == len(panel.items)
        assert len(found.items) == min(found.changed, PER_BENCHMARK)
        shown = {item.id for item in found.items}
        assert len(shown) == len(found.items) <= PER_BENCHMARK
        for arm, difference in differs.items():
            for sign in (-1, 1):
                own = {panel.items[i] for i in np.flatnonzero(sign * difference > 0)}
                assert len(own & shown) >= min(len(own), PER_BENCHMARK // 6), (panel.benchmark, arm, sign)
        for item in found.items:
            place = panel.items.index(item.id)
            assert item.values == [panel.values[arm][0][place] for arm in explorer.arms]
            assert [answer == "It is dorulin" for answer in item.answers] == [v == 1 for v in item.values]
    counts = cells(explorer.counts)
    assert counts["sft_raw"][1] == "48 / 0" and counts["on this page"][1] == "40"


def test_nothing_is_explored_where_nothing_changed(data: Any, toy: SimpleNamespace) -> None:
    from reports.gather_items import explorer

    still = [replace(p, values={arm: p.values["base"][:1].repeat(3, 0) for arm in p.values}) for p in data.panels]
    assert explorer(toy.store, still, data.base, data.checkpoints) is None
    assert explorer(toy.store, data.panels, None, data.checkpoints) is None
    assert items.render(replace(data, explorer=None)) == []


# ---- cost


def test_cost_adds_up_and_says_what_was_not_measured(data: Any) -> None:
    asked = [{"model": "toy-7b", "n": 200, "prompt_tokens": 1_500_000, "completion_tokens": 400_000, "cut": 1}]
    spec = data.spec.model_copy(deep=True)
    spec.models["self"].price = Price(input=2.0, output=10.0)
    checkpoints = {
        name: [{**row, "manifest": {**row["manifest"], "seconds": 60.0 * (1 + (name == "raft")), "answer_tokens": 5000}}
               for row in rows]
        for name, rows in data.checkpoints.items()
    }  # fmt: skip
    metrics = {row["fingerprint"]: {"rollout_tokens": {1: 300.0, 2: 500.0}} if name == "raft" else {}
               for name, rows in checkpoints.items() for row in rows}  # fmt: skip
    full = replace(data, requests=asked, spec=spec, checkpoints=checkpoints, metrics=metrics)
    blocks = cost.render(full)
    said = plain(first(blocks, Paragraph).text)
    assert said == ("200 requests with 1.50M prompt and 400k answer tokens; 12 min for 9 trainings. "
                    "Energy was not measured.")  # fmt: skip
    tables = {block.name: block for block in blocks if isinstance(block, Table)}
    assert cells(tables["cost-requests"])["self"] == ["200", "1.50M", "400k", "1 (0.5%)", "$7.00"]
    trained = cells(tables["cost-trainings"])
    assert trained["raft"][:4] == ["2 min", "2.0×", "5.00k", "800"]
    assert trained["sft_raw"][:4] == ["60 s", "1.0×", "5.00k", ""]
    assert "Teacher tokens" not in [column.title for column in tables["cost-trainings"].columns]
    known = {
        n: [{**r, "manifest": {**r["manifest"], "energy_wh": 500.0}} for r in rows] for n, rows in checkpoints.items()
    }
    resumed = {name: {"step_seconds": {1: 1.0, 2: 1.0}, "energy_joules": {2: 5.0}} for name in metrics}
    assert "Energy was not measured." in plain(first(cost.render(replace(full, metrics=resumed)), Paragraph).text)
    metered = {name: {**own, "energy_joules": {1: 1000.0, 2: 2600.0}} for name, own in metrics.items()}
    assert "9.00 Wh." in plain(first(cost.render(replace(full, metrics=metered)), Paragraph).text)
    assert "4.50 kWh." in plain(first(cost.render(replace(full, checkpoints=known)), Paragraph).text)


# ---- provenance


def test_the_block_to_copy_writes_the_spec_as_it_was_and_runs_it_with_its_overrides(data: Any, tmp_path: Path) -> None:
    """Run by a real shell, with `pip` and `refinery` replaced by programs that write down what they are given."""
    text = data.runs[0]["spec"] + "SPEC 'quoted' $HOME `id` \\\nEOF\n"
    stored = f"{text}# --set train.seeds=[0, 1]\n# --set name=it's\n"
    script = provenance.repeat(data, {**data.runs[0], "spec": stored})
    for program in ("pip", "refinery"):
        (tmp_path / program).write_text(f'#!/bin/sh\nfor a in "$@"; do echo "$a"; done > {tmp_path}/{program}.said\n')
        (tmp_path / program).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": "/nowhere"}
    subprocess.run(["sh", "-e", "-c", script], cwd=tmp_path, check=True, env=environment)
    assert (tmp_path / "toy.yaml").read_text("utf-8") == text
    said = (tmp_path / "refinery.said").read_text("utf-8").splitlines()
    assert said == ["run", "toy.yaml", "--set", "train.seeds=[0, 1]", "--set", "name=it's"]
    assert (tmp_path / "pip.said").read_text("utf-8").splitlines() == ["install", "refinery==0.1.0"]
    expected = re.findall(r"^# expected: (.*)$", script, re.MULTILINE)
    assert f"spec {data.runs[0]['spec_digest']}" in expected
    for name, rows in data.checkpoints.items():
        assert {f"{name} seed {row['seed']} {row['fingerprint']}" for row in rows} <= set(expected)


# ---- stages


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """One method that learns two domains in a row and loses some of the first."""
    spec = toy_run.make_spec(train=True).model_copy(deep=True)
    spec.train.methods = {"sft": spec.train.methods["sft_raw"]}
    spec.train.stages = [StageSpec(name="one", data="source"), StageSpec(name="two", data="source")]
    spec.train.seeds, spec.train.tune = [0, 1], {}
    spec.evaluate = EvaluateSpec(domain=["first", "second"], general=["facts", "sums"])
    skill = {
        "first": (0.1, {"sft@one": 0.9, "sft": 0.6}), "second": (0.1, {"sft@one": 0.3, "sft": 0.9}),
        "facts": (0.9, {"sft@one": 0.8, "sft": 0.5}), "sums": (0.8, {"sft@one": 0.8, "sft": 0.7}),
    }  # fmt: skip
    before = dict(toy_run.SCORES)
    toy_run.SCORES.clear()
    toy_run.SCORES.update(skill)
    store = Store(tmp_path_factory.mktemp("staged") / "toy.duckdb")
    try:
        toy_run.fill(store, spec, train=False)
        rows = [toy_run.checkpoint("base" * 8, "base", "", "base", 0, {}, "")]
        samples, scores = toy_run.evaluate("base" * 8, None, 0)
        for name, role in (("sft@one", "stage"), ("sft", "final")):
            for seed in spec.train.seeds:
                made = digest([name, seed])
                rows.append(toy_run.checkpoint(made, name, "sft", role, seed, {}, "base" * 8))
                more = toy_run.evaluate(made, name, seed)
                samples, scores = samples + more[0], scores + more[1]
        store.replace("checkpoints", rows, ["fingerprint"])
        store.add_samples(samples)
        store.add_scores(scores)
    finally:
        toy_run.SCORES.clear()
        toy_run.SCORES.update(before)
    return SimpleNamespace(store=store, spec=spec)


def test_the_stage_matrix_is_what_the_samples_say(staged: SimpleNamespace) -> None:
    found = gather(staged.store, staged.spec)
    sql = (
        "SELECT c.name, s.benchmark, c.seed, avg(s.value) AS mean FROM samples s JOIN checkpoints c ON s.checkpoint = "
    )
    sql += "c.fingerprint GROUP BY ALL"
    mean: dict[tuple[str, str], list[float]] = {}
    for row in staged.store.query(sql):
        mean.setdefault((row["name"], row["benchmark"]), []).append(row["mean"])
    blocks = stages.render(found)
    table = cells(first(blocks, Figure).data)
    columns = ["first", "second", "facts", "sums"]
    for shown, name in (("base", "base"), ("one", "sft@one"), ("two", "sft")):
        for cell, benchmark in zip(table[shown], columns, strict=True):
            assert float(cell.split("%")[0]) == pytest.approx(100 * np.mean(mean[name, benchmark]), abs=0.51)
    lost = [max(np.mean(mean[n, b]) for n in ("base", "sft@one")) - np.mean(mean["sft", b]) for b in columns]
    shown = [float(c.replace("−", "-").replace("+", "")) for c in table["forgotten since its best, points"]]
    assert shown == pytest.approx([100 * each for each in lost], abs=0.051)
    since = table["since learnt, points"]
    change = 100 * (np.mean(mean["sft", "first"]) - np.mean(mean["sft@one", "first"]))
    assert float(since[0].split(" ")[0].replace("−", "-")) == pytest.approx(change, abs=0.51)
    assert since[1:] == ["", "", ""]
    summary = cells(next(b for b in blocks if isinstance(b, Table) and b.name == "stages"))["sft"]
    assert float(summary[0].split("%")[0]) == pytest.approx(
        100 * np.mean([np.mean(mean["sft", b]) for b in ("first", "second")]), abs=0.51
    )
    general = 100 * np.mean([np.mean(mean["sft", b]) - np.mean(mean["base", b]) for b in ("facts", "sums")])
    assert float(summary[3].split(" ")[0].replace("−", "-")) == pytest.approx(general, abs=0.51)
    assert sensitivity.render(found) == factorial.render(found) == []


def test_without_stages_there_is_no_such_section(data: Any) -> None:
    assert stages.render(data) == []


# ---- forecasts


def test_forecasts_say_how_few_runs_they_rest_on(data: Any) -> None:
    blocks = forecasts.render(data)
    warning = next(b for b in blocks if isinstance(b, Paragraph) and b.kind == "warning")
    assert plain(warning.text).startswith("Only 9 runs of 3 methods")
    figure = first(blocks, Figure)
    assert {plain(row[-1]) for row in figure.data.rows} == {"9 / 3 / 2"}  # raw and refined data: two values
    assert forecasts.render(replace(data, comparison=None)) == []
