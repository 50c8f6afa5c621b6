"""Rewriters of a spec: trained before the steps that ask them, known before they are trained, and trained once."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from refinery.cli import app, rewriters
from refinery.cli.progress import Progress
from refinery.errors import UserError
from refinery.problems import SpecErrors
from refinery.spec import load_spec, order
from refinery.store import Store
from tests.tiny import tiny_model

WORDS = "one two three four five six".split()
WRITER = {
    "method": "dart",
    "check": "last_word",
    "batch_size": 2,
    "num_generations": 2,
    "max_steps": 2,
    "max_completion_length": 6,
    "learning_rate": 1e-3,
    "max_length": 512,
}


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)


def write(name: str = "small", **more: Any) -> Path:
    rows = [{"question": f"say {word}", "answer": f"it is {word}"} for word in WORDS]
    Path("rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    spec = {
        "name": name,
        "model": str(tiny_model()),
        "source": {"path": "rows.jsonl", "split": {"train": 1.0}},
        "rewriters": {"writer": WRITER},
        "graph": {
            "written": {"op": "rewrite", "from": "source", "model": "writer", "preset": "dart", "max_tokens": 8},
            "right": {"op": "check_answer", "from": "written", "kind": "last_word"},
        },
        **more,
    }
    path = Path(f"{name}.yaml")
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    return path


def refinery(*words: str) -> Any:
    result = CliRunner().invoke(app, list(words), catch_exceptions=True)
    if result.exit_code and result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def plan(path: Path, *more: str) -> dict[str, dict[str, Any]]:
    found = json.loads(refinery("plan", str(path), "--json", *more).stdout)["steps"]
    return {step["name"]: step for step in found}


def trained(path: Path) -> list[dict[str, Any]]:
    found = Store(load_spec(path).store_path).checkpoints()
    return [row for row in found if row["role"] == "rewriter"]


def test_one_run_trains_it_and_then_asks_it() -> None:
    path = write()
    before = plan(path)["written"]
    assert before["status"] == "runs" and before["notes"][-1] == "writer: dart on source, trained first"
    refinery("run", str(path), "--stage", "refine")
    (row,) = trained(path)
    assert (row["name"], row["method"], row["status"]) == ("writer", "dart", "complete")
    assert row["manifest"]["steps"] == 2 and "reward" in row["manifest"]["final"]
    after = plan(path)["written"]
    assert after["fingerprint"] == before["fingerprint"]  # it was known before it was trained
    assert after["status"] == "stands" and after["notes"][-1].endswith(f"checkpoint {row['fingerprint'][:12]}")
    store = Store(load_spec(path).store_path)
    counts = {(f["action"]): f["n"] for f in store.funnel(plan(path)["right"]["fingerprint"])}
    assert sum(counts.values()) == len(WORDS)
    asked = {each["model"] for each in store.query("SELECT DISTINCT model FROM generations")}
    assert len(asked) == 1 and asked.pop().startswith("rewriter:")
    metrics = store.query("SELECT DISTINCT name FROM training_metrics WHERE checkpoint = ?", [row["fingerprint"]])
    assert {"reward", "reward/gate", "zero_variance", "reference_kl"} <= {each["name"] for each in metrics}


def test_a_report_tells_how_it_was_trained() -> None:
    path = write()
    refinery("run", str(path), "--stage", "refine", "--stage", "report")
    text = (load_spec(path).store_path.parent / "report.md").read_text("utf-8")
    (line,) = [line for line in text.splitlines() if "| `writer` | `dart` |" in line]
    first, last = line.split("|")[5].split(" → ")
    (row,) = trained(path)
    values = Store(load_spec(path).store_path).training_metrics(row["fingerprint"])
    rewards = [each["value"] for each in values if each["name"] == "reward"]
    assert len(rewards) == 2 and [float(first.replace("−", "-")), float(last.replace("−", "-"))] == pytest.approx(
        rewards, abs=1e-2
    )
    assert "trained: rewriters.writer" in text


def test_what_stands_is_not_trained_again() -> None:
    path = write()
    refinery("run", str(path), "--stage", "refine")
    (row,) = trained(path)
    weights = Path(row["path"]) / "model.safetensors"
    made = weights.stat().st_mtime_ns
    refinery("run", str(path), "--stage", "refine", "--set", "graph.right.kind=contains")
    assert weights.stat().st_mtime_ns == made and len(trained(path)) == 1
    shutil.rmtree(row["path"])
    refinery("run", str(path), "--stage", "refine")  # its steps stand: its weights are not missed
    assert not Path(row["path"]).exists()
    changed = ["--set", "rewriters.writer.learning_rate=0.002"]
    assert plan(path, *changed)["written"]["why"] == ["model writer changed"]
    refinery("run", str(path), "--stage", "refine", *changed)
    assert len(trained(path)) == 2
    watched = plan(path, *changed, "--set", "rewriters.writer.save_every=1")["written"]
    assert watched["status"] == "stands"


def test_diff_names_the_rewriter() -> None:
    path = write()
    other = write("other", rewriters={"writer": {**WRITER, "learning_rate": 0.5}})
    steps = {
        each["name"]: each for each in json.loads(refinery("diff", str(path), str(other), "--json").stdout)["steps"]
    }
    assert steps["written"]["what"] == "runs" and steps["written"]["why"] == ["model writer"]
    assert steps["right"]["how"] == "indirectly"


def test_weights_that_are_gone_are_trained_for_new_rows() -> None:
    path = write()
    refinery("run", str(path), "--stage", "refine")
    (row,) = trained(path)
    shutil.rmtree(row["path"])
    refinery("run", str(path), "--stage", "refine", "--set", "graph.written.temperature=0")
    assert (Path(row["path"]) / "manifest.json").exists()


def test_an_interrupted_training_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(rewriters={"writer": {**WRITER, "max_steps": 3, "save_every": 1}})
    real = Progress.update

    def stop(self: Progress, label: str, done: int, *rest: Any) -> None:
        if label == "train writer" and done == 3:
            raise KeyboardInterrupt
        real(self, label, done, *rest)

    monkeypatch.setattr(Progress, "update", stop)
    assert CliRunner().invoke(app, ["run", str(path), "--stage", "refine"]).exit_code == 130
    assert "trained first" in plan(path)["written"]["notes"][-1]
    monkeypatch.setattr(Progress, "update", real)
    refinery("run", str(path), "--stage", "refine")
    (row,) = trained(path)
    assert row["manifest"]["resumed_at_step"] == 2 and row["status"] == "complete"


def test_it_may_learn_from_what_another_one_wrote() -> None:
    second = {**WRITER, "data": "right", "method": "rewriting_agent", "lora": False, "judge": False}
    graph = {
        "again": {"op": "rewrite", "from": "source", "model": "second", "max_tokens": 8},
        "written": {"op": "rewrite", "from": "source", "model": "first", "max_tokens": 8},
        "right": {"op": "check_answer", "from": "written", "kind": "last_word"},
    }
    path = write(rewriters={"second": second, "first": WRITER}, graph=graph)
    spec = load_spec(path)
    assert order(spec) == ["written", "right", "again"] and rewriters._in_order(spec) == ["first", "second"]
    refinery("run", str(path), "--stage", "refine")
    assert [row["name"] for row in trained(path)] == ["first", "second"]
    assert {step["status"] for step in plan(path).values()} == {"stands"}


def test_two_entries_of_one_rewriter_share_its_weights() -> None:
    models = {"half": {"from": "writer", "dtype": "bfloat16"}}
    path = write(models=models)
    spec = yaml.safe_load(path.read_text())
    spec["graph"]["also"] = {**spec["graph"]["written"], "model": "half"}
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    found = plan(path)
    assert found["also"]["fingerprint"] != found["written"]["fingerprint"]
    refinery("run", str(path), "--stage", "refine")
    assert len(trained(path)) == 1
    assert plan(path)["also"]["notes"][-1].partition(", ")[2] == plan(path)["written"]["notes"][-1].partition(", ")[2]


def test_a_preview_needs_it_trained() -> None:
    path = write()
    with pytest.raises(UserError, match="writer is not trained yet; `refinery run` trains it"):
        refinery("preview", str(path), "-n", "1")
    refinery("run", str(path), "--stage", "refine")
    assert refinery("preview", str(path), "-n", "1").exit_code == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"models": {"writer": {"from": "writter"}}}, 'there is no rewriter "writter" (did you mean "writer"?)'),
        ({"models": {"other": {"from": "writer", "backend": "openai", "base_url": "http://x/v1"}}}, "runs here"),
        ({"models": {"other": {"from": "writer", "adapter": "."}}}, "adapter does not go with from"),
        ({"models": {"other": {"from": "writer", "model": "lab"}}}, "model does not go with from"),
        ({"models": {"writer": {"model": str(tiny_model())}}}, "models.writer is another model"),
        ({"rewriters": {"writer": {"method": "sft"}}}, "sft trains the spec's model: put it under train.methods"),
        ({"rewriters": {"writer": {**WRITER, "data": "sorce"}}}, 'there is no step "sorce"'),
        ({"rewriters": {"writer": {**WRITER, "of": "{{ nothing }}"}}}, 'the template uses "nothing"'),
        ({"rewriters": {"writer": {**WRITER, "num_generation": 3}}}, 'did you mean "num_generations"'),
        ({"rewriters": {"writer": {**WRITER, "data": "right"}}}, "the steps form a cycle"),
        ({"train": {"methods": {"m": WRITER}}}, "dart trains a model that writes data: put it under rewriters"),
    ],
)
def test_mistakes_are_found_before_anything_runs(more: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecErrors) as caught:
        load_spec(write(**more))
    assert message in str(caught.value)


def test_a_spec_without_rewriters_says_nothing_of_them() -> None:
    path = write(rewriters={}, graph={})
    public = load_spec(path).public()
    assert "rewriters" not in public and all("from" not in model for model in public["models"].values())
    with_one = load_spec(write()).public()
    assert with_one["rewriters"]["writer"]["num_generations"] == 2 and with_one["models"]["writer"]["from"] == "writer"
