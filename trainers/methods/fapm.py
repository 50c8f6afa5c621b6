"""FAPM (arXiv 2509.08255), forgetting-aware pruning: of what supervised fine-tuning changed, only the part that
overlaps least with the model before.

    D = θ_SFT - θ0        score = |D| - mean|θ0| · |D| / |θ0|        per weight matrix

The `keep` share of each matrix's entries with the highest score take their fine-tuned value, the others go back: large
changes stay, unless they are large against the weight they change. Vectors (norms, biases) keep what they learnt. The
formula is as second-hand accounts of the paper give it. Trains `sft` with the shared parameters given here, or takes
that checkpoint where it stands already; needs no data of its own.
"""

from pathlib import Path
from typing import Any

from pydantic import Field

from trainers.job import TrainJob
from trainers.params import TrainParams

VERSION = 1
AFTER = "sft"


class Params(TrainParams):
    keep: float = Field(0.1, ge=0, le=1)
    """The share of entries that keep their change; the paper prunes up to nine tenths."""


def change(job: TrainJob, tuned: Path) -> tuple[Any, Any]:
    """(model, tokenizer) made of the fine-tuned weights in `tuned`."""
    from trainers.after import changed, pruned

    keep = job.params.keep  # type: ignore[attr-defined]
    return changed(job, tuned, lambda name, before, after: pruned(before, after, keep))
