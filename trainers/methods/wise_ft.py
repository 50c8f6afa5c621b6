"""WiSE-FT (arXiv 2109.01903): the weights between those before and after supervised fine-tuning.

    θ = θ0 + c (θ_SFT - θ0)

Trains `sft` with the shared parameters given here, or takes that checkpoint where it stands already, and interpolates:
0 is the model before training, 1 the fine-tuned one, both to the bit. Several coefficients cost one training.
"""

from pathlib import Path
from typing import Any

from pydantic import Field

from trainers.job import TrainJob
from trainers.params import TrainParams

VERSION = 1
AFTER = "sft"


class Params(TrainParams):
    coefficient: float = Field(0.5, ge=0, le=1)
    """c"""


def change(job: TrainJob, tuned: Path) -> tuple[Any, Any]:
    """(model, tokenizer) made of the fine-tuned weights in `tuned`."""
    from trainers.after import changed, interpolated

    c = job.params.coefficient  # type: ignore[attr-defined]
    return changed(job, tuned, lambda name, before, after: interpolated(before, after, c))
