"""RAFT (arXiv 2606.00147): cross-entropy on the refined answer plus distillation from the original model, which is
shown that answer, along what the student itself says.

    L = L_SFT + λ · T² · (1/N) Σ_i (1/L_i) Σ_t KL( teacher(· | answer, x, z_<t) || student(· | x, z_<t) )

z is a fresh sample of the student at every step; the divergence is taken on the teacher's K likeliest tokens; λ keeps
the two terms equally large (trainers/balance.py). The teacher is the model before training, frozen. The paper does not
state how rollouts are sampled; here they are sampled at temperature 1 and never cut by likelihood.
"""

from pydantic import Field

from refinery.spec_types import Template
from trainers.conditioned import build, prepare
from trainers.distill_params import BalancedParams

__all__ = ["Params", "build", "prepare"]

VERSION = 1

TEACHER_PROMPT = """\
Here is reference knowledge for the question below: {{ response }}
Answer the question on the basis of that knowledge: {{ question }}"""


class Params(BalancedParams):
    """Defaults are the paper's where it states them."""

    top_k: int | None = Field(512, ge=1)
    """K: the teacher's likeliest words at each position; at most the vocabulary, which None is."""
    temperature: float = Field(1.5, gt=0)
    """T of both distributions in the divergence, before the K are chosen. Not that of the rollouts."""
    teacher_prompt: Template | None = TEACHER_PROMPT
    """The teacher's user turn, over an example's fields: `response` is the refined answer, `answer` the raw one."""
