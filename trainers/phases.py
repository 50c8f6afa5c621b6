"""A learning rate schedule for two trainings, one after the other."""

import math
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR


def two_phases(optimizer: torch.optim.Optimizer, args: Any, first: int, total: int, second_rate: float) -> LambdaLR:
    """`args`' schedule with its warm-up over the `first` steps, then over the others, `second_rate` times as high."""

    def shape(step: int, steps: int) -> float:
        warm = args.get_warmup_steps(steps)
        if step < warm:
            return step / max(1, warm)
        rest = (step - warm) / max(1, steps - warm)
        if args.lr_scheduler_type == "cosine":
            return max(0.0, 0.5 * (1 + math.cos(math.pi * rest)))
        return max(0.0, 1 - rest) if args.lr_scheduler_type == "linear" else 1.0

    return LambdaLR(
        optimizer, lambda step: shape(step, first) if step < first else second_rate * shape(step - first, total - first)
    )
