"""A moving average of weights that are being trained: the teacher of self-distillation."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FILE = "teacher_ema.safetensors"


class WeightAverage:
    """φ ← αθ + (1-α)φ over the parameters that have a gradient, from φ = θ.

    Held in float32 whatever θ is in: at α = 0.01 a bfloat16 average loses most updates, which are smaller than its
    rounding. Frozen parameters (the base under an adapter) are not copied.
    """

    def __init__(self, model: Any, alpha: float):
        self.alpha = alpha
        self.trained: dict[str, Tensor] = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.weights = {name: p.detach().float().clone() for name, p in self.trained.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Once after each optimiser step."""
        for name, parameter in self.trained.items():
            self.weights[name].lerp_(parameter.detach().to(self.weights[name].device).float(), self.alpha)

    @contextlib.contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The model with these weights for a while. They are exchanged, not copied, where the types are the same."""
        own = {name: parameter.data for name, parameter in self.trained.items()}
        try:
            for name, parameter in self.trained.items():
                parameter.data = self.weights[name].to(parameter.device, parameter.dtype)
            yield
        finally:
            for name, parameter in self.trained.items():
                parameter.data = own[name]

    def of(self, parameter: Tensor) -> Tensor | None:
        """The average of one of the model's parameters; None where that one is not trained."""
        found = next((name for name, p in self.trained.items() if p is parameter), None)
        return None if found is None else self.weights[found]

    def save(self, folder: Path) -> None:
        from safetensors.torch import save_file

        save_file({name: value.contiguous() for name, value in self.weights.items()}, folder / FILE)

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """Goes on from what `save` wrote into a checkpoint."""
        from safetensors.torch import load_file

        for name, value in load_file(folder / FILE).items():
            self.weights[name].copy_(value)
