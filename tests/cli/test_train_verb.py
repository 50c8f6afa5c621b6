"""`refinery train`: its plan, failed cells beside good ones, and stages one after the other."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from refinery.cli import app, main
from refinery.errors import Bugs, UserError
from refinery.spec import load_spec
from refinery.store import Store
from tests.tiny import tiny_model

WORDS = "one two three four five six seven eight nine ten".split()


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)


def write(path: Path, train: dict[str, Any], **more: Any) -> Path:
    for name in ("first", "second"):
        rows = [{"question": f"{name} {word}?", "answer": f"the {name} is {word}"} for word in WORDS]
        (path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    spec = {
        "name": "small",
        "model": str(tiny_model()),
        "source": {"path": "first.jsonl", "split": {"train": 1.0}},
        "sources": {"second": {"path": "second.jsonl"}},
        "train": {"defaults": {"batch_size": 4, "epochs": 1, "learning_rate": 1e-3}, **train},
        **more,
    }
    (path / "small.yaml").write_text(yaml.safe_dump(spec))
    return path / "small.yaml"


def refinery(*words: str) -> Any:
    return CliRunner().invoke(app, list(words), catch_exceptions=True)


def planned(path: Path, *more: str) -> list[dict[str, Any]]:
    result = refinery("train", str(path), "--plan", "--json", *more)
    assert result.exit_code == 0, result.exception
    return json.loads(result.stdout)["jobs"]


def test_a_failed_training_leaves_the_others_and_is_tried_again(tmp_path: Path) -> None:
    methods = {"short": {"method": "sft", "max_length": 8}, "good": {"method": "sft"}}
    path = write(tmp_path, {"seeds": [0, 1], "methods": methods})
    with pytest.raises(UserError, match="there is no store yet"):
        raise refinery("train", str(path), "--plan").exception
    assert refinery("run", str(path), "--stage", "refine").exit_code == 0
    result = refinery("train", str(path))
    assert isinstance(result.exception, UserError)
    lines = str(result.exception).splitlines()
    assert lines[0] == "2 trainings failed, the others stand:"
    assert [line.partition(":")[0] for line in lines[1:]] == ["train short seed 0", "train short seed 1"]
    store = Store(load_spec(path).store_path)
    found = sorted((row["name"], row["seed"], row["role"], row["status"]) for row in store.checkpoints())
    assert [one[:2] + one[3:] for one in found] == [
        ("good", 0, "complete"), ("good", 1, "complete"), ("short", 0, "failed"), ("short", 1, "failed"),
    ]  # fmt: skip
    assert store.runs()[0]["status"] == "failed"
    jobs = {job["cell"]: job for job in planned(path)}
    assert jobs["good seed 0"]["state"] == "stands" and jobs["short seed 1"]["state"] == "failed"
    assert "too_long 10" in jobs["short seed 1"]["why"] and jobs["short seed 1"]["steps"] is None
    assert jobs["good seed 1"]["rows"] == 10 and jobs["good seed 1"]["steps"] == 3
    assert jobs["good seed 1"]["tokens"] > 100 and jobs["good seed 1"]["memory"] > 100_000 * 16
    mended = ["--set", "train.methods.short.max_length=128"]
    assert {job["state"] for job in planned(path, *mended)} == {"new", "stands"}
    assert refinery("train", str(path), *mended).exit_code == 0
    assert {job["state"] for job in planned(path, *mended)} == {"stands"}
    assert store.runs()[0]["status"] == "complete"


def test_a_bug_in_one_training_leaves_the_others_and_keeps_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """peft knows no such layer, and says so in a way of its own."""
    broken = {"method": "sft", "lora": {"layers": ["qproj"]}}
    path = write(tmp_path, {"methods": {"broken": broken, "good": {"method": "sft"}}})
    assert refinery("run", str(path), "--stage", "refine").exit_code == 0
    monkeypatch.setattr("sys.argv", ["refinery", "train", str(path)])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-2] == "1 trainings failed, the others stand:"
    assert re.match(r"train broken seed 0: \w+Error: Target modules .*qproj", said[-1])
    assert any(line.startswith("Traceback (most recent call last)") for line in said)
    store = Store(load_spec(path).store_path)
    rows = {row["name"]: row for row in store.checkpoints()}
    assert {name: row["status"] for name, row in rows.items()} == {"broken": "failed", "good": "complete"}
    detail = rows["broken"]["manifest"]
    assert f"train broken seed 0: {detail['error']}" == said[-1] and "peft" in detail["traceback"]
    cells = store.query("SELECT method, status, error FROM cells ORDER BY method")
    assert [(row["method"], row["status"]) for row in cells] == [("broken", "failed"), ("good", "complete")]
    assert cells[0]["error"] == said[-1] and store.runs()[0]["status"] == "failed"
    with pytest.raises(Bugs, match="nothing could be trained:\ntrain broken seed 0: "):
        raise refinery("train", str(write(tmp_path, {"methods": {"broken": broken}}))).exception


def test_ctrl_c_in_a_training_ends_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, {"methods": {"first": {"method": "sft"}, "good": {"method": "sft"}}})
    assert refinery("run", str(path), "--stage", "refine").exit_code == 0

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("refinery.cli.training.train", interrupted)
    assert refinery("train", str(path)).exit_code == 130
    store = Store(load_spec(path).store_path)
    assert store.runs()[0]["status"] == "interrupted" and not store.query("SELECT * FROM cells")


def test_nothing_trained_is_an_error_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, {"methods": {"short": {"method": "sft", "max_length": 8}}})
    with pytest.raises(UserError, match="does not stand yet"):
        raise refinery("train", str(path)).exception
    refinery("run", str(path), "--stage", "refine")
    with pytest.raises(UserError, match="nothing could be trained:\ntrain short seed 0: no rows to train on"):
        raise refinery("run", str(path)).exception


def test_stages_go_on_from_one_another(tmp_path: Path) -> None:
    stages = [
        {"data": "source", "name": "a"},
        {"data": "second", "name": "b", "method": "rehearsed"},
        {"data": "source"},
    ]
    methods = {"plain": {"method": "sft"}, "rehearsed": {"method": "sft_replay", "replay": "source", "ratio": 0.5}}
    path = write(tmp_path, {"stages": stages, "methods": methods})
    refinery("run", str(path), "--stage", "refine")
    assert [(job["name"], job["state"]) for job in planned(path)][:3] == [
        ("plain@a", "new"), ("plain@b", "new"), ("plain", "new"),
    ]  # fmt: skip
    result = refinery("train", str(path))
    assert result.exit_code == 0, result.exception
    store = Store(load_spec(path).store_path)
    rows = {row["name"]: row for row in store.checkpoints()}
    assert {name: row["role"] for name, row in rows.items()} == {
        "plain@a": "stage", "plain@b": "stage", "plain": "final",
        "rehearsed@a": "stage", "rehearsed@b": "stage", "rehearsed": "final",
    }  # fmt: skip
    assert rows["plain"]["base"] == f"checkpoint:{rows['plain@b']['fingerprint']}"
    assert rows["plain@b"]["base"] == f"checkpoint:{rows['plain@a']['fingerprint']}"
    assert rows["plain@b"]["method"] == "sft_replay" and rows["plain@a"]["method"] == "sft"
    made = [row["finished_at"] for row in store.checkpoints()]
    assert refinery("train", str(path)).exit_code == 0  # all stand
    assert [row["finished_at"] for row in store.checkpoints()] == made
    # without stages these weights are no longer asked for, and come back with them
    assert refinery("train", str(path), "--set", "train.stages=[]").exit_code == 0
    roles = {row["name"]: row["role"] for row in store.checkpoints() if "@" in row["name"]}
    assert set(roles.values()) == {"former"}
    assert refinery("train", str(path)).exit_code == 0
    roles = {row["name"]: row["role"] for row in store.checkpoints() if "@" in row["name"]}
    assert set(roles.values()) == {"stage"}


def test_mistaken_stages_and_names_are_said_with_their_place(tmp_path: Path) -> None:
    stages = [{"data": "source"}, {"data": "secnd", "method": "plane"}, {"data": "source"}]
    methods = {"plain": {"method": "sft"}, "again": {"method": "sft_replay", "replay": "secnd"}}
    path = write(tmp_path, {"stages": stages, "methods": methods, "tune": {"learning_rate": [1e-3]}})
    said = str(refinery("validate", str(path)).exception)
    assert 'there is no step "secnd"' in said and 'there is no method "plane"' in said
    assert 'method sft_replay: there is no step "secnd"' in said
    assert 'a stage is called "source" already' in said and "a grid and stages do not go together" in said


def test_a_preset_in_a_grid_or_a_matrix_fills_what_is_not_given(tmp_path: Path) -> None:
    """As that preset does where it stands in the method's own entry."""
    from refinery.cli.cells import Cells
    from trainers.methods.sdft import Params

    methods = {"sdft": {"method": "sdft", "teacher_ema": 0.5, "lora": {"rank": 4}}}
    split = {"path": "first.jsonl", "split": {"train": 0.6, "validation": 0.4}}
    wanted = [
        Params(preset=preset, teacher_ema=0.5, lora={"rank": 4}, batch_size=4, epochs=1, learning_rate=1e-3)
        for preset in ("paper", "released")
    ]
    assert [each.divergence for each in wanted] == ["reverse", "forward"]

    path = write(tmp_path, {"methods": methods, "tune": {"preset": ["paper", "released"]}}, source=split)
    assert refinery("run", str(path), "--stage", "refine").exit_code == 0
    spec = load_spec(path)
    cells = list(Cells(spec, Store(spec.store_path, read_only=True)).tuning("sdft"))
    assert [cell.jobs[-1].params for cell in cells] == wanted
    assert [cell.label for cell in cells] == ["sdft preset=paper", "sdft preset=released"]

    path = write(tmp_path, {"methods": methods}, matrix={"methods.sdft.preset": ["paper", "released"]})
    points = load_spec(path).points
    assert [p.spec.train.methods["sdft"].params for p in points if p.spec.train] == wanted
