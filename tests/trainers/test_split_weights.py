"""Weights that FSDP2 splits over two processes end as those of one process that has them whole."""

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from tests.trainers.conftest import JobMaker, gap
from tests.trainers.test_train import tied
from tests.trainers.two_processes import STEADY
from trainers.job import TrainJob, directory

__all__ = ["tied"]

ROOT = Path(__file__).parents[2]


def run(job: TrainJob, tmp_path: Path, script: str, processes: int) -> subprocess.CompletedProcess[str]:
    file = tmp_path / f"{script}.job"
    file.write_bytes(pickle.dumps(job))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += [str(ROOT / "tests" / "trainers" / f"{script}.py"), str(file)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "params"), [
    ("sft", {}),
    ("raft", {}),
    ("raft", {"lora": {"rank": 4}}),
    ("gkd", {"teacher_prompt": "{{ question }} {{ answer }}"}),
])  # fmt: skip
def test_split_weights_end_as_whole_ones(job: JobMaker, tmp_path: Path, method: str, params: dict[str, Any]) -> None:
    drawn = {} if method == "sft" else {"max_completion_length": 8}
    folders = []
    for script, processes in (("two_processes", 1), ("split_processes", 2)):
        one = job(method, learning_rate=1e-3, **drawn, **params, _out=tmp_path / script)
        ran = run(one, tmp_path, script, processes)
        assert ran.returncode == 0, ran.stderr[-3000:]
        folders.append(directory(one))
    assert gap(*folders) < STEADY
    model, loading = AutoModelForCausalLM.from_pretrained(folders[1], output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"] and model is not None
    assert (folders[1] / "adapter").exists() == ("lora" in params)


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, {"rank": 4}])
def test_tied_weights_are_gathered_too(job: JobMaker, tmp_path: Path, tied: str, lora: Any) -> None:
    one = job("sft", learning_rate=1e-3, lora=lora, _model=tied, _out=tmp_path / "split")
    alone = job("sft", learning_rate=1e-3, lora=lora, _model=tied, _out=tmp_path / "alone")
    for each, script, processes in ((one, "split_processes", 2), (alone, "two_processes", 1)):
        ran = run(each, tmp_path, script, processes)
        assert ran.returncode == 0, ran.stderr[-3000:]
    assert gap(directory(alone), directory(one)) < STEADY


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "params", "said"),
    [
        ("sdft", {}, "teacher: ema is kept whole in each process: train without FSDP and DeepSpeed"),
        ("l2sp", {}, "FSDP splits the weights, which penalties on weights do not support"),
        ("raft", {"gradients_every": 1}, "FSDP splits the weights, which gradients that are compared do not support"),
        ("sft", {"probe_every": 1}, "FSDP splits the weights, which probes do not support"),
    ],
)
def test_what_needs_whole_weights_says_so(
    job: JobMaker, tmp_path: Path, method: str, params: dict[str, Any], said: str
) -> None:
    ran = run(job(method, **params), tmp_path, "split_processes", 2)
    assert ran.returncode != 0 and said in ran.stderr
