"""How much memory a training will need, from the model's configuration and the longest row: an estimate by formula.

    weights       4 bytes (full fine-tuning, in float32) or 2 (under LoRA in bfloat16), and again for a frozen teacher
                  or the reference of a KL penalty; 4 per trained weight for a moving average that teaches
    training      12 bytes per trained weight: its gradient and the two moments of AdamW, in float32
    method        what a method keeps besides: a copy for l2sp, a copy and the Fisher diagonal for ewc
    activations   rows x tokens x layers x (16 hidden + 2 inner) x bytes of the arithmetic, for the longest row and
                  whole rollouts; with gradient_checkpointing one hidden state a layer, and one layer whole

Activations are the roughest part: attention kernels, generation caches and fragments are not in it.
"""

from dataclasses import dataclass
from typing import Any

from refinery.catalog import METHODS, module
from trainers.course import Course
from trainers.distill_params import BalancedParams, DistillParams
from trainers.job import TrainJob

ADAM = 12


@dataclass(frozen=True)
class Footprint:
    """Bytes."""

    weights: int
    training: int
    method: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.training + self.method + self.activations


def skeleton(model: str, revision: str | None, trust_remote_code: bool) -> Any:
    """The model without weights: its configuration and the shapes of its parameters."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from refinery.models.transformers import resolve

    config = AutoConfig.from_pretrained(resolve(model), revision=revision, trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)


def footprint(job: TrainJob, course: Course, model: Any, on_gpu: bool) -> Footprint:
    """`model`: of `skeleton`. One process; with several, each needs this with its share of the micro-batch."""
    params, method = job.params, module(METHODS, job.method)
    narrow = params.dtype == "bfloat16" or (params.dtype == "auto" and on_gpu)
    sizes = {name: weight.numel() for name, weight in model.named_parameters()}
    weights = sum(sizes.values())
    adapted = _adapted(params.lora, model)
    trained = weights if params.lora is None else params.lora.rank * sum(sum(shape) for shape in adapted)
    width = 2 if params.lora is not None and narrow and params.dtype != "float32" else 4
    copies = getattr(method, "COPIES", 0)
    pulled = weights if params.lora is None else sum(rows * columns for rows, columns in adapted)
    if copies and params.lora is not None:
        copies -= 1  # adapters are zero at the start: there is nothing to keep a copy of
    asked = "teacher_prompt" in type(params).model_fields or hasattr(method, "TEACHER")
    teacher = params.lora is None and (asked or bool(getattr(params, "beta", 0) and hasattr(params, "num_generations")))
    match getattr(params, "teacher", "frozen"):
        case "ema":
            frozen = 4 * trained
        case "live":
            frozen = 0
        case _:
            frozen = weights * (2 if narrow else 4) if teacher else 0
    return Footprint(
        weights * width + (0 if params.lora is None else trained * 4) + frozen,
        trained * ADAM,
        4 * copies * pulled,
        _activations(job, course, model.config.get_text_config(), 2 if narrow else 4),
    )


def _adapted(lora: Any, model: Any) -> list[tuple[int, int]]:
    """The shapes of the matrices that get adapters."""
    import torch

    head = model.get_output_embeddings()
    return [
        (module.out_features, module.in_features)
        for name, module in model.named_modules()
        if lora is not None
        and isinstance(module, torch.nn.Linear)
        and module is not head
        and (lora.layers is None or name.rpartition(".")[2] in lora.layers)
    ]


def _activations(job: TrainJob, course: Course, config: Any, width: int) -> int:
    params: Any = job.params
    rows = params.micro_batch_size or params.batch_size
    asked = max(max(len(row.prompt), len(row.teacher_prompt)) for row in course.prepared.rows)
    context = getattr(config, "max_position_embeddings", None)
    learnt = rows * max(len(row.prompt) + len(row.answer) for row in course.prepared.rows)
    if isinstance(params, DistillParams):
        tokens = _rolled_out(params, course, rows, asked, context)
        if isinstance(params, BalancedParams):
            tokens += learnt
        elif params.SUPERVISED:  # one phase after the other
            tokens = max(tokens, learnt)
    elif several := getattr(params, "num_generations", None):  # rollouts of every row, and their length
        tokens = (params.rollouts_per_pass or rows * several) * _within(context, asked + params.max_completion_length)
    else:
        tokens = learnt
    hidden, layers = config.hidden_size, config.num_hidden_layers
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    layer = 16 * hidden + 2 * inner
    kept = layers * hidden + layer if params.gradient_checkpointing else layers * layer
    return int(tokens * kept * width)


def _rolled_out(params: DistillParams, course: Course, rows: int, asked: int, context: int | None) -> int:
    """Tokens of the rollouts of `rows` rows, each with its prompt or its teacher's."""
    stored = max(max(len(row.prompt), len(row.teacher_prompt)) + len(row.answer) for row in course.prepared.rows)
    if params.rollout_source == "stored":
        return rows * stored
    drawn = params.rollouts * _within(context, asked + params.max_completion_length)
    return rows * (drawn if params.on_policy == 1 else max(drawn, stored))


def _within(context: int | None, tokens: int) -> int:
    return min(tokens, context or tokens)
