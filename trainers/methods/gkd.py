"""Generalised knowledge distillation (Agarwal et al., arXiv 2306.13649), with the model before training as teacher.

    L = (1-λ) E_data[D] + λ E_rollouts[D],  D = β KL(q||m) + (1-β) KL(p||m),  m = βq + (1-β)p

Each optimiser step is on rollouts of the student with probability λ (`on_policy`), else on the data's responses. No
gradient flows through the sampling.
"""

from pydantic import Field

from trainers.conditioned import build, prepare
from trainers.distill_params import DistillParams, Kind

__all__ = ["Params", "build", "prepare"]

VERSION = 1


class Params(DistillParams):
    """Those of the paper's summarisation runs; it finds λ = 1 best in most others."""

    learning_rate: float = Field(3e-4, gt=0)
    batch_size: int = Field(32, ge=1)
    divergence: Kind = "jsd"
    beta: float = Field(0.5, gt=0, lt=1)
    on_policy: float = Field(0.5, ge=0, le=1)
