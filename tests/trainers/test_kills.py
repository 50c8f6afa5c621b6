"""Every method, killed in the midst of a real process, ends with the losses and weights that it would have had."""

import random
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from refinery.catalog import METHODS, module, names
from refinery.records import Example
from refinery.store import Store
from tests.tiny import tiny_model
from tests.trainers import killing
from tests.trainers.conftest import JobMaker, gap
from trainers.job import TrainJob, directory, fingerprint

GENERAL = [
    Example(f"g{i}", [{"role": "user", "content": f"say {w} {i}"}], w, f"{w} it is")
    for i, w in enumerate(("apple", "bread", "cheese", "dates"))
]
DRAWN = {"max_completion_length": 6}
MADE: dict[str, dict[str, Any]] = {
    "sft": {},
    "dft": {},
    "gem": {},
    "cpt": {},
    "sft_replay": {"replay": "general", "ratio": 0.3},
    "mssr": {"replay": "general", "interval": 1, "replay_rows": 2},
    "ewc": {"prompts": "general", "prompt_count": 4, **DRAWN},
    "l2sp": {},
    "lwf": {"prompts": "general", "prompt_count": 4, **DRAWN},
    "raft": {"top_k": 16, **DRAWN},
    "acopd": {"top_k": 16, **DRAWN},
    "sdft": {"teacher_ema": 0.3, **DRAWN},
    "gkd": {"teacher_prompt": "{{ question }} {{ answer }}", **DRAWN},
    "opd": {"teacher_prompt": "{{ question }} {{ answer }}", **DRAWN},
    "opsd": {"lora": False, **DRAWN},
    "sdpo": {"rollouts": 2, "check": "contains", "feedback": "It was {{ correct }}: {{ attempt }}", **DRAWN},
    "reinvoke": {"prompts": "general", "max_steps": 3, "second_epochs": 3, "second_max_steps": 3, **DRAWN},
    "offline_distill": {"teacher_prompt": "{{ question }} {{ answer }}", **DRAWN},
}
FIRST = ("sft", "raft", "sdft", "sft_replay", "mssr", "ewc", "gkd", "opd", "sdpo", "reinvoke", "offline_distill")
OTHERS = tuple(name for name in MADE if name not in FIRST)


def made(job: JobMaker, method: str, **more: Any) -> TrainJob:
    """Six optimiser steps with a checkpoint after each second one, in the full precision of a CPU."""
    params = {"learning_rate": 3e-3, "max_steps": 6, "epochs": 9, "save_every": 2, **MADE[method], **more}
    return job(method, _extra={"replay": GENERAL, "prompts": GENERAL}, **params)


def metrics(store: Store, one: TrainJob) -> dict[tuple[int, str], float]:
    """All that does not measure time or energy."""
    rows = store.training_metrics(fingerprint(one))
    measured = ("seconds", "joules")
    return {(row["step"], row["name"]): row["value"] for row in rows if not row["name"].endswith(measured)}


def compare(job: JobMaker, tmp_path: Path, method: str, kills: tuple[int, ...] = (5,), **more: Any) -> None:
    """A training killed at these steps, each time by a new process, against one that was left alone."""
    broken, whole = tmp_path / "broken.duckdb", tmp_path / "whole.duckdb"
    one, other = made(job, method, **more), made(job, method, _out=tmp_path / "whole", **more)
    assert killing.run(other, whole) == 0
    assert [killing.run(one, broken, dies_at=at) for at in kills] == [-signal.SIGKILL] * len(kills)
    assert not (directory(one) / "manifest.json").exists()
    assert killing.run(one, broken) == 0
    assert gap(directory(one), directory(other)) == 0.0
    expected = metrics(Store(whole), other)
    assert metrics(Store(broken), one) == expected
    assert {step for step, name in expected if name == "loss"} == set(range(1, 7))


@pytest.mark.parametrize("method", FIRST)
def test_a_killed_training_ends_as_if_nothing_had_happened(job: JobMaker, tmp_path: Path, method: str) -> None:
    compare(job, tmp_path, method)


@pytest.mark.slow
@pytest.mark.parametrize("method", OTHERS)
def test_so_do_the_others(job: JobMaker, tmp_path: Path, method: str) -> None:
    compare(job, tmp_path, method, kills=(3, 5))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("sdft", {"lora": {"rank": 4}}),
        ("raft", {"micro_batch_size": 2, "balance": "gradient", "gradients_every": 2}),
        ("raft", {"support": "random", "top_k": 8}),
        ("gkd", {"lora": {"rank": 4, "dropout": 0.1}}),
        ("ewc", {"lora": {"rank": 4}}),
        ("sdpo", {"rollouts": 2, "micro_batch_size": 2}),
        ("opd", {"rollouts": 2, "estimator": "rao_blackwell"}),
    ],
)
def test_and_with_other_settings(job: JobMaker, tmp_path: Path, method: str, more: dict[str, Any]) -> None:
    compare(job, tmp_path, method, kills=(1, 3), **more)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(6))
def test_at_random_moments(job: JobMaker, tmp_path: Path, number: int) -> None:
    """Also while a checkpoint is being written, and while the finished weights are."""
    noise = random.Random(number)
    method = noise.choice(("sft", "sdft", "mssr"))
    undisturbed = made(job, method, _out=tmp_path / "whole")
    assert killing.run(undisturbed) == 0
    one = made(job, method)
    for there in ("checkpoint-2", "checkpoint-4", "checkpoint-6"):
        killing.killed_when(one, directory(one) / "state" / there, noise.random() * 0.03)
    assert killing.run(one) == 0
    assert gap(directory(one), directory(undisturbed)) == 0.0


def test_every_trained_method_is_here() -> None:
    """Those that make weights of others' train nothing; those that learn by rewards have tests of their own."""
    from trainers.distill_params import DistillParams
    from trainers.params import TrainParams

    for name in names(METHODS):
        method = module(METHODS, name)
        by_reward = "num_generations" in method.Params.model_fields
        assert issubclass(method.Params, (TrainParams, DistillParams))
        assert hasattr(method, "change") or by_reward or name in MADE, name


@pytest.mark.parametrize("method", ["sft", "raft", "sdft"])
@pytest.mark.parametrize("lora", [None, {"rank": 4}])
def test_checkpoints_load_in_plain_libraries(job: JobMaker, method: str, lora: Any) -> None:
    """transformers reads the finished weights and those on the way; peft the adapter, which gives the same logits."""
    from peft import PeftModel

    from tests.trainers.test_train import Killed, killer
    from trainers.train import train

    one = made(job, method, lora=lora)
    with pytest.raises(Killed):
        train(one, killer(5))
    state = directory(one) / "state" / "checkpoint-4"
    ids = torch.arange(5, 25)[None]

    def logits(model: Any) -> torch.Tensor:
        with torch.no_grad():
            return model.eval()(ids).logits

    base = AutoModelForCausalLM.from_pretrained(tiny_model())
    before = logits(base)
    on_the_way = logits(
        AutoModelForCausalLM.from_pretrained(state) if lora is None else PeftModel.from_pretrained(base, state)
    )
    assert (on_the_way - before).abs().max() > 1e-3
    folder = train(one)
    model, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"] and not loading["mismatched_keys"]
    assert (
        AutoTokenizer.from_pretrained(folder).chat_template == AutoTokenizer.from_pretrained(tiny_model()).chat_template
    )
    if lora is not None:
        plain = AutoModelForCausalLM.from_pretrained(tiny_model())
        assert torch.allclose(logits(PeftModel.from_pretrained(plain, folder / "adapter")), logits(model), atol=1e-4)
