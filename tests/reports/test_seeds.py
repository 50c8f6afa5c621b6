"""Methods with other seeds than each other's, and items of another evaluation: what is shown is found again by hand."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from refinery.records import digest
from refinery.store import Store
from reports.blocks import plain
from reports.gather import gather
from reports.sections import summary
from tests.reports import conftest as toy_run


@pytest.fixture(scope="module")
def uneven(toy: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """sft_raw with seeds 0 to 2, sft_close with 1 and 2, raft with 2 alone; two checkpoints from elsewhere."""
    folder = tmp_path_factory.mktemp("uneven")
    shutil.copy(toy.store.path, folder / "toy.duckdb")
    store = Store(folder / "toy.duckdb")
    spec = toy.spec.model_copy(deep=True)
    spec.checkpoints = {"theirs": ["a", "b"]}
    rows = [
        row for row in store.checkpoints() if (row["name"], row["seed"]) in [("raft", 0), ("raft", 1), ("sft_close", 0)]
    ]
    rows = [{**row, "status": "running"} for row in rows if row["role"] == "final"]
    for seed in (0, 1):
        made = digest(["theirs", seed])
        rows.append(toy_run.checkpoint(made, "theirs", "elsewhere", "final", seed, {}, toy_run.BASE))
        samples, scores = toy_run.evaluate(made, "raft", seed + 5)
        store.add_samples(samples)
        store.add_scores(scores)
    store.replace("checkpoints", rows, ["fingerprint"])
    return gather(store, spec)


def test_each_score_is_of_all_seeds_of_its_method(uneven: Any, toy: SimpleNamespace) -> None:
    whole = {panel.benchmark: panel for panel in gather(toy.store, toy.spec).panels}
    methods = uneven.comparison.methods
    assert {name: method.n_seeds for name, method in methods.items()} == {
        "sft_raw": 3, "sft_close": 2, "raft": 1, "theirs": 2,
    }  # fmt: skip
    for name, seeds in (("sft_raw", [0, 1, 2]), ("sft_close", [1, 2]), ("raft", [2])):
        for benchmark, effect in methods[name].general.items():
            own = whole[benchmark].values[name][seeds]
            assert effect.score.value == pytest.approx(own.mean())
            sft = whole[benchmark].values["sft_raw"][seeds]
            assert name == "sft_raw" or effect.vs_baseline.value == pytest.approx(own.mean() - sft.mean())


def test_weights_from_elsewhere_are_matched_with_no_seed(uneven: Any) -> None:
    panel = next(panel for panel in uneven.panels if panel.kind == "general")
    effect = uneven.comparison.methods["theirs"].general[panel.benchmark]
    assert effect.vs_baseline.value == pytest.approx(panel.values["theirs"].mean() - panel.values["sft_raw"].mean())
    assert effect.vs_baseline.note == "the methods have no seed in common"
    said = [plain(block.text) for block in summary.render(uneven) if type(block).__name__ == "Paragraph"]
    assert "One training of raft: the intervals speak of test items alone, not of another seed." in said
    assert "2 trainings of sft_close, theirs say little about the spread between seeds." in said
    assert any(each.startswith("theirs and sft_raw have no seed in common") for each in said)
    assert not any("per method" in each for each in said)


def test_items_of_methods_without_a_common_seed_are_of_the_first(uneven: Any) -> None:
    explorer = uneven.explorer
    assert "its first, as no seed is common to all" in explorer.counts.note
    for panel, found in zip(uneven.panels, explorer.sets, strict=True):
        for item in found.items:
            assert item.values == [panel.values[arm][0][panel.items.index(item.id)] for arm in explorer.arms]
            assert [answer == "It is dorulin" for answer in item.answers] == [v == 1 for v in item.values]


def test_a_common_seed_is_shown_wherever_it_stands(uneven: Any) -> None:
    """Without those from elsewhere, seed 2 is common: sft_raw's third row."""
    from reports.gather_items import explorer

    finals = {name: rows for name, rows in uneven.checkpoints.items() if name != "theirs"}
    found = explorer(uneven.store, uneven.panels, uneven.base, finals)
    assert found and "the first seed that all have" in found.counts.note
    rows = {"base": 0, "sft_raw": 2, "sft_close": 1, "raft": 0}
    for panel, shown in zip(uneven.panels, found.sets, strict=True):
        for item in shown.items:
            place = panel.items.index(item.id)
            assert item.values == [panel.values[arm][row][place] for arm, row in rows.items()]
            assert [answer == "It is dorulin" for answer in item.answers] == [v == 1 for v in item.values]


def test_answers_are_those_of_the_evaluation_that_was_marked(toy: SimpleNamespace, tmp_path: Path) -> None:
    """Of every checkpoint another evaluation of the same items stands in the store, with other answers and marks."""
    shutil.copy(toy.store.path, tmp_path / "toy.duckdb")
    store = Store(tmp_path / "toy.duckdb")
    before = gather(store, toy.spec)
    samples = [s for s in store.samples() if s.metric == "accuracy"]
    other = [replace(s, response="From elsewhere", value=1 - s.value, fingerprint="0" * 32) for s in samples]
    other += [replace(s, response="From elsewhere", value=1 - s.value, fingerprint="z" * 32) for s in samples]
    store.add_samples(other)
    after = gather(store, toy.spec)
    assert before.items and after.items == before.items
    assert after.explorer == before.explorer
    assert np.sum([len(each.items) for each in after.explorer.sets]) > 0
