"""Every method of weights, targets and replay on the tiny model: it trains, it resumes, it repeats."""

from typing import Any

import pytest
import torch

from refinery.records import Example
from tests.trainers.conftest import JobMaker, gap, weights
from tests.trainers.test_train import Killed, killer
from trainers.train import train

GENERAL = [
    Example(f"g{i}", [{"role": "user", "content": f"say {word}"}], word, f"{word} is said")
    for i, word in enumerate("apple bread cider dough".split())
]
METHODS: dict[str, dict[str, Any]] = {
    "dft": {},
    "gem": {},
    "cpt": {},
    "sft_replay": {"replay": "general", "ratio": 0.25, "_extra": {"replay": GENERAL}},
    "mssr": {"replay": "general", "interval": 1, "replay_rows": 3, "_extra": {"replay": GENERAL}},
    "l2sp": {"mu": 0.1},
    "ewc": {"prompts": "general", "max_completion_length": 6, "_extra": {"prompts": GENERAL}},
    "lwf": {"prompts": "general", "max_completion_length": 6, "kl_rows": 2, "_extra": {"prompts": GENERAL}},
    "wise_ft": {},
    "fapm": {},
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("more", [{}, {"lora": {"rank": 4}, "micro_batch_size": 2}])
def test_every_method_trains_and_resumes_to_the_same_weights(
    job: JobMaker, tmp_path: Any, method: str, more: dict[str, Any]
) -> None:
    params = {**METHODS[method], **more, "max_steps": 5, "save_every": 2}
    undisturbed = train(job(method, _out=tmp_path / "undisturbed", **params))
    plain = train(job("sft", **{**more, "max_steps": 5, "_out": tmp_path / "plain"}))
    assert gap(undisturbed, plain) > 1e-5
    steps: list[int] = []
    with pytest.raises(Killed):
        train(job(method, **params), killer(3))
    resumed = train(job(method, **params), lambda step, total, loss: steps.append(step))
    assert steps == [3, 4, 5]
    assert gap(undisturbed, resumed) == 0.0


@pytest.mark.parametrize("method", METHODS)
def test_on_the_shipped_model(job: JobMaker, tmp_path: Any, method: str) -> None:
    params = {
        **METHODS[method],
        "_model": "lab",
        "learning_rate": 1e-3,
        "batch_size": 2,
        "max_steps": 3,
        "save_every": 1,
    }
    undisturbed = train(job(method, _out=tmp_path / "undisturbed", **params))
    with pytest.raises(Killed):
        train(job(method, **params), killer(2))
    assert gap(undisturbed, train(job(method, **params))) == 0.0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("lora", [None, {"rank": 4}])
def test_mixed_precision_and_recomputed_activations(job: JobMaker, method: str, lora: Any) -> None:
    options = {
        **METHODS[method],
        "lora": lora,
        "gradient_checkpointing": True,
        "micro_batch_size": 2,
        "dtype": "bfloat16",
    }
    found = weights(train(job(method, learning_rate=3e-3, **options)))
    assert all(value.dtype == torch.bfloat16 and value.isfinite().all() for value in found.values())
