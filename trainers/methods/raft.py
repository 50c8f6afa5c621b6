"""RAFT (arXiv 2606.00147): cross-entropy on the refined answer plus distillation from the original model, which is
shown that answer, along what the student itself says.

    L = L_SFT + λ · T² · (1/N) Σ_i (1/L_i) Σ_t KL( teacher(· | answer, x, z_<t) || student(· | x, z_<t) )

z is a fresh sample of the student at every step; the divergence is taken on the teacher's K likeliest tokens; λ keeps
the two terms equally large (trainers/balance.py). The teacher is the model before training, frozen. The paper does not
state how rollouts are sampled; here they are sampled at temperature 1 and never cut by likelihood.
"""

from typing import Any, Literal

from pydantic import Field

from refinery.spec_types import Template
from trainers.job import Run
from trainers.params import TrainParams

VERSION = 1

TEACHER_PROMPT = """\
Here is reference knowledge for the question below: {{ response }}
Answer the question on the basis of that knowledge: {{ question }}"""


class Params(TrainParams):
    """Defaults are the paper's where it states them."""

    top_k: int = Field(512, ge=1)
    """K: the teacher's likeliest tokens at each position; at most the vocabulary."""
    temperature: float = Field(1.5, gt=0)
    """T of both distributions in the divergence, before the K are chosen. Not that of the rollouts."""
    tail: Literal["renorm", "bucket", "full"] = "renorm"
    """The tokens outside the K: ignored (the paper), one more outcome, or all counted one by one."""
    balance: Literal["ema"] | float = "ema"
    """λ: moving averages of the losses, or this fixed number."""
    balance_decay: float = Field(0.9, ge=0, lt=1)
    """β of those averages. Not a decay of weights: the teacher stays as it is."""
    lambda_min: float = Field(0.0, ge=0)
    lambda_max: float | None = Field(None, gt=0)
    """Bounds of the averaged λ; unbounded in the paper, where it grows without limit as the divergence vanishes."""
    rollout_temperature: float = Field(1.0, gt=0)
    max_completion_length: int = Field(512, ge=1)
    """Tokens of a rollout, where the model's context leaves room for that many after the teacher's prompt."""
    teacher_prompt: Template = TEACHER_PROMPT
    """The teacher's user turn, over an example's fields: `response` is the refined answer, `answer` the raw one."""


def build(run: Run) -> Any:
    """The transformers.Trainer of this method, ready to train."""
    from trainers.distill import conditioned_distillation

    return conditioned_distillation(run)
