"""A matrix as it is run: cells that fail beside cells that stand, what is shared, and scores that know their cell."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from refinery.errors import UserError
from refinery.spec import load_spec
from refinery.store import Store
from tests.cli.test_train_verb import planned, refinery, write
from tests.tiny import make_tiny_model, tiny_model

METHODS = {"sft": {"method": "sft"}, "wise": {"method": "wise_ft"}}


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)


def cells(store: Store) -> dict[tuple[Any, ...], str]:
    return {(*(v for _, v in sorted(r["keys"].items())), r["method"], r["seed"]): r["status"] for r in store.cells()}


def test_a_failed_cell_leaves_the_others_and_is_tried_again(tmp_path: Path) -> None:
    other = make_tiny_model(tmp_path / "other", seed=1)
    matrix = {"model": [str(tiny_model()), str(other)], "methods.sft.max_length": [8, 128]}
    path = write(tmp_path, {"methods": METHODS, "seeds": [0, 1]}, matrix=matrix)
    assert refinery("run", str(path), "--stage", "refine").exit_code == 0
    store = Store(load_spec(path).store_path)
    assert len(store.query("SELECT * FROM steps")) == 2  # of the two sources: shared by all points
    assert {job["state"] for job in planned(path)} == {"new"} and len(planned(path)) == 16
    result = refinery("train", str(path))
    assert isinstance(result.exception, UserError)
    assert str(result.exception).splitlines()[0] == "4 parts failed, the others stand:"
    found = cells(store)
    assert len(found) == 16
    assert {key for key, status in found.items() if status == "failed"} == {
        (8, model, "sft", seed) for model in matrix["model"] for seed in (0, 1)
    }
    assert all(("too_long 10" in row["error"]) == (row["status"] == "failed") for row in store.cells())
    final = [row for row in store.checkpoints() if row["role"] == "final" and row["status"] == "complete"]
    assert len(final) == 8  # sft and wise_ft, two seeds, two models: wise_ft is the same at both lengths
    assert len({row["base"] for row in final}) == 2
    states = {job["cell"]: job["state"] for job in planned(path)}
    assert sum(state == "stands" for state in states.values()) == 12
    assert sum(state == "failed" for state in states.values()) == 4
    made = [row["finished_at"] for row in final]
    mended = f"matrix={json.dumps({**matrix, 'methods.sft.max_length': [64, 128]})}"
    assert refinery("train", str(path), "--set", mended).exit_code == 0
    assert set(cells(store).values()) == {"complete"}
    again = {row["fingerprint"]: row["finished_at"] for row in store.checkpoints() if row["status"] == "complete"}
    assert set(made) <= set(again.values())


def test_a_point_that_cannot_begin_leaves_the_others(tmp_path: Path) -> None:
    gone = make_tiny_model(tmp_path / "gone", template=False)
    path = write(tmp_path, {"methods": {"sft": {"method": "sft"}}}, matrix={"model": [str(tiny_model()), str(gone)]})
    assert refinery("run", str(path), "--stage", "refine").exit_code == 0
    result = refinery("train", str(path))
    assert "1 parts failed" in str(result.exception) and "no chat template" in str(result.exception)
    store = Store(load_spec(path).store_path)
    assert sorted(cells(store).values()) == ["complete", "failed"]
    shutil.copy(tiny_model() / "tokenizer_config.json", gone)
    for name in ("chat_template.jinja", "tokenizer.json"):
        if (tiny_model() / name).exists():
            shutil.copy(tiny_model() / name, gone)
    assert refinery("train", str(path)).exit_code == 0
    assert set(cells(store).values()) == {"complete"}


def test_scores_know_their_cell_and_every_point_has_a_report(tmp_path: Path) -> None:
    sources = {"second": {"path": "second.jsonl"}}
    split = {"train": 0.5, "test": 0.5}
    matrix = {
        "source": [{"path": f"{name}.jsonl", "split": split} for name in ("first", "second")],
        "methods.sft.learning_rate": [1e-3, 1e-2],
    }
    evaluate = {"domain": ["heldout"], "max_tokens": 8}
    train = {"methods": {"sft": {"method": "sft"}}, "select": {"check": "last_word"}}
    path = write(tmp_path, train, matrix=matrix, sources=sources, evaluate=evaluate)
    result = refinery("run", str(path))
    assert result.exit_code == 0, result.exception
    store = Store(load_spec(path).store_path)
    scores = [row for row in store.cell_scores() if row["benchmark"] == "heldout"]
    assert len(scores) >= 4
    by_cell = {(row["keys"]["source"]["path"], row["keys"]["methods.sft.learning_rate"]) for row in scores}
    assert by_cell == {(f"{name}.jsonl", rate) for name in ("first", "second") for rate in (1e-3, 1e-2)}
    # the held-out items are those of the cell's own source
    for row in scores:
        name = row["keys"]["source"]["path"].partition(".")[0]
        prompts = {sample.prompt for sample in store.samples(row["checkpoint"], "heldout") if sample.prompt}
        assert prompts and all(name in prompt for prompt in prompts)
    folder = Path(load_spec(path).store).parent
    assert len(list((folder / "points").glob("*/report.md"))) == 4
    with (folder / "matrix.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["source"], row["methods.sft.learning_rate"]) for row in rows} == {
        (name, rate) for name in ("first.jsonl", "second.jsonl") for rate in ("0.001", "0.01")
    }
    assert "heldout" in result.output and "every score:" in result.output
    # in the order of the matrix
    assert list(dict.fromkeys(row["source"] for row in rows)) == ["first.jsonl", "second.jsonl"]


def test_a_cell_that_breaks_tells_where_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainers.supervised import SupervisedTrainer

    real = SupervisedTrainer.compute_loss

    def compute_loss(self: Any, *args: Any, **kwargs: Any) -> Any:
        loss = real(self, *args, **kwargs)
        broken = self.args.seed == 0 and self.args.learning_rate == 1e-2 and self.state.global_step >= 2
        return loss * float("nan") if broken else loss

    train = {"methods": {"sft": {"method": "sft", "epochs": 4, "save_every": 1}}, "seeds": [0, 1]}
    path = write(tmp_path, train, matrix={"methods.sft.learning_rate": [1e-2, 1e-3]})
    refinery("run", str(path), "--stage", "refine")
    with monkeypatch.context() as patch:
        patch.setattr(SupervisedTrainer, "compute_loss", compute_loss)
        result = refinery("train", str(path))
    first, line = str(result.exception).splitlines()
    assert first == "1 parts failed, the others stand:"
    assert line.startswith(
        "train sft.learning_rate=0.01 sft seed 0: sft seed 0: no finite gradient for 5 steps in a row"
    )
    assert "at step 7 (rows " in line and "the last good checkpoint is of step 2" in line
    store = Store(load_spec(path).store_path)
    assert sorted(cells(store).values()) == ["complete"] * 3 + ["failed"]
    assert refinery("train", str(path)).exit_code == 0
    resumed = [row["manifest"]["resumed_at_step"] for row in store.checkpoints()]
    assert sorted(resumed) == [0, 0, 0, 2]
