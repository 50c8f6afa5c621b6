"""Trains a pickled job, alone or as one of several processes; rollouts depend on the prompt alone.

python -m torch.distributed.run --nproc-per-node 2 tests/trainers/two_processes.py JOB
"""

import pickle
import sys
from pathlib import Path
from typing import Any

import torch

from tests.trainers.test_distill import rollout
from trainers.distill import ConditionedDistillation
from trainers.train import train

STEADY = 1e-5
"""How far apart weights may end after three steps of AdamW at 1e-3 with `steady`."""


def steady() -> None:
    """An AdamW that does not blow gradients of mere rounding up to whole steps: sums over processes differ in them."""
    real = torch.optim.AdamW.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        real(self, *args, **{**kwargs, "eps": 1e-6})

    torch.optim.AdamW.__init__ = init  # type: ignore[method-assign]


def stored(self: Any, prompt_ids: list[list[int]], *rest: Any) -> list[list[int]]:
    return [rollout(sum(ids)) for ids in prompt_ids]


if __name__ == "__main__":
    torch.set_num_threads(1)
    steady()
    ConditionedDistillation._generate_single_turn = stored  # type: ignore[method-assign]
    train(pickle.loads(Path(sys.argv[1]).read_bytes()))
