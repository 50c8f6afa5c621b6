"""Self-distillation fine-tuning (Shenfeld et al., arXiv 2601.19897): the model with a demonstration in its prompt
teaches the model without.

    L = (1/R) Σ_rollouts (1/L) Σ_t D( p(· | x, z_<t), q_φ(· | x, demonstration, z_<t) ),  φ ← αθ + (1-α)φ

z is a rollout of the student, φ a moving average of its weights. The paper writes D = KL(p || q), the reverse
divergence; its authors say that the published numbers came of the forward one (their repository's issue 5). `preset`
says which: `paper` is what the text says, `released` what their code does. Of the text `paper` leaves out that the
first few tokens of a rollout are masked and that warm-up takes 10 steps: set skip_tokens (theirs is 3) and warmup_ratio
(10 / steps).

Not to be confused with the rewriting of answers of the same name (2024), which is an op's preset.
"""

from typing import Any, ClassVar, Literal

from pydantic import Field

from refinery.spec_types import Template
from trainers.conditioned import build, prepare
from trainers.distill_params import DistillParams, Kind, Teaching

__all__ = ["Params", "build", "prepare"]

VERSION = 1

TEACHER_PROMPT = """\
{{ question }}

Here is a demonstration of a response to this question:
{{ response }}

Now respond in your own words, with all of your reasoning."""


class Params(DistillParams):
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        "released": {
            "divergence": "forward",
            "teacher_ema": 0.01,
            "skip_tokens": 3,
            "importance_cap": 2.0,
            "learning_rate": 2e-5,
            "epochs": 1,
            "warmup_ratio": 0.1,
        },
    }

    preset: Literal["paper", "released"] = "paper"
    """Values of the parameters that are not given."""
    learning_rate: float = Field(1e-5, gt=0)
    epochs: float = Field(2, gt=0)
    batch_size: int = Field(32, ge=1)
    weight_decay: float = Field(0.0, ge=0)
    teacher: Teaching = "ema"
    teacher_ema: float = Field(0.02, gt=0, le=1)
    teacher_prompt: Template | None = TEACHER_PROMPT
    """`response` is the demonstration; for new facts show `{{ text }}` (a column), the answer, or both."""
    divergence: Kind = "reverse"
    max_completion_length: int = Field(1024, ge=1)
