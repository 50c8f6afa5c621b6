"""MSSR (arXiv 2603.09892), replay by memory strength: rows come back when they are about to be forgotten.

Each row i of `replay` has a strength S_i and the step s_i at which it was trained on last. At step s,

    R_i = exp(-(s - s_i) / S_i)                                      what is left of it (Ebbinghaus)
    P(i is drawn) ∝ 1 - R_i
    S_i ← S_i · (1 + g · max(0, 1 - loss_i / loss_ref,i)),  s_i ← s   when it is replayed
    d_{k+1} = growth · d_k                                           steps from one replay to the next

loss_i is the row's loss when it is drawn, loss_ref,i that before training. The equations are ours, after the paper's
abstract, which names memory strength, Ebbinghaus' curve and expanding intervals. The first step measures all rows of
`replay` once, so name no more of them than are worth a forward pass.
"""

from typing import Any

from pydantic import Field

from refinery.spec_types import StepName
from trainers.job import Run
from trainers.params import TrainParams

VERSION = 1


class Params(TrainParams):
    replay: StepName
    """The step or source whose train rows are kept in memory."""
    replay_rows: int | None = Field(None, ge=1)
    """Rows of one replay; batch_size where it is left out. They join the step's batch."""
    interval: float = Field(10, ge=1)
    """d_1: the step of the first replay."""
    growth: float = Field(1.5, ge=1)
    strength: float = Field(20, gt=0)
    """S_i before the first replay, in steps."""
    gain: float = Field(0.5, ge=0)
    """g"""


def build(run: Run) -> Any:
    """The transformers.Trainer of this method, ready to train."""
    from trainers.replay import mssr

    return mssr(run)
