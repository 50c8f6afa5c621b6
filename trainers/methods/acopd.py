"""Answer-conditioned on-policy distillation alone: RAFT's second term (arXiv 2606.00147, Eqs 6-10) without its first.

    L = T²/R · Σ_rollouts (1/L) Σ_t KL( q(· | answer, x, z_<t) || p(· | x, z_<t) )  on the teacher's K likeliest words

What RAFT's ablations leave out: how much of its effect needs cross-entropy on the answer. Everything else is as in
trainers/methods/raft.py.
"""

from pydantic import Field

from refinery.spec_types import Template
from trainers.conditioned import build, prepare
from trainers.distill_params import DistillParams
from trainers.methods.raft import TEACHER_PROMPT

__all__ = ["Params", "build", "prepare"]

VERSION = 1


class Params(DistillParams):
    """RAFT's, where they concern its divergence."""

    top_k: int | None = Field(512, ge=1)
    temperature: float = Field(1.5, gt=0)
    teacher_prompt: Template | None = TEACHER_PROMPT
