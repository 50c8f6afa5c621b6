"""SFT, then on-policy distillation from the model before it (Thinking Machines, 2025; the re-invoke baseline of SDFT,
arXiv 2601.19897): the second phase calls back what the first made the model forget, on general prompts.

    phase 1   cross-entropy on the rows' responses, as `sft`
    phase 2   the divergence of trainers/methods/opd.py along rollouts on `prompts`, the teacher blind

The second phase begins with an optimiser of its own, a learning rate schedule of its own, and phase 1's weights.
"""

from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from refinery.spec_types import StepName, Template
from trainers import conditioned, data
from trainers.conditioned import prepare
from trainers.distill_params import DistillParams, Estimator, Kind
from trainers.job import Run, TrainJob

__all__ = ["Params", "build", "plan", "prepare"]

VERSION = 1


class Params(DistillParams):
    """`learning_rate`, `epochs` and `max_steps` are phase 1's."""

    SUPERVISED: ClassVar[bool] = True

    prompts: StepName | None = None
    """The step or source whose prompts phase 2 is on; the rows' own where it is left out."""
    second_learning_rate: float = Field(5e-5, gt=0)
    """Of full fine-tuning; with LoRA 1e-4 is what they use."""
    second_epochs: float = Field(1, gt=0)
    second_max_steps: Annotated[int | None, Field(ge=1)] = 100
    """Optimiser steps of phase 2, at most; theirs recovered in about 100."""
    divergence: Kind = "reverse"
    estimator: Estimator = "sampled"
    teacher_prompt: Template | None = None
    """Shown in phase 2 on the rows' own prompts; refused with `prompts`, on which the teacher is blind."""

    @model_validator(mode="after")
    def _blind(self) -> "Params":
        if self.prompts is not None and self.teacher_prompt is not None:
            raise ValueError("teacher_prompt: the teacher is blind on `prompts`; leave out one of the two")
        return self


def plan(job: TrainJob, prepared: data.Prepared, tokenizer: Any) -> tuple[data.Plan, dict[str, Any]]:
    """The rows of phase 1, then the prompts of phase 2."""
    params: Any = job.params
    first = data.plan(prepared.rows, params, job.seed)
    notes: dict[str, Any] = {"sft_steps": first.steps}
    general = prepared.rows
    if "prompts" in job.extra:
        asked = data.prepare(job.extra["prompts"], tokenizer, max_length=params.max_length, answered=False)
        general, notes["prompts_dropped"] = asked.rows, dict(asked.dropped)
    steps = data.steps(len(general), params.second_epochs, params.batch_size, params.second_max_steps)
    places = data.order(len(general), steps * params.batch_size, job.seed)
    offset = len(prepared.rows)
    whole = data.Plan([*prepared.rows, *general], first.steps + steps, first.places + [offset + p for p in places])
    return whole, notes


def build(run: Run) -> Any:
    """The transformers.Trainer of this method, ready to train."""
    params: Any = run.job.params
    return conditioned.build(run, run.notes["sft_steps"], params.second_learning_rate / params.learning_rate)
