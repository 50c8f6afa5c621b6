"""Token losses against closed forms in float64, and our trainers against TRL's own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

from tests.tiny import tiny_model
from tests.trainers.conftest import JobMaker, weights
from tests.trainers.test_train import Killed, killer
from trainers.data import order, prepare
from trainers.head import Head
from trainers.targets import gem, gem_loss, token_kl
from trainers.train import train


def random_logits(rows: int = 6, words: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(rows, words, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), torch.randint(words, (rows,), generator=generator)


@pytest.mark.parametrize("beta", [0.3, 0.7, 1.0])
def test_gem_value_and_gradient(beta: float) -> None:
    logits, targets = random_logits()
    losses = gem_loss(logits, targets, beta)
    for row, target, loss in zip(logits.detach(), targets, losses.detach(), strict=True):
        p, q = row.exp() / row.exp().sum(), (row / beta).exp() / (row / beta).exp().sum()
        assert float(loss) == pytest.approx(float(-p[target].log() + (q * p.log()).sum()), abs=1e-12)
    losses.sum().backward()
    assert logits.grad is not None
    q = (logits.detach() / beta).softmax(-1)
    onehot = torch.nn.functional.one_hot(targets, logits.shape[1])
    assert torch.allclose(logits.grad, q - onehot, atol=1e-12)
    if beta == 1.0:
        again = logits.detach().clone().requires_grad_()
        torch.nn.functional.cross_entropy(again, targets, reduction="sum").backward()
        assert torch.allclose(logits.grad, again.grad, atol=1e-12)


def test_gem_leaves_a_sure_model_alone() -> None:
    logits = torch.zeros(1, 5, dtype=torch.float64)
    logits[0, 2] = 60.0
    logits.requires_grad_()
    gem_loss(logits, torch.tensor([2]), 0.7).sum().backward()
    assert logits.grad is not None and logits.grad.abs().max() < 1e-12


def test_gem_in_chunks() -> None:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(300, 4, generator=generator, dtype=torch.float64).requires_grad_()
    weight = torch.randn(11, 4, generator=generator, dtype=torch.float64).requires_grad_()
    targets = torch.randint(11, (300,), generator=generator)
    chunked = gem(hidden, Head(weight), targets, 0.7)
    got = torch.autograd.grad(chunked.sum(), [hidden, weight])
    plain = gem_loss(hidden @ weight.t(), targets, 0.7)
    expected = torch.autograd.grad(plain.sum(), [hidden, weight])
    assert torch.allclose(chunked, plain, atol=1e-12)
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(got, expected, strict=True))


def test_token_kl_both_ways() -> None:
    (now, _), before = random_logits(), torch.randn(6, 9, dtype=torch.float64)
    forward, reverse = token_kl(now, before)
    p, q = now.detach().softmax(-1), before.softmax(-1)
    assert torch.allclose(forward, (q * (q / p).log()).sum(-1), atol=1e-12)
    assert torch.allclose(reverse, (p * (p / q).log()).sum(-1), atol=1e-12)


def first_batch(job: Any) -> list[Any]:
    rows = prepare(job.examples, AutoTokenizer.from_pretrained(tiny_model()), max_length=1024).rows
    return [rows[place] for place in order(len(rows), job.params.batch_size, job.seed)]


def answer_logits(row: Any) -> torch.Tensor:
    """(answer tokens, V) of the untrained tiny model, in float64."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model(), dtype=torch.float64)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([row.prompt + row.answer])).logits[0]
    return logits[len(row.prompt) - 1 : -1]


def first_loss(job: Any) -> float:
    seen: list[float] = []
    with pytest.raises(Killed):
        train(job, lambda step, total, loss: seen.append(loss) or killer(1)(step, total, loss))  # type: ignore[func-returns-value]
    return seen[0]


def test_first_losses_are_the_papers(job: JobMaker) -> None:
    rows = first_batch(job("sft"))
    logits, targets = (
        torch.cat([answer_logits(row) for row in rows]),
        torch.tensor([token for row in rows for token in row.answer]),
    )
    log_p = logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    assert first_loss(job("sft")) == pytest.approx(float(-log_p.mean()), abs=1e-4)
    assert first_loss(job("dft", micro_batch_size=2)) == pytest.approx(float(-(log_p.exp() * log_p).mean()), abs=1e-4)
    expected = float(gem_loss(logits, targets, 0.7).mean())
    assert first_loss(job("gem", micro_batch_size=2)) == pytest.approx(expected, abs=1e-4)


def test_dft_gradient_is_that_of_cross_entropy_times_p() -> None:
    """Of TRL's loss, through the head of the tiny model: dL/dW = Σ p (p - onehot) hᵀ / N."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(tiny_model(), dtype=torch.float64)
    config = SFTConfig("unused", loss_type="dft", max_length=None, bf16=False, use_cpu=True, report_to=[],
                       gradient_checkpointing=False, dataset_kwargs={"skip_prepare_dataset": True})  # fmt: skip
    ids = torch.arange(7, 19)[None]
    labels = ids.clone()
    labels[0, :5] = -100
    one = [{"input_ids": ids[0].tolist(), "labels": labels[0].tolist()}]
    tokenizer = AutoTokenizer.from_pretrained(tiny_model())
    trainer = SFTTrainer(model, config, train_dataset=Dataset.from_list(one), processing_class=tokenizer)
    inputs = {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}
    trainer.compute_loss(trainer.model, inputs, num_items_in_batch=torch.tensor(7)).backward()
    with torch.no_grad():
        states = model.base_model(input_ids=ids).last_hidden_state[0, 4:-1]
        p = (states @ model.lm_head.weight.t()).softmax(-1)
        target = ids[0, 5:]
        sure = p.gather(-1, target[:, None])
        error = p - torch.nn.functional.one_hot(target, p.shape[1])
        expected = (sure * error).t() @ states / 7
    assert torch.allclose(model.lm_head.weight.grad, expected, atol=1e-6)


@pytest.mark.parametrize("method", ["sft", "dft"])
def test_twenty_steps_of_trl_itself(job: JobMaker, tmp_path: Path, method: str) -> None:
    """The same rows in the same order through an SFTTrainer without anything of ours."""
    one = job(
        method, epochs=4, max_steps=20, learning_rate=1e-3, weight_decay=0.01, schedule="cosine", warmup_ratio=0.1
    )
    losses: list[float] = []
    folder = train(one, lambda step, total, loss: losses.append(loss))
    tokenizer = AutoTokenizer.from_pretrained(tiny_model())
    rows = prepare(one.examples, tokenizer, max_length=1024).rows
    data = [
        {
            "input_ids": rows[place].prompt + rows[place].answer,
            "labels": [-100] * len(rows[place].prompt) + rows[place].answer,
        }
        for place in order(len(rows), 80, one.seed)
    ]
    config = SFTConfig(
        str(tmp_path / "trl"), loss_type="dft" if method == "dft" else "nll", max_length=None, max_steps=20,
        per_device_train_batch_size=4, learning_rate=1e-3, weight_decay=0.01, lr_scheduler_type="cosine",
        warmup_steps=0.1, max_grad_norm=1.0, bf16=False, use_cpu=True, gradient_checkpointing=False, seed=0,
        logging_steps=1, report_to=[], disable_tqdm=True, train_sampling_strategy="sequential",
        save_strategy="no", dataset_kwargs={"skip_prepare_dataset": True},
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(tiny_model(), dtype=torch.float32)
    theirs = SFTTrainer(model, config, train_dataset=Dataset.from_list(data), processing_class=tokenizer)
    logged: list[float] = []

    class Listen(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            logged.extend([logs["loss"]] if "loss" in logs else [])

    theirs.add_callback(Listen())
    theirs.train()
    assert losses == pytest.approx(logged, abs=2e-5)
    found, expected = weights(folder), theirs.model.state_dict()
    assert max((found[name] - expected[name]).abs().max().item() for name in found) < 1e-6
