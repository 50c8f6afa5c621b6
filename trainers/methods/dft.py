"""Dynamic fine-tuning (arXiv 2508.05629): cross-entropy in which each token weighs as much as the model believes it.

    L = -(1/N) Σ_t sg(p(y_t)) log p(y_t)

over the N answer tokens of a step; sg stops the gradient. Cross-entropy's gradient carries a factor 1/p, which makes it
largest where the reference is least like the model; the weight takes that out. The paper trains mathematics and code
(learning rate 5e-5, batches of 256, one pass) and reports tasks on which it is worse than cross-entropy.
"""

from typing import Any

from pydantic import Field

from trainers.job import Run
from trainers.params import TrainParams

VERSION = 1


class Params(TrainParams):
    """The paper's learning rate, batch and passes."""

    learning_rate: float = Field(5e-5, gt=0)
    batch_size: int = Field(256, ge=1)
    epochs: float = Field(1, gt=0)


def build(run: Run) -> Any:
    """The transformers.Trainer of this method, ready to train."""
    from trainers.supervised import supervised

    trainer: Any = supervised(run, loss_type="dft")
    trainer.cross_entropy = False
    return trainer
