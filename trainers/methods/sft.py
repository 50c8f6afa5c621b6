"""Supervised fine-tuning: cross-entropy on the response and its end token, given the prompt."""

from typing import Any

from trainers.job import Run
from trainers.params import TrainParams

VERSION = 1


class Params(TrainParams):
    """Nothing beyond what all methods share."""


def build(run: Run) -> Any:
    """The transformers.Trainer of this method, ready to train."""
    from trainers.supervised import supervised

    return supervised(run)
