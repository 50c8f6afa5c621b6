"""What is seen of a training while it goes on: tokens, probes, trackers, and why it stopped."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from refinery.errors import UserError
from refinery.records import Example
from refinery.store import Store
from tests.tiny import tiny_model
from tests.trainers.conftest import JobMaker, gap
from trainers.data import order, prepare
from trainers.job import directory, fingerprint
from trainers.supervised import SupervisedTrainer
from trainers.train import Stopped, train

GENERAL = [Example(f"g{i}", [{"role": "user", "content": f"say {w}"}], w, w) for i, w in enumerate(("apple", "bread"))]


def metrics(store: Store, checkpoint: str) -> dict[str, dict[int, float]]:
    found: dict[str, dict[int, float]] = {}
    for row in store.training_metrics(checkpoint):
        found.setdefault(row["name"], {})[row["step"]] = row["value"]
    return found


def test_tokens_of_every_step(job: JobMaker, tmp_path: Path) -> None:
    store = Store(tmp_path / "store.duckdb")
    one = job("sft", _store=store, max_steps=4, micro_batch_size=2)
    found = metrics(store, train(one).name)
    rows = prepare(one.examples, AutoTokenizer.from_pretrained(tiny_model()), max_length=1024).rows
    lengths = [len(rows[place].prompt) + len(rows[place].answer) for place in order(len(rows), 16, 0)]
    assert found["tokens"] == {step + 1: sum(lengths[4 * step : 4 * step + 4]) for step in range(4)}
    assert all(value >= 0 for value in found["step_seconds"].values())


@pytest.mark.parametrize("lora", [None, {"rank": 4, "dropout": 0.1}])
def test_probes_change_nothing_and_measure_the_divergence(job: JobMaker, tmp_path: Path, lora: Any) -> None:
    store = Store(tmp_path / "store.duckdb")
    params = {"lora": lora, "max_steps": 5, "learning_rate": 3e-3}
    plain = train(job("sft", **params))
    probe = {"probe_every": 2, "probe_prompts": "general", "_extra": {"probe_prompts": GENERAL}, "_store": store}
    probed = train(job("sft", **params, **probe, _out=tmp_path / "probed"))
    assert gap(plain, probed) == 0.0 and plain.name == probed.name
    found = metrics(store, probed.name)
    assert all(0 < value <= 128 for value in found["probe_length"].values()) and set(found["probe_cut"]) == {2, 4, 5}
    for name in ("forward_kl", "reverse_kl", "forward_kl_rollouts"):
        assert list(found[name]) == [2, 4, 5]
        assert 0 < found[name][2] < found[f"{name}_sequence"][2]
    # the last probe again, from the saved weights: the base's answers are those that the same noise gives
    from trainers.before import sample
    from trainers.data import prompt_ids

    tokenizer = AutoTokenizer.from_pretrained(tiny_model())
    base = AutoModelForCausalLM.from_pretrained(tiny_model(), dtype=torch.float32).eval()
    now = AutoModelForCausalLM.from_pretrained(probed, dtype=torch.float32).eval()
    prompts = prompt_ids(GENERAL, tokenizer, max_length=1024)
    answers = sample(base, tokenizer, prompts, end=tokenizer.eos_token_id, limit=128, name="before/0")
    total, tokens = 0.0, 0
    for prompt, answer in zip(prompts, answers, strict=True):
        with torch.no_grad():
            logits = [
                model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
                for model in (base, now)
            ]
        q, p = (one.double().log_softmax(-1) for one in logits)
        total, tokens = total + float((q.exp() * (q - p)).sum()), tokens + len(answer)
    assert found["forward_kl"][5] == pytest.approx(total / tokens, rel=1e-3)
    assert found["forward_kl_sequence"][5] == pytest.approx(total / 2, rel=1e-3)


def test_a_tracker_that_is_not_installed_is_said_before_anything_is_trained(job: JobMaker) -> None:
    with pytest.raises(UserError, match="report_to: trackio is not installed: pip install trackio"):
        train(job("sft", report_to=["trackio"]))


def test_a_tracker_gets_every_step(job: JobMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the tensorboard package; the callback in between is transformers' own."""
    from importlib.machinery import ModuleSpec

    written: list[tuple[str, int]] = []
    folders: list[str] = []

    class SummaryWriter:
        def __init__(self, log_dir: str):
            folders.append(log_dir)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, step))

        def add_text(self, *_: Any) -> None: ...
        def add_hparams(self, *_: Any, **__: Any) -> None: ...
        def flush(self) -> None: ...
        def close(self) -> None: ...

    for name in ("tensorboard", "tensorboardX"):
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        module.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, name, module)
    from transformers.integrations import integration_utils

    monkeypatch.setattr(integration_utils, "is_tensorboard_available", lambda: True)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", sys.modules["tensorboardX"])
    one = job("sft", report_to=["tensorboard"])
    folder = train(one)
    assert [step for name, step in written if name == "train/loss"] == [1, 2, 3]
    assert folders == [str(folder / "tensorboard")]
    assert folder.name == fingerprint(job("sft"))


def broken(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    real = SupervisedTrainer.compute_loss

    def compute_loss(self: Any, *args: Any, **kwargs: Any) -> Any:
        return change(real(self, *args, **kwargs), self.state.global_step)

    monkeypatch.setattr(SupervisedTrainer, "compute_loss", compute_loss)


def test_nan_stops_with_step_rows_and_the_last_good_checkpoint(
    job: JobMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store.duckdb")
    params = {"max_steps": 12, "epochs": 9, "save_every": 2, "_store": store}
    one = job("sft", **params)
    with monkeypatch.context() as patch:
        broken(patch, lambda loss, step: loss * float("nan") if step >= 5 else loss)
        with pytest.raises(Stopped, match=r"no finite gradient for 5 steps in a row.* at step 10 \(rows .*of step 4"):
            train(one)
    rows = prepare(one.examples, AutoTokenizer.from_pretrained(tiny_model()), max_length=1024).rows
    row = store.checkpoint(fingerprint(one))
    assert row is not None and row["status"] == "failed"
    assert row["manifest"]["step"] == 10 and row["manifest"]["since"] == 6 and row["manifest"]["last_good_step"] == 4
    assert row["manifest"]["rows"] == [rows[place].id for place in order(20, 48, 0)[36:40]]
    assert row["manifest"]["rows_since"] == [rows[place].id for place in order(20, 48, 0)[20:24]]
    assert {path.name for path in (directory(one) / "state").iterdir()} == {"checkpoint-2", "checkpoint-4"}
    steps: list[int] = []
    folder = train(one, lambda step, total, loss: steps.append(step))
    assert steps == list(range(5, 13))
    again = store.checkpoint(fingerprint(one))
    assert again is not None and again["status"] == "complete"
    assert gap(folder, train(job("sft", **{**params, "_store": None, "_out": tmp_path / "undisturbed"}))) == 0.0


@pytest.mark.parametrize("method", ["raft", "sdft", "gkd"])
def test_a_distillation_that_breaks_stops_too(
    job: JobMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    from trainers.distill import ConditionedDistillation

    real = ConditionedDistillation._compute_loss

    def compute_loss(self: Any, *args: Any) -> Any:
        loss, *rest = real(self, *args)
        return (loss * float("nan") if self.state.global_step >= 3 else loss, *rest)

    store = Store(tmp_path / "store.duckdb")
    params = {"teacher_prompt": "{{ question }} {{ response }}", "max_completion_length": 4, "_store": store}
    one = job(method, max_steps=12, epochs=9, save_every=2, **params)
    with monkeypatch.context() as patch:
        patch.setattr(ConditionedDistillation, "_compute_loss", compute_loss)
        with pytest.raises(Stopped, match=r"at step 8 \(rows .*the last good checkpoint is of step 2"):
            train(one)
    row = store.checkpoint(fingerprint(one))
    assert row is not None and row["status"] == "failed" and row["manifest"]["since"] == 4
    steps: list[int] = []
    train(one, lambda step, total, loss: steps.append(step))
    assert steps == list(range(3, 13))


def test_a_loss_that_runs_away_stops(job: JobMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch, lambda loss, step: loss * (1.0 if step < 20 else 8.0))
    with pytest.raises(Stopped, match="the loss has run away") as caught:
        train(job("sft", max_steps=60, epochs=99, save_every=2, learning_rate=1e-5))
    assert 20 < caught.value.detail["step"] < 30
    assert caught.value.detail["since"] == 21 and caught.value.detail["last_good_step"] == 20


def test_memory_that_runs_out_is_the_users(job: JobMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def out(loss: Any, step: int) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    broken(monkeypatch, out)
    store = Store(tmp_path / "store.duckdb")
    with pytest.raises(UserError, match="sft seed 0: out of memory; lower micro_batch_size"):
        train(job("sft", _store=store))
    row = store.checkpoint(fingerprint(job("sft")))
    assert row is not None and row["status"] == "failed" and "out of memory" in json.dumps(row["manifest"])


@pytest.mark.parametrize("method", ["sft", "cpt", "l2sp", "gem", "dft", "grpo"])
def test_only_cross_entropy_is_called_so(job: JobMaker, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    kept: list[dict[str, float]] = []
    monkeypatch.setattr("trainers.loop.Watch.record", lambda self, step, values: kept.append(dict(values)))
    more: dict[str, Any] = {}
    if method == "grpo":  # rollouts of the first step are learnt from in the second, which has no reward of its own
        more = {"num_generations": 2, "batch_size": 2, "max_completion_length": 4, "steps_per_generation": 2}
    train(job(method, max_steps=2, **more))
    assert [("sft_loss" in one) for one in kept] == [method not in ("gem", "dft", "grpo")] * 2
