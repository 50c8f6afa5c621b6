"""How hidden states become logits, and the room where they stand."""

from typing import NamedTuple

import torch
from torch import Tensor


class Room:
    """(n, V) tensors that are used from chunk to chunk. On a CPU the system clears large fresh memory page by page,
    which at 152k words takes longer than the softmax that is written there."""

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def __call__(self, name: str, rows: int, words: int, like: Tensor) -> Tensor:
        """(rows, words) of the dtype and device of `like`, holding whatever was left there."""
        kept = self._kept.get(name)
        if kept is None or kept.shape[0] < rows or kept.shape[1] != words or kept.dtype != like.dtype:
            kept = self._kept[name] = like.new_empty(rows, words)
        return kept[:rows]

    def clear(self) -> None:
        self._kept.clear()


class Head(NamedTuple):
    """How hidden states become logits: cap(scale · (h Wᵀ + b)), where cap(x) is softcap · tanh(x / softcap)."""

    weight: Tensor
    """(V, H)"""
    bias: Tensor | None = None
    """(V,)"""
    scale: float = 1.0
    softcap: float | None = None

    def project(self, hidden: Tensor, room: Room | None = None, name: str = "") -> Tensor:
        """(n, V) products before the cap, in float32 at least: bfloat16 logits near 20 would be rounded to eighths.
        The scale is put on the (n, H) states: on the logits it would cost a tensor of their size. With `room`, the
        product stands in its tensor of that name."""
        states = hidden if self.scale == 1.0 else hidden * self.scale
        if states.is_cuda and states.dtype in (torch.bfloat16, torch.float16):
            product = torch.mm(states, self.weight.t(), out_dtype=torch.float32)
        else:
            wide = torch.promote_types(states.dtype, torch.float32)
            weight, states = self.weight.to(wide), states.to(wide)
            out = None if room is None else room(name, len(states), len(weight), states)
            product = torch.mm(states, weight.t(), out=out)
        return product if self.bias is None else product.add_(self.bias.to(product.dtype), alpha=self.scale)

    def cap(self, product: Tensor) -> Tensor:
        """(n, V) logits."""
        return product if self.softcap is None else self.softcap * torch.tanh(product / self.softcap)

    def at(self, temperature: float) -> tuple["Head", float]:
        """This head with its logits divided by `temperature`, and what is left to divide by: all of it under a cap."""
        if self.softcap is not None:
            return self, temperature
        return self._replace(scale=self.scale / temperature), 1.0

    def frozen(self, dtype: torch.dtype) -> "Head":
        """This head without gradient, its weight in `dtype`."""
        bias = None if self.bias is None else self.bias.detach()
        return self._replace(weight=self.weight.detach().to(dtype), bias=bias)
