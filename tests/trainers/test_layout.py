"""Continuations that share a row get the states of rows of their own, and the same gradients; and when they do."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, MistralConfig, MistralForCausalLM

from tests.tiny import tiny_model
from tests.trainers.conftest import JobMaker, gap
from tests.trainers.test_distill import build
from trainers import layout
from trainers.layout import can_share, lay
from trainers.train import train

PROMPTS = [[5, 6, 7, 8, 9], [20, 21, 22], [5, 6, 7, 8, 9], [5, 6, 7, 8, 9], [20, 21, 22]]
ANSWERS = [[30, 31, 32, 33], [40], [50, 51], [], [60, 61, 62]]
SKIPS = [0, 0, 1, 0, 2]


@pytest.fixture
def model() -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_model(), dtype=torch.float32).eval()


def alone(model: Any) -> torch.Tensor:
    """By single rows without padding."""
    found = []
    for prompt, answer, skip in zip(PROMPTS, ANSWERS, SKIPS, strict=True):
        states = model.base_model(input_ids=torch.tensor([prompt + answer])).last_hidden_state[0]
        found.append(states[len(prompt) - 1 + skip : len(prompt) - 1 + len(answer)])
    return torch.cat(found)


@pytest.mark.parametrize("together", [False, True])
def test_states_and_gradients_are_those_of_single_rows(model: Any, together: bool) -> None:
    made = layout._lay(PROMPTS, ANSWERS, SKIPS, together)
    assert made.shared == together and len(made.lines) == (2 if together else 5)
    expected, weights = alone(model), [p for p in model.base_model.parameters() if p.requires_grad]
    states = made.pick(model.base_model(**made.inputs(0, "cpu"), use_cache=False).last_hidden_state)
    assert states.shape == expected.shape and torch.allclose(states, expected, atol=1e-4)
    by = torch.randn_like(expected)
    got, wanted = (torch.autograd.grad((x * by).sum(), weights) for x in (states, expected))
    assert all(torch.allclose(a, b, atol=2e-3, rtol=1e-3) for a, b in zip(got, wanted, strict=True))


def test_all_tokens_skipped_is_no_state(model: Any) -> None:
    made = lay(PROMPTS, ANSWERS, [9] * 5, True, 64)
    states = made.pick(model.base_model(**made.inputs(0, "cpu"), use_cache=False).last_hidden_state)
    assert states.shape == (0, 64)


def test_only_where_it_is_less_work() -> None:
    """Short answers behind a long prompt; not long answers behind a short one, nor prompts that all differ."""
    long, short = [1] * 100, [2] * 3

    def rows(prompt: list[int], answer: list[int], together: bool = True) -> int:
        return len(lay([prompt] * 4, [answer] * 4, [0] * 4, together, hidden=64).lines)

    assert rows(long, short) == 1 and rows(long, short, together=False) == 4
    assert rows(short, long * 10) == 4
    assert len(lay([[1], [2]], [[3], [4]], [0, 0], True, 64).lines) == 2


def test_which_models_can(model: Any) -> None:
    """Not with a window, nor with an attention that takes no mask of ours, nor where the states come out others."""
    assert can_share(model, [5, 6, 7], [8, 9])
    window = MistralConfig(vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                           num_attention_heads=2, num_key_value_heads=2, sliding_window=4)  # fmt: skip
    assert not can_share(MistralForCausalLM(window), [5, 6, 7], [8, 9])
    real = model.base_model.forward
    model.base_model.forward = lambda position_ids=None, **inputs: real(**inputs)  # counts on through the whole row
    assert not can_share(model, [5, 6, 7], [8, 9])


def test_training_is_the_same_either_way(job: JobMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rollouts and answers behind one prompt: with and without, to rounding."""
    params = {"learning_rate": 1e-3, "rollouts": 2, "max_completion_length": 6, "balance": 1.0}
    trainer, _ = build(job("raft", **params))
    assert trainer.shares
    one = train(job("raft", **params))
    monkeypatch.setattr("trainers.layout.can_share", lambda *given: False)
    other = train(job("raft", **{**params, "_data_fingerprint": "other"}))
    assert one != other and gap(one, other) < 1e-4
