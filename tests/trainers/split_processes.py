"""Trains a pickled job with its weights split over processes by FSDP2, on CPUs over gloo.

accelerate splits weights over accelerators alone; it is told here that these CPUs are some. Rollouts depend on the
prompt alone.

python -m torch.distributed.run --nproc-per-node 2 tests/trainers/split_processes.py JOB
"""

import os
import pickle
import sys
from pathlib import Path
from typing import Any

SETTINGS = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
}


def split() -> None:
    from accelerate import Accelerator, state
    from accelerate.utils import DistributedType

    real = state.AcceleratorState.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        real(self, *args, **kwargs)
        plugin = kwargs.get("fsdp_plugin") or self.__dict__.get("fsdp_plugin")
        if self.distributed_type == DistributedType.MULTI_CPU and plugin is not None:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, plugin

    gather = Accelerator.get_state_dict

    def get_state_dict(self: Any, *args: Any, **kwargs: Any) -> Any:
        """What is gathered on a CPU is still on its way: going to the CPU, which waits for it, is nothing there."""
        found = gather(self, *args, **kwargs)
        return {name: value.wait() if hasattr(value, "wait") else value for name, value in found.items()}

    state.AcceleratorState.__init__ = init  # type: ignore[method-assign]
    Accelerator.get_state_dict = get_state_dict  # type: ignore[method-assign]


if __name__ == "__main__":
    os.environ.update(SETTINGS)
    import torch

    from tests.trainers.two_processes import steady, stored
    from trainers.distill import ConditionedDistillation
    from trainers.train import train

    torch.set_num_threads(1)
    steady()
    split()
    ConditionedDistillation._generate_single_turn = stored  # type: ignore[method-assign]
    train(pickle.loads(Path(sys.argv[1]).read_bytes()))
