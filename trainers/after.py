"""Weights made of a finished fine-tuning and the model before it: interpolated (wise_ft) or pruned (fapm).

Such a method trains `sft` with its own shared parameters, or takes that checkpoint where it stands already: in a spec
with the same data, `sft`, and three `wise_ft` with other coefficients, one training is done.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from refinery.errors import UserError
from trainers.job import TrainJob

Weights = dict[str, Tensor]
"""By name, as `state_dict` gives them; a tied weight stands under each of its names."""


def changed(job: TrainJob, tuned: Path, change: Callable[[str, Tensor, Tensor], Tensor]) -> tuple[Any, Any]:
    """(model, tokenizer) with each weight made by `change(name, before, after)`, in the type of the fine-tuned ones.

    Weights that are no floating-point numbers are taken as they are after. UserError where the two do not fit.
    """
    from refinery.models.transformers import load

    model, tokenizer = load(str(tuned), "float32", device="cpu", trust_remote_code=job.trust_remote_code)
    options: dict[str, Any] = {"revision": job.revision, "trust_remote_code": job.trust_remote_code}
    before: Weights = load(job.model, "float32", device="cpu", **options)[0].state_dict()
    done: set[int] = set()
    with torch.no_grad():
        for name, weight in model.state_dict().items():
            if weight.data_ptr() in done or not weight.is_floating_point():
                continue
            if name not in before or before[name].shape != weight.shape:
                raise UserError(f"{job.name}: {name} is not the same weight before and after training")
            done.add(weight.data_ptr())
            weight.copy_(change(name, before[name], weight))
    return model, tokenizer


def interpolated(before: Tensor, after: Tensor, coefficient: float) -> Tensor:
    """θ0 + c (θ - θ0); exactly θ0 at 0 and θ at 1."""
    return torch.lerp(before, after, coefficient)


def pruned(before: Tensor, after: Tensor, keep: float, eps: float = 1e-12) -> Tensor:
    """Of a matrix the `keep` share of its changes with the highest score (FAPM, trainers/methods/fapm.py), the rest as
    before: exactly round(keep · entries) of them, of equal scores those that come first. Vectors stay as after."""
    if before.dim() < 2:
        return after
    size, moved = before.abs(), (after - before).abs()
    score = (moved - size.mean() * moved / (size + eps)).flatten()
    count = round(keep * score.numel())
    kept = torch.zeros_like(score, dtype=torch.bool)
    kept[score.sort(descending=True, stable=True).indices[:count]] = True
    return torch.where(kept.view_as(before), after, before)
