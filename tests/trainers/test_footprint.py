"""The memory estimate against what is there: parameters and adapters of real models, bytes by hand."""

from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from refinery.records import Example
from tests.tiny import CONTEXT, tiny_model
from tests.trainers.conftest import JobMaker
from trainers.course import course
from trainers.footprint import Footprint, footprint, skeleton

GENERAL = [Example("g", [{"role": "user", "content": "say it"}], "it", "it")]


def estimate(job: Any, on_gpu: bool = False) -> Footprint:
    found = course(job, AutoTokenizer.from_pretrained(tiny_model()))
    return footprint(job, found, skeleton(str(tiny_model()), None, False), on_gpu)


def sizes(lora: LoraConfig | None = None) -> tuple[int, int]:
    """All parameters, and the trained ones."""
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_model())
    everything = sum(weight.numel() for weight in model.parameters())
    if lora is None:
        return everything, everything
    return everything, get_peft_model(model, lora).get_nb_trainable_parameters()[0]


def test_full_fine_tuning(job: JobMaker) -> None:
    weights, _ = sizes()
    plain = estimate(job("sft"))
    assert (plain.weights, plain.training, plain.method) == (4 * weights, 12 * weights, 0)
    assert estimate(job("l2sp")).method == 4 * weights
    assert estimate(job("ewc", prompts="g", _extra={"prompts": GENERAL})).method == 8 * weights
    assert estimate(job("lwf", prompts="g", _extra={"prompts": GENERAL})).weights == 8 * weights
    assert estimate(job("lwf", prompts="g", _extra={"prompts": GENERAL}), on_gpu=True).weights == 6 * weights


@pytest.mark.parametrize("layers", [None, ["q_proj", "down_proj"]])
def test_adapters(job: JobMaker, layers: list[str] | None) -> None:
    lora = LoraConfig(r=4, target_modules=layers or "all-linear", task_type="CAUSAL_LM")
    weights, adapters = sizes(lora)
    found = estimate(job("sft", lora={"rank": 4, "layers": layers}), on_gpu=True)
    assert (found.weights, found.training) == (2 * weights + 4 * adapters, 12 * adapters)


def test_activations_grow_with_rows_and_shrink_with_checkpointing(job: JobMaker) -> None:
    one, two = (estimate(job("sft", micro_batch_size=size)).activations for size in (1, 2))
    assert two == 2 * one
    assert estimate(job("sft", micro_batch_size=2, gradient_checkpointing=True)).activations < two
    assert estimate(job("sft")).total > estimate(job("sft", gradient_checkpointing=True)).total


def test_rollouts_are_counted(job: JobMaker) -> None:
    """In tokens of `sft` with its batch of 4: what a row's prompt, the teacher's, its answer and a rollout have."""
    rows = course(job("raft"), AutoTokenizer.from_pretrained(tiny_model())).prepared.rows
    answered = max(len(row.prompt) + len(row.answer) for row in rows)
    shown, blind = max(len(row.teacher_prompt) for row in rows), max(len(row.prompt) for row in rows)
    assert shown > blind and shown + 100 < CONTEXT
    each, rest = divmod(estimate(job("sft")).activations, 4 * answered)
    assert rest == 0

    def tokens(method: str, **params: Any) -> float:
        return estimate(job(method, **params)).activations / each

    prompt = job("raft").params.teacher_prompt  # type: ignore[attr-defined]
    assert tokens("sdft", teacher_prompt=prompt, max_completion_length=100) == 4 * (shown + 100)
    assert tokens("sdft", teacher_prompt=prompt, max_completion_length=10, rollouts=3) == 12 * (shown + 10)
    assert tokens("sdft", teacher_prompt=prompt, max_completion_length=4000) == 4 * CONTEXT
    assert tokens("raft", max_completion_length=100) == 4 * (shown + 100) + 4 * answered
    assert tokens("sdpo", rollouts=8, max_completion_length=100) == 32 * (blind + 100)
    assert tokens("gkd", rollout_source="stored", max_completion_length=100) == 4 * answered
    assert tokens("reinvoke", max_completion_length=100) == 4 * (blind + 100)
    assert tokens("reinvoke", max_completion_length=1) == 4 * answered


def test_the_teacher_s_weights(job: JobMaker) -> None:
    """A moving average is float32 wherever it is; the student itself costs nothing more; a frozen copy is narrow."""
    weights, _ = sizes()
    for on_gpu in (False, True):
        found = [estimate(job("sdft", teacher=kind), on_gpu).weights for kind in ("ema", "live", "frozen")]
        assert found == [8 * weights, 4 * weights, (6 if on_gpu else 8) * weights]
    adapters = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    weights, trained = sizes(adapters)
    assert estimate(job("sdft", lora={"rank": 4}), on_gpu=True).weights == 2 * weights + (4 + 4) * trained


def test_course_counts(job: JobMaker) -> None:
    made = job("sft", max_steps=5, epochs=9)
    found = course(made, AutoTokenizer.from_pretrained(tiny_model()))
    rows = {row.id: len(row.prompt) + len(row.answer) for row in found.prepared.rows}
    assert found.steps == len(found.tokens()) == 5
    assert [sum(rows[name] for name in found.batch(step)) for step in range(1, 6)] == found.tokens()
    assert {name for step in range(1, 6) for name in found.batch(step)} == set(rows)
