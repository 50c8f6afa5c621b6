"""Penalties that hold the weights near those before training: L2-SP and EWC.

    P(θ) = (μ/2) Σ_i F_i (θ_i - θ0_i)²        its gradient μ F_i (θ_i - θ0_i) is added to the step's, before clipping

It is added once an optimiser step, after the last micro-batch's backward pass: no graph, and the same whatever
`micro_batch_size` is. Under LoRA, θ - θ0 is the product s·B·A of each adapted matrix: the change of the merged weights
is penalised and not the factors, whose norms say little of it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from refinery.errors import UserError
from trainers.before import refuse_split
from trainers.supervised import SupervisedTrainer


class Anchor:
    """The penalty of one training. Holds a copy of the trained weights, unless they are adapters, and F."""

    def __init__(self, model: Any, mu: float, importance: Mapping[str, Tensor] | None = None):
        """`model`: as the trainer holds it, before its first step. F is 1 where `importance` is left out."""
        self.mu, self.importance = mu, importance
        self.adapted = [name for name, _ in adapted(model)]
        self.start = {} if self.adapted else {name: p.detach().clone() for name, p in trained(model)}

    def pull(self, model: Any) -> float:
        """Adds the penalty's gradient to the weights', and returns the penalty."""
        total = torch.zeros((), dtype=torch.float64)
        if self.adapted:
            for name, module in adapted(model):
                factors = [module.lora_A["default"].weight, module.lora_B["default"].weight]
                with torch.enable_grad():
                    value = self._value(name, module.get_delta_weight("default"))
                for factor, gradient in zip(factors, torch.autograd.grad(value, factors), strict=True):
                    _add(factor, gradient)
                total += value.detach().double().cpu()
            return float(total)
        for name, weight in trained(model):
            change = weight.detach() - self.start[name]
            _add(weight, self._weighted(name, change).mul_(self.mu))
            total += self._value(name, change).double().cpu()
        return float(total)

    def _value(self, name: str, change: Tensor) -> Tensor:
        return (self._weighted(name, change) * change).sum() * (self.mu / 2)

    def _weighted(self, name: str, change: Tensor) -> Tensor:
        return change * (1.0 if self.importance is None else self.importance[name].to(change.dtype))


def _add(weight: Tensor, gradient: Tensor) -> None:
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    weight.grad.add_(gradient)


def trained(model: Any) -> Iterator[tuple[str, Tensor]]:
    """The trained weights by name; tied ones once."""
    return ((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)


def adapted(model: Any) -> Iterator[tuple[str, Any]]:
    """The layers with a LoRA adapter, each by its name."""
    return ((name, module) for name, module in model.named_modules() if "default" in getattr(module, "lora_A", {}))


def penalised(model: Any) -> dict[str, Tensor]:
    """The weights whose change is penalised, by the names that an Anchor gives them."""
    layers = {name: module.base_layer.weight for name, module in adapted(model)}
    return layers or dict(trained(model))


def fisher(
    model: Any, weights: Mapping[str, Tensor], pairs: Sequence[tuple[list[int], list[int]]], pad: int | None
) -> dict[str, Tensor]:
    """The diagonal of the Fisher information: each weight's mean squared gradient of log p(answer | prompt) over
    `pairs`, the answers being the model's own samples; then divided so that its mean over all weights is 1.

    One backward pass a pair, without dropout. float32, in the shapes of `weights`.
    """
    from trainers.before import evaluating, states
    from trainers.losses import cross_entropy
    from trainers.teachers import head_of

    sums = {name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in weights.items()}
    frozen = [weight for weight in weights.values() if not weight.requires_grad]
    for weight in frozen:
        weight.requires_grad_(True)
    with evaluating(model), torch.enable_grad():
        for pair in pairs:
            hidden, targets = states(model, [pair], pad)
            surprise = cross_entropy(hidden, head_of(model), targets).sum()
            gradients = torch.autograd.grad(surprise, list(weights.values()), allow_unused=True)
            for total, gradient in zip(sums.values(), gradients, strict=True):
                if gradient is not None:
                    total.add_(gradient.float().square_())
    for weight in frozen:
        weight.requires_grad_(False)
    mean = sum(float(total.double().sum()) for total in sums.values()) / sum(total.numel() for total in sums.values())
    if not mean > 0:
        raise UserError("the Fisher information is zero: the model is certain of all it says to the prompts")
    return {name: total / mean for name, total in sums.items()}


class AnchoredTrainer(SupervisedTrainer):
    """Supervised fine-tuning with an `anchor`, to be set before training."""

    anchor: Anchor

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss: Tensor = super().training_step(*args, **kwargs)
        if self.accelerator.sync_gradients:
            self._metrics["train"]["penalty"].append(self.anchor.pull(self.accelerator.unwrap_model(self.model)))
        return loss

    def check(self) -> None:
        """UserError where weights are split over processes, as a copy of them would not be."""
        refuse_split(self.accelerator, "penalties on weights")
