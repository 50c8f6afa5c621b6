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


def stored(self: Any, prompt_ids: list[list[int]], *rest: Any) -> list[list[int]]:
    return [rollout(sum(ids)) for ids in prompt_ids]


if __name__ == "__main__":
    torch.set_num_threads(1)
    ConditionedDistillation._generate_single_turn = stored  # type: ignore[method-assign]
    train(pickle.loads(Path(sys.argv[1]).read_bytes()))
