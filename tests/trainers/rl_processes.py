"""Trains a pickled job by reinforcement, alone or as one of several processes; rollouts depend on the prompt alone.

python -m torch.distributed.run --nproc-per-node 2 tests/trainers/rl_processes.py JOB
"""

import pickle
import sys
from pathlib import Path
from typing import Any

import torch

from tests.trainers.test_distill import rollout
from tests.trainers.two_processes import steady
from trainers.rl import Grpo
from trainers.train import train


def stored(self: Any, prompt_ids: list[list[int]], *rest: Any) -> tuple[list[list[int]], None]:
    """Those of one group differ."""
    return [rollout(sum(ids) * 7 + place % self.num_generations) for place, ids in enumerate(prompt_ids)], None


if __name__ == "__main__":
    torch.set_num_threads(1)
    steady()
    Grpo._generate_single_turn = stored  # type: ignore[method-assign]
    train(pickle.loads(Path(sys.argv[1]).read_bytes()))
