"""Learning without forgetting: the divergence of full distributions, along what the model said before training."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from refinery.records import Example
from tests.tiny import tiny_model
from tests.trainers.conftest import JobMaker
from trainers.before import both_kl, forward_kl, sample, states
from trainers.teachers import head_of
from trainers.train import train

GENERAL = [Example(f"g{i}", [{"role": "user", "content": f"say {w}"}], w, w) for i, w in enumerate(("apple", "bread"))]


def model(seed: int = 0) -> Any:
    made = AutoModelForCausalLM.from_pretrained(tiny_model(), dtype=torch.float64)
    torch.manual_seed(seed)
    if seed:
        with torch.no_grad():
            for weight in made.parameters():
                weight += 0.05 * torch.randn_like(weight)
    return made


def test_divergence_along_answers_is_the_plain_one() -> None:
    now, before = model(1), model()
    pairs = [([5, 6, 7], [8, 9]), ([10], [11, 12, 13, 1])]
    hidden, targets = states(now, pairs, pad=0)
    assert targets.tolist() == [8, 9, 11, 12, 13, 1]
    reference, _ = states(before, pairs, pad=0)
    got = forward_kl(hidden, head_of(now), reference, head_of(before))
    forward, reverse = both_kl(hidden, head_of(now), reference, head_of(before))
    plain: list[tuple[torch.Tensor, torch.Tensor]] = []
    for prompt, answer in pairs:
        ids = torch.tensor([prompt + answer])
        rows = slice(len(prompt) - 1, -1)
        plain.append((now(input_ids=ids).logits[0, rows], before(input_ids=ids).logits[0, rows]))
    p = torch.cat([one for one, _ in plain]).log_softmax(-1)
    q = torch.cat([other for _, other in plain]).log_softmax(-1)
    expected = (q.exp() * (q - p)).sum(-1)
    assert torch.allclose(got, expected, atol=1e-8) and torch.allclose(forward, expected, atol=1e-8)
    assert torch.allclose(reverse, (p.exp() * (p - q)).sum(-1), atol=1e-8)
    ours = torch.autograd.grad(got.sum(), now.lm_head.weight, retain_graph=True)[0]
    assert torch.allclose(ours, torch.autograd.grad(expected.sum(), now.lm_head.weight)[0], atol=1e-8)


def test_samples_follow_the_model_and_not_the_batch() -> None:
    """The first token's frequencies are the model's probabilities; each answer is what it would be alone."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model())
    one, prompt = model(), [3, 5, 6, 4]
    end = tokenizer.eos_token_id
    answers = sample(one, tokenizer, [prompt] * 2000, end=end, limit=1, name="x")
    with torch.no_grad():
        p = one(input_ids=torch.tensor([prompt])).logits[0, -1].softmax(-1)
    counts = torch.bincount(torch.tensor([answer[0] for answer in answers]), minlength=len(p)).double()
    likely = p * 2000 > 20
    assert likely.sum() > 5
    deviations = (counts - 2000 * p)[likely] / (2000 * p * (1 - p))[likely].sqrt()
    assert deviations.abs().max() < 5
    three = sample(one, tokenizer, [prompt, prompt, [3, 9]], end=end, limit=12, name="y")
    assert sample(one, tokenizer, [prompt], end=end, limit=12, name="y") == three[:1]
    assert all(len(answer) == 12 or answer[-1] == end for answer in three)


def test_the_first_step_has_no_divergence_and_a_weight_holds_it_down(job: JobMaker) -> None:
    def kl(mu: float) -> list[float]:
        from refinery.store import Store

        store = Store(job("sft").out.parent / f"{mu}.duckdb")
        more = {"prompts": "general", "max_completion_length": 8, "_extra": {"prompts": GENERAL}, "_store": store}
        folder = train(job("lwf", mu=mu, max_steps=8, learning_rate=3e-3, **more))
        rows = store.training_metrics(folder.name)
        return [row["value"] for row in rows if row["name"] == "kl_loss"]

    free, held = kl(0.0), kl(5.0)
    assert free[0] == pytest.approx(0, abs=1e-5) and len(free) == 8
    assert 0 < held[-1] < free[-1] / 2
