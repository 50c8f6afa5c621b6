"""Distillation along stored texts: each row's `response` is what the teacher said (a `generate` step writes it), and
both models are compared along it. The control for what being on-policy adds: SDFT (arXiv 2601.19897) beats this, and
this beats SFT on the same texts.

    L = (1/N) Σ_rows (1/L) Σ_t D( q(· | c, y_<t), p(· | x, y_<t) ),  y the stored response

`teacher_prompt` is what the teacher was shown when it said y; without one it is blind.
"""

from trainers.conditioned import build, prepare
from trainers.distill_params import DistillParams, Source

__all__ = ["Params", "build", "prepare"]

VERSION = 1


class Params(DistillParams):
    rollout_source: Source = "stored"
