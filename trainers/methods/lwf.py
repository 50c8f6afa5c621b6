"""Learning without forgetting (arXiv 1606.09282): cross-entropy, and closeness to the model before training on general
prompts.

    L = L_SFT + μ · (1/N) Σ_t KL( p0(· | x, y_<t) || p(· | x, y_<t) ),      y ~ p0(· | x)

Each step takes `kl_rows` of the general prompts along, with answers that the model gave to them before training, once,
at temperature 1: summed along such answers, the divergence is that of whole sequences, unbiased. All words of the
vocabulary count. Needs the model before training beside the trained one (none more with LoRA: the adapter is off).
"""

from typing import Any

from pydantic import Field

from refinery.spec_types import StepName
from trainers.job import Run
from trainers.params import TrainParams

VERSION = 1
TEACHER = "the model before training"


class Params(TrainParams):
    prompts: StepName
    """The step or source with general prompts; its answers are not used."""
    prompt_count: int = Field(256, ge=1)
    """How many of them, at most."""
    max_completion_length: int = Field(128, ge=1)
    """Tokens of an answer to them."""
    kl_rows: int | None = Field(None, ge=1)
    """Of these a step; batch_size where it is left out."""
    mu: float = Field(1.0, ge=0)
    """μ"""


def build(run: Run) -> Any:
    """The transformers.Trainer of this method, ready to train."""
    from trainers.lwf import lwf

    return lwf(run)
