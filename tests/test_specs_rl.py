"""The ready specs that train by reinforcement, on the shipped model with few rows and steps: from data to report."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from refinery.spec import load_spec
from refinery.store import Store
from tests.cli_tools import call

ROOT = Path(__file__).parent.parent
SHRUNK = ["source.limit=80", "evaluate.general=[lab_facts]", "evaluate.limit=8"]
REWRITER = {"max_steps": 2, "batch_size": 2, "num_generations": 4}
RUNS: dict[str, list[str]] = {
    "grpo": [
        "train.methods.sft.epochs=1",
        *(f"train.methods.{name}.max_steps=2" for name in ("grpo", "grpo_kl")),
        *(f"train.methods.{name}.num_generations=4" for name in ("grpo", "grpo_kl")),
    ],
    "dart": [*(f"rewriters.mapper.{key}={value}" for key, value in REWRITER.items()), "train.defaults.epochs=1"],
    "rewriting_rl": [*(f"rewriters.agent.{key}={value}" for key, value in REWRITER.items()), "train.defaults.epochs=1"],
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import torch

    torch.set_num_threads(1)
    shutil.copytree(ROOT / "specs", tmp_path / "specs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(name: str) -> tuple[Store, list[dict[str, Any]]]:
    words = [word for override in [*SHRUNK, *RUNS[name]] for word in ("--set", override)]
    done = call("run", f"specs/{name}.yaml", *words)
    assert done.code == 0, done.err
    store = Store(load_spec(f"specs/{name}.yaml").store_path)
    return store, store.checkpoints()


@pytest.mark.slow
def test_grpo(folder: Path) -> None:
    store, found = run("grpo")
    by_name = {row["name"]: row for row in found}
    assert {"sft@start", "sft", "grpo", "grpo_kl", "base"} <= set(by_name)
    for name in ("grpo", "grpo_kl"):
        assert by_name[name]["base"] == f"checkpoint:{by_name['sft@start']['fingerprint']}"
        assert by_name[name]["manifest"]["final"]["reward"] is not None
    assert "reference_kl" in by_name["grpo_kl"]["manifest"]["final"]
    scored = {score["benchmark"] for score in store.query("SELECT DISTINCT benchmark FROM scores")}
    assert {"lab_clinic", "lab_facts"} <= scored
    assert (folder / "runs/grpo/report.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "rewriter", "steps"),
    [("dart", "mapper", ("mapped", "verified", "dart")), ("rewriting_rl", "agent", ("greedy", "greedy_verified"))],
)
def test_rewriters(folder: Path, name: str, rewriter: str, steps: tuple[str, ...]) -> None:
    """Trained, asked, verified with the raw answer where that fails, and learnt from."""
    store, found = run(name)
    (trained,) = [row for row in found if row["role"] == "rewriter"]
    assert trained["name"] == rewriter and trained["manifest"]["final"]["reward"] > 0.5
    for step in steps:
        counts = store.funnel(store.last_step(step)["fingerprint"])
        assert sum(row["n"] for row in counts if row["action"] != "dropped") == trained["manifest"]["rows_trained"]
    changed = [row for row in store.outcomes(store.last_step(steps[0])["fingerprint"]) if row.action == "changed"]
    assert len(changed) > 0.9 * trained["manifest"]["rows_trained"]
    finals = {row["name"] for row in found if row["role"] == "final"}
    assert finals == set(load_spec(f"specs/{name}.yaml").train.methods)
    assert (folder / f"runs/{name}/report.html").is_file()
