"""On-policy self-distillation (arXiv 2601.18734): the model before training, shown the reference solution, teaches the
student along its own attempts.

    L = (1/M) Σ_tokens D( q(· | problem, solution, z_<t), p(· | problem, z_<t) ),  M tokens in the step

The teacher is fixed, which under LoRA is the model with its adapter off. `paper` is the text (JSD at β = 1/2, rollouts
of 2,048 tokens); `released` the authors' later scripts (forward, rollouts half as long, each word's term clipped at
0.05 because words of mere style hold most of the divergence). Their cheaper variant is `top_k: 50`.
"""

from typing import Any, ClassVar, Literal

from pydantic import Field

from refinery.spec_types import Template
from trainers.conditioned import build, prepare
from trainers.distill_params import DistillParams, Kind
from trainers.params import LoraParams

__all__ = ["Params", "build", "prepare"]

VERSION = 1

TEACHER_PROMPT = """\
Problem: {{ question }}

A reference solution of this problem:
{{ response }}

Once you have understood the reference solution, reason step by step in your own way to the same answer:"""


class Params(DistillParams):
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        "released": {"divergence": "forward", "token_clip": 0.05, "max_completion_length": 1024},
    }

    preset: Literal["paper", "released"] = "paper"
    """Values of the parameters that are not given."""
    learning_rate: float = Field(2e-4, gt=0)
    batch_size: int = Field(32, ge=1)
    lora: LoraParams | None = LoraParams.model_validate({"rank": 64, "alpha": 128})
    teacher_prompt: Template | None = TEACHER_PROMPT
    divergence: Kind = "jsd"
    beta: float = Field(0.5, gt=0, lt=1)
    reduction: Literal["rows", "tokens"] = "tokens"
    rollout_temperature: float = Field(1.1, gt=0)
    rollout_top_p: float = Field(0.95, gt=0, le=1)
    rollout_top_k: int = Field(20, ge=0)
    max_completion_length: int = Field(2048, ge=1)
