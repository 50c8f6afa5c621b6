"""What the frozen model is asked, against its logits written out."""

import contextlib
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.tiny import tiny_model
from tests.trainers.conftest import JobMaker
from trainers.methods.rewriting_agent import yes_and_no
from trainers.rewards.target import Target
from trainers.train import _prepare

PAIRS = [
    ("what is right?", "the answer is nine"),
    ("which answer is right, and why is the other answer wrong?", "a rewrite"),
    ("why?", " of five in the clinic"),
]


@pytest.fixture(params=[None, {"rank": 4}], ids=["copy", "adapter"])
def target(request: Any, job: JobMaker, tmp_path: Any) -> Target:
    """Of the tiny model, asked after the trained model has moved away from it."""
    run = _prepare(job("sft", lora=request.param), tmp_path)
    found = Target(run, size=2)
    student = run.model
    if run.adapter is not None:
        from peft import get_peft_model

        student = get_peft_model(run.model, run.adapter)
    with torch.no_grad():
        for weight in student.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight), alpha=0.1)
    accelerator = SimpleNamespace(
        device=torch.device("cpu"), unwrap_model=lambda model: model, autocast=contextlib.nullcontext
    )
    found.attach(SimpleNamespace(accelerator=accelerator, model=student, eos_token_ids=[1]))
    return found


def logits(ids: list[int]) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(tiny_model(), dtype=torch.float32).eval()
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0].double()


def asked(target: Target) -> list[tuple[list[int], list[int]]]:
    return [(target.chat([{"role": "user", "content": q}]), target.words(a)) for q, a in PAIRS]


def test_mean_log_probs(target: Target) -> None:
    pairs = asked(target)
    expected = []
    for prefix, words in pairs:
        rows = logits(prefix + words).log_softmax(-1)
        expected.append(sum(rows[len(prefix) - 1 + i, token].item() for i, token in enumerate(words)) / len(words))
    found = target.mean_log_probs([*pairs, (pairs[0][0], [])])
    assert found[:-1] == pytest.approx(expected, abs=1e-4) and found[-1] is None


def test_ids_of_a_text_do_not_depend_on_what_stands_before(target: Target) -> None:
    """Fault 4: tokenised together, prefix and answer may share a token."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_model())
    prefix, text = "the ans", "wer is nine"
    together = tokenizer(prefix + text, add_special_tokens=False)["input_ids"]
    apart = target.words(prefix) + target.words(text)
    assert together != apart and tokenizer.decode(apart) == tokenizer.decode(together)


def test_next_probs(target: Target) -> None:
    prompts = [prefix for prefix, _ in asked(target)]
    found = target.next_probs(prompts, [7, 300])
    for prompt, row in zip(prompts, found, strict=True):
        assert row == pytest.approx(logits(prompt)[-1].softmax(-1)[[7, 300]].tolist(), rel=1e-4)


def test_vectors_are_means_of_last_hidden_states(target: Target) -> None:
    texts = [words for _, words in asked(target)]
    model = AutoModelForCausalLM.from_pretrained(tiny_model(), dtype=torch.float32).eval()
    found = target.vectors(texts)
    for ids, vector in zip(texts, found, strict=True):
        with torch.no_grad():
            mean = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0].double().mean(0)
        assert torch.allclose(vector, mean / mean.norm(), atol=1e-5)


def test_what_it_says_leaves_the_random_state_alone(target: Target) -> None:
    prompts = [prefix for prefix, _ in asked(target)]
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = target.says(prompts, 12, seed=3)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(6)
    assert target.says(prompts, 12, seed=3) == first != target.says(prompts, 12, seed=4)


def test_yes_and_no_are_all_single_tokens() -> None:
    """Fault 3: each way to write them counts, not the last one that was looked up."""
    words = {"YES": [4], " YES": [5], "Yes": [6], " Yes": [7, 8], "yes": [9], " yes": [9], "NO": [1, 2], " NO": [3]}
    tokenizer = lambda text, add_special_tokens: {"input_ids": words.get(text, [0, 0])}  # noqa: E731
    assert yes_and_no(tokenizer) == ([4, 5, 6, 9], [3])
    assert yes_and_no(AutoTokenizer.from_pretrained(tiny_model()))[0] == []
