"""GEM (arXiv 2408.16673), entropy-preserving fine-tuning: the answer is preferred to what the model would rather say,
not to every other word.

    L = (1/N) Σ_t [ -log p(y_t) + Σ_v q_t(v) log p_t(v) ]        q_t = sg softmax(z_t / β)

with z the logits and h, the paper's link function, the identity. The gradient to the logits is q - onehot(y): a sharper
q (β < 1) pushes down the few words that compete with y and leaves the tail alone, so the output stays diverse.
β = 1 has the gradient of cross-entropy. The logged loss is not a likelihood and may fall below 0.
"""

from typing import Any

from pydantic import Field

from trainers.job import Run
from trainers.params import TrainParams

VERSION = 1


class Params(TrainParams):
    """β is the paper's."""

    beta: float = Field(0.7, gt=0, le=1)
    """β: how sharply q holds to the model's own favourites."""


def build(run: Run) -> Any:
    """The transformers.Trainer of this method, ready to train."""
    from functools import partial

    from trainers.supervised import TokenLossTrainer, supervised
    from trainers.targets import gem

    trainer = supervised(run, TokenLossTrainer)
    trainer.token_loss = partial(gem, beta=run.job.params.beta)  # type: ignore[attr-defined]
    return trainer
