"""The decoding loop against transformers' `generate`: the same samples, and the same random numbers left."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig, MistralConfig, MistralForCausalLM

from tests.tiny import tiny_model
from tests.trainers.conftest import JobMaker
from tests.trainers.test_distill import build
from trainers.sampling import Manner, can_sample, sample

PROMPTS = [[5 + (7 * i + j) % 300 for j in range(3 + 2 * (i % 4))] for i in range(7)]
PROMPTS += [PROMPTS[2], PROMPTS[2]]
PAD, ENDS = 0, list(range(1, 40))
"""Many ends, so that rows of a random model end at different places."""


@pytest.fixture
def model() -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_model(), dtype=torch.float32).eval()


def generated(model: Any, limit: int, **how: Any) -> list[list[int]]:
    width = max(map(len, PROMPTS))
    ids = torch.tensor([[PAD] * (width - len(p)) + p for p in PROMPTS])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in PROMPTS])
    config = GenerationConfig(
        max_new_tokens=limit, do_sample=True, pad_token_id=PAD, eos_token_id=ENDS, disable_compile=True, **how
    )
    with torch.no_grad():
        made = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)[:, width:].tolist()
    ends = [next((i for i, t in enumerate(row) if t in ENDS), len(row) - 1) for row in made]
    return [row[: end + 1] for row, end in zip(made, ends, strict=True)]


@pytest.mark.parametrize(
    "how",
    [
        {"temperature": 1.0, "top_k": 0, "top_p": 1.0},
        {"temperature": 1.7, "top_k": 0, "top_p": 1.0},
        {"temperature": 0.6, "top_k": 30, "top_p": 1.0},
        {"temperature": 1.2, "top_k": 0, "top_p": 0.8},
        {"temperature": 1.3, "top_k": 50, "top_p": 0.9},
    ],
)
@pytest.mark.parametrize("limit", [1, 24])
def test_samples_are_those_of_generate(model: Any, how: dict[str, Any], limit: int) -> None:
    lengths = set()
    for seed in range(4):
        torch.manual_seed(seed)
        expected, left = generated(model, limit, **how), torch.get_rng_state()
        torch.manual_seed(seed)
        assert sample(model, PROMPTS, Manner(limit, ENDS, PAD, **how)) == expected
        assert torch.equal(torch.get_rng_state(), left)
        lengths |= set(map(len, expected))
    assert limit == 1 or len(lengths) > 5


def test_which_models(model: Any) -> None:
    assert can_sample(model)
    window = MistralConfig(vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                           num_attention_heads=2, num_key_value_heads=2, sliding_window=4)  # fmt: skip
    assert not can_sample(MistralForCausalLM(window))


@pytest.mark.parametrize("lora", [None, {"rank": 4, "dropout": 0.2}])
def test_a_training_s_rollouts_are_those_of_trl(job: JobMaker, lora: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the trainer, from the student and from the teacher; several for each prompt."""
    for source in ("student", "teacher"):
        trainer, rows = build(
            job(
                "acopd",
                top_k=16,
                lora=lora,
                rollouts=3,
                rollout_source=source,
                max_completion_length=12,
                rollout_temperature=1.5,
            )
        )
        trainer.eos_token_ids[:] = ENDS
        trainer.generation_config.eos_token_id = ENDS
        trainer.model.train()
        inputs = [{"prompt": r.prompt, "answer": r.answer, "teacher_prompt": r.prompt} for r in rows[:4]]
        found = []
        for own in (True, False):
            with monkeypatch.context() as patch:
                patch.setattr("trainers.rollouts.can_sample", lambda model, own=own: own)
                torch.manual_seed(3)
                found.append((trainer._rollouts(inputs), torch.get_rng_state().tolist()))
        assert found[0] == found[1]
