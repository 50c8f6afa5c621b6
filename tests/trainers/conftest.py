"""Small jobs on the tiny random model; every one trains in well under a second of processor time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from refinery.catalog import METHODS, module
from refinery.records import Example
from tests.tiny import tiny_model
from trainers.job import TrainJob

WORDS = "one two three four five six seven eight nine ten".split()


def make_examples(count: int = 20) -> list[Example]:
    """Rows whose prompts and responses differ in length."""
    rows = []
    for i in range(count):
        question = "what is right" + f" and {WORDS[i % 10]}" * (1 + i % 4) + f" {i}?"
        answer = f"the answer is {WORDS[i % 7]}"
        response = answer + " again" * (i % 3)
        rows.append(Example(str(i), [{"role": "user", "content": question}], answer, response))
    return rows


@pytest.fixture
def examples() -> list[Example]:
    return make_examples()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


JobMaker = Callable[..., TrainJob]


@pytest.fixture
def job(tmp_path: Path, examples: list[Example]) -> JobMaker:
    """A maker of jobs: `job("raft", top_k=8)`; `_seed` and other underscored names are fields of the job itself."""

    def make(method: str, **params: Any) -> TrainJob:
        own = {name[1:]: params.pop(name) for name in list(params) if name.startswith("_")}
        params = {"learning_rate": 1e-2, "batch_size": 4, "max_steps": 3, "warmup_ratio": 0, **params}
        if method == "raft":
            params = {"max_completion_length": 8, "top_k": 16, **params}
        values: dict[str, Any] = {
            "name": method,
            "method": method,
            "params": module(METHODS, method).Params(**params),
            "seed": 0,
            "model": str(tiny_model()),
            "examples": examples,
            "data_fingerprint": "data",
            "out": tmp_path / "checkpoints",
            "base_identity": "tiny",
        }
        return TrainJob(**{**values, **own})

    return make


def weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def gap(one: Path, other: Path) -> float:
    """The largest difference between two checkpoints' weights."""
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)
