"""Two processes that share a batch end with the weights of one that has it alone."""

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.trainers.conftest import JobMaker, gap
from tests.trainers.two_processes import STEADY
from trainers.job import directory

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "params"), [
    ("raft", {}),
    ("raft", {"balance": "gradient", "lora": {"rank": 4}}),
    ("sdft", {"reduction": "tokens", "teacher_ema": 0.5}),
    ("gkd", {"teacher_prompt": "{{ question }} {{ answer }}"}),
    ("reinvoke", {"max_steps": 2, "second_max_steps": 2}),
])  # fmt: skip
def test_two_processes_are_one(job: JobMaker, tmp_path: Path, method: str, params: dict[str, Any]) -> None:
    """Over gloo: gradients, λ, averages and denominators are those of the whole batch."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    params = {"max_completion_length": 8, "learning_rate": 1e-3, "max_steps": 3, **params}
    folders = []
    for count in (1, 2):
        one = job(method, **params, _out=tmp_path / str(count))
        file = tmp_path / f"job-{count}"
        file.write_bytes(pickle.dumps(one))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        command += [str(ROOT / "tests/trainers/two_processes.py"), str(file)]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr[-3000:]
        folders.append(directory(one))
    assert gap(*folders) < STEADY
