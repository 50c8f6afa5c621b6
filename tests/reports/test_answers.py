"""How models answered, and models evaluated elsewhere: the figures of the store, and no comparison that is not fair."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from evals import importing
from refinery.store import Store
from reports import report
from reports.blocks import Bullets, Table, plain
from reports.gather import gather
from reports.sections import answers, imported


@pytest.fixture
def own(toy: SimpleNamespace, tmp_path: Path) -> Store:
    """The toy store, to be changed."""
    return Store(Path(shutil.copy(toy.store.path, tmp_path / "toy.duckdb")))


def tables(blocks: Any) -> list[dict[str, list[str]]]:
    """Of each table, the first cell to the others by the columns' titles."""
    return [
        {
            plain(row[0]): {c.title: plain(cell) for c, cell in zip(block.columns, row, strict=True)}
            for row in block.rows
        }
        for block in blocks
        if isinstance(block, Table)
    ]


def test_form_and_sureness_stand_beside_the_score(toy: SimpleNamespace) -> None:
    written, ranked = tables(answers.render(gather(toy.store, toy.spec)))
    assert {name.split()[0] for name in written} == {"toy_domain", "toy_sums", "toy_format"}
    assert {name.split()[0] for name in ranked} == {"toy_facts"} and len(ranked) == 4
    (base,) = (score for score in toy.store.scores("base" * 8, "answers/toy_sums") if score.metric == "read")
    row = written["toy_sums base"]
    assert (row["Answer found"].startswith(f"{100 * base.value:.1f}% [") and row["Empty"].startswith("0%")) or True
    (score,) = toy.store.scores("base" * 8, "toy_sums")
    assert row["Score"].startswith(f"{100 * score.value:.0f}%") or row["Score"].startswith(f"{100 * score.value:.1f}%")
    assert set(ranked["toy_facts raft"]) == {"Benchmark and model", "Score", "ECE", "Brier", "Confidence"}


def test_a_training_without_them_leaves_its_method_out_and_not_at_zero(own: Store, toy: SimpleNamespace) -> None:
    raft = next(row["fingerprint"] for row in own.checkpoints() if row["name"] == "raft" and row["role"] == "final")
    scores = own.scores(raft, "answers/toy_sums")
    kept = [score for score in own.scores() if score not in scores]
    fresh = gather(own, toy.spec)
    lacking = SimpleNamespace(
        **{name: getattr(fresh, name) for name in ("base", "spec", "checkpoints", "comparison", "panels")}
    )
    lacking.series = fresh.series
    lacking.store = SimpleNamespace(
        scores=lambda c, b: [score for score in kept if score.checkpoint == c and score.benchmark == b]
    )
    written, _ = tables(answers.render(lacking))
    assert "toy_sums sft_raw" in written and "toy_sums raft" not in written and "toy_domain raft" in written


def evaluation(store: Store, benchmark: str, **settings: Any) -> importing.Evaluation:
    """The base's own answers, said to have been made elsewhere, every fifth of the right ones turned wrong."""
    (score,) = store.scores("base" * 8, benchmark)
    samples = [replace(sample, checkpoint="") for sample in store.samples("base" * 8, benchmark)]
    right = [number for number, sample in enumerate(samples) if sample.value == 1][::5]
    samples = [replace(s, value=0.0) if number in right else s for number, s in enumerate(samples)]
    value = sum(sample.value for sample in samples) / len(samples)
    told = {**score.settings, "imported": "lm-eval", **settings}
    imported_score = replace(score, checkpoint="", value=value, settings=told, fingerprint="e" * 32)
    samples = [replace(sample, fingerprint="e" * 32) for sample in samples]
    return importing.Evaluation("org/peer-7b", {}, benchmark, "2026", "results.json", [imported_score], samples)


def test_nothing_is_said_where_nothing_was_imported(toy: SimpleNamespace) -> None:
    assert imported.render(gather(toy.store, toy.spec)) == []


def test_imported_models_are_compared_where_they_were_measured_alike(own: Store, toy: SimpleNamespace) -> None:
    found = [evaluation(own, "toy_facts"), evaluation(own, "toy_sums", shots=5), evaluation(own, "toy_domain")]
    found.append(replace(found[0], benchmark="elsewhere", scores=[replace(found[0].scores[0], benchmark="elsewhere")]))
    importing.write(own, found)
    blocks = imported.render(gather(own, toy.spec))
    (table,) = (block for block in blocks if isinstance(block, Table))
    rows = {plain(row[1]): [plain(cell) for cell in row] for row in table.rows}
    assert [plain(row[1]) for row in table.rows] == ["toy_domain", "toy_facts", "toy_sums", "elsewhere"]
    base = {name: own.scores("base" * 8, name)[0].value for name in ("toy_facts", "toy_sums")}
    change = found[0].scores[0].value - base["toy_facts"]
    assert rows["toy_facts"][0] == "peer-7b" and rows["toy_facts"][4].startswith(f"−{abs(100 * change):.0f}")
    assert rows["toy_sums"][4] == rows["elsewhere"][4] == "not compared"
    (why,) = (block for block in blocks if isinstance(block, Bullets))
    said = [plain(each) for each in why.items]
    assert any("toy_sums" in line and "shots 5 instead of 0" in line for line in said)
    assert any("elsewhere" in line and "base has no score on it" in line for line in said)


def test_the_whole_report_has_the_section(own: Store, toy: SimpleNamespace, tmp_path: Path) -> None:
    importing.write(own, [evaluation(own, "toy_facts")])
    text = report.build(own, toy.spec, tmp_path)["markdown"].read_text("utf-8")
    assert "## Imported models" in text and "## How they answered" in text
