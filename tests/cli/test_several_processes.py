"""`refinery train` in several processes, over gloo: the weights of one that has each batch alone."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from refinery.spec import load_spec
from refinery.store import Store
from tests.cli.test_train_verb import refinery, write
from tests.trainers.conftest import gap

ROOT = Path(__file__).parents[2]
CONFIGURATIONS = sorted((ROOT / "specs" / "accelerate").glob("*.yaml"))
RAFT = {"method": "raft", "max_completion_length": 8, "top_k": 16, "rollout_top_k": 1, "max_length": 256}
"""The likeliest token at each place: several processes draw other random numbers than one."""


def launched(path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "refinery", *words, str(path)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=path.parent)


def trained(path: Path) -> dict[tuple[str, int], Any]:
    store = Store(load_spec(path).store_path)
    return {(row["name"], row["seed"]): row for row in store.checkpoints() if row["role"] == "final"}


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    torch.set_num_threads(1)
    methods = {"sft": {"method": "sft"}, "raft": RAFT, "wise": {"method": "wise_ft"}}
    folders = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        train = {"methods": methods, "seeds": [0, 1], "gate": {"rows": 4, "max_tokens": 4}}
        path = write(tmp_path / name, train)
        assert refinery("run", str(path), "--stage", "refine").exit_code == 0
        if name == "one":
            assert refinery("train", str(path)).exit_code == 0
        else:
            ran = launched(path, "train")
            assert ran.returncode == 0, ran.stderr[-3000:]
        folders.append({key: (path.parent / row["path"], row["manifest"]) for key, row in trained(path).items()})
    assert folders[0].keys() == folders[1].keys() and len(folders[0]) == 6
    for key, (folder, manifest) in folders[0].items():
        other, said = folders[1][key]
        assert gap(folder, other) < 1e-4, key
        if "final" in said:
            assert said["final"]["loss"] == pytest.approx(manifest["final"]["loss"], rel=1e-4)
            assert (manifest["processes"], said["processes"]) == (1, 2)


@pytest.mark.slow
def test_several_processes_only_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, {"methods": {"sft": {"method": "sft"}}})
    ran = launched(path, "run")
    assert ran.returncode != 0 and "several processes train and do nothing else" in ran.stderr


@pytest.mark.slow
def test_a_grid_is_chosen_by_one_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = {"path": "first.jsonl", "split": {"train": 0.6, "validation": 0.4}}
    train = {"methods": {"sft": {"method": "sft"}}, "tune": {"learning_rate": [1e-3, 1e-4]}}
    path = write(tmp_path, train, source=source, evaluate={"domain": ["heldout_validation"], "max_tokens": 4})
    assert refinery("run", str(path), "--stage", "refine").exit_code == 0
    ran = launched(path, "train")
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert [row["params"]["learning_rate"] for row in trained(path).values()] == [1e-3]


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.stem)
def test_configurations_are_what_accelerate_knows(path: Path) -> None:
    """accelerate refuses keys that it does not know when it reads such a file."""
    from accelerate.commands.config.config_args import load_config_from_file

    data = yaml.safe_load(path.read_text("utf-8"))
    read = load_config_from_file(str(path))
    assert str(read.distributed_type).rpartition(".")[2] == data["distributed_type"]
    assert f"specs/accelerate/{path.name} -m refinery train SPEC" in path.read_text("utf-8")
    from accelerate.commands.launch import launch_command_parser

    known = {action.dest for action in launch_command_parser()._actions}
    assert {*data.get("fsdp_config", {}), *data.get("deepspeed_config", {})} <= known
