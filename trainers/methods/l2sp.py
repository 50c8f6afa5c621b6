"""L2-SP (arXiv 1802.01483): cross-entropy, and a pull towards the weights before training.

    L = L_SFT + (μ/2) ‖θ - θ0‖²

θ are the trained weights, or with LoRA the merged ones of the adapted layers. The pull takes the place of weight decay,
which is 0 here. Needs the weights once more in memory (none more with LoRA); weights that are split over processes
(FSDP, ZeRO) are refused.
"""

from typing import Any

from pydantic import Field

from trainers.job import Run
from trainers.params import TrainParams

VERSION = 1
COPIES = 1
"""Of the trained weights, kept beside them."""


class Params(TrainParams):
    mu: float = Field(1e-2, ge=0)
    """μ; 1e-3 to 1e-1 are usual."""
    weight_decay: float = Field(0.0, ge=0)


def build(run: Run) -> Any:
    """The transformers.Trainer of this method, ready to train."""
    from trainers.anchors import Anchor, AnchoredTrainer
    from trainers.supervised import supervised

    trainer: Any = supervised(run, AnchoredTrainer)
    trainer.check()
    trainer.anchor = Anchor(trainer.model, run.job.params.mu)  # type: ignore[attr-defined]
    return trainer
