"""On-policy distillation from the model before training (Thinking Machines, 2025) along rollouts of the student.

Without `teacher_prompt` the teacher is blind, and a student that begins as its teacher has nothing to learn from it:
give one, or see trainers/methods/reinvoke.py, where another training stands between the two.

    per token  z_t ~ p:  ∇L = (log p(z_t) - log q(z_t)) ∇log p(z_t),  the reverse divergence by its one sampled word

`estimator: analytic` sums over words instead, for the same mean and far less noise. Rows need no response.
"""

from pydantic import Field

from trainers.conditioned import build, prepare
from trainers.distill_params import DistillParams, Estimator, Kind

__all__ = ["Params", "build", "prepare"]

VERSION = 1


class Params(DistillParams):
    """Of full fine-tuning; with LoRA 1e-4 is their learning rate."""

    learning_rate: float = Field(5e-5, gt=0)
    epochs: float = Field(1, gt=0)
    batch_size: int = Field(64, ge=1)
    divergence: Kind = "reverse"
    estimator: Estimator = "sampled"
