"""The gate as it is met: in a run's words, in the plan and in the report."""

import json
from pathlib import Path

import pytest

from refinery.spec import load_spec
from refinery.store import Store
from tests.cli.test_train_verb import refinery, write

RAFT = {"method": "raft", "teacher_prompt": "{{ response }} {{ question }}", "max_completion_length": 8, "top_k": 8}


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)


def test_it_warns_trains_on_and_stands_in_the_report(tmp_path: Path) -> None:
    methods = {"raft": RAFT, "acopd": {**RAFT, "method": "acopd"}, "sft": {"method": "sft"}}
    gated = ("acopd", "raft")
    path = write(tmp_path, {"methods": methods, "gate": {"rows": 4, "max_tokens": 8}})
    assert refinery("run", str(path), "--stage", "refine").exit_code == 0
    plan = json.loads(refinery("train", str(path), "--plan", "--json").stdout)
    assert [one["training"] for one in plan["gates"]] == ["acopd seed 0", "raft seed 0"]
    assert plan["gates"][0]["says"] == "is measured first: 4 rows, three answers to each"
    assert not plan["gates"][0]["measured"]
    result = refinery("train", str(path))
    assert result.exit_code == 0, result.exception
    said = " ".join(result.output.split())
    assert "gate acopd: 0% [0, 49] right with context, 0% [0, 49] without: +0 points" in said
    assert "gate raft" not in said  # the same teacher: measured, and told, once
    assert all(f"warning: {name}: context lifts the teacher by +0 points, less than 5" in said for name in gated)
    store = Store(load_spec(path).store_path)
    assert {row["status"] for row in store.checkpoints()} == {"complete"}
    assert len(store.query("SELECT DISTINCT against FROM diagnostics WHERE family = 'gate'")) == 1  # one for both
    plan = json.loads(refinery("train", str(path), "--plan", "--json").stdout)
    assert all(one["measured"] and "too little to teach" in one["says"] for one in plan["gates"])
    assert refinery("run", str(path), "--stage", "report").exit_code == 0
    text = (tmp_path / "runs" / "small" / "report.md").read_text()
    assert "What the teachers knew" in text and "teacher of acopd, raft by less than 5 points" in text
    assert refinery("train", str(path), "--set", "train.gate.min_lift=-1").exit_code == 0


def test_off_measures_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, {"methods": {"raft": RAFT}, "gate": "off"})
    refinery("run", str(path), "--stage", "refine")
    result = refinery("train", str(path))
    assert result.exit_code == 0 and "gate" not in result.output
    assert load_spec(path).train.gate is None  # type: ignore[union-attr]
    assert Store(load_spec(path).store_path).query("SELECT * FROM diagnostics") == []
