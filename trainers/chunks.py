"""Losses on logits that never exist all at once: hidden states meet the output head some rows at a time."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.head import Head, Room

Chunk = Callable[[Tensor, slice], tuple[Tensor, ...]]
"""From a chunk's (n, V) logits and its place among the N rows to (n,) tensors; the first one carries the gradient."""


class Sparse(NamedTuple):
    """(n, V) that is 0 but at K places of each row."""

    places: Tensor
    """(n, K)"""
    values: Tensor
    """(n, K)"""

    def scaled(self, factors: Tensor) -> "Sparse":
        return Sparse(self.places, self.values * factors[:, None])

    def dense(self, words: int) -> Tensor:
        return self.values.new_zeros(len(self.values), words).scatter_add_(-1, self.places, self.values)


Solved = tuple[tuple[Tensor, ...], Tensor | Sparse]
"""Those (n,) tensors, and the gradient of each row's first one to the row's logits, (n, V), worked out by hand."""


def by_chunks(
    hidden: Tensor,
    head: Head,
    per_chunk: Chunk,
    scales: Tensor | None = None,
    by_hand: Callable[[Tensor, slice], Solved] | None = None,
    room: Room | None = None,
) -> tuple[Tensor, ...]:
    """What `per_chunk` gives, over all rows, each (N,).

    `scales` (N,) are a promise: the first output will be used in one way alone, as c · Σ scales · output with a number
    c (the mean over rows of a mean over tokens, say, times λ). The head's gradient can then be summed in the same pass
    that makes the outputs; without them every chunk's logits are made again for it. `by_hand` is asked in place of
    `per_chunk` where a gradient is wanted: the same outputs, and the gradient without autograd; it may write over its
    logits. A head with a cap does without it. `room`: where they put what they need for a chunk alone.
    """
    given = None if scales is None else scales.detach()
    by_hand = None if head.softcap is not None else by_hand
    options = _Options(head, per_chunk, by_hand, torch.is_grad_enabled(), room or Room())
    return _Chunked.apply(hidden, head.weight, head.bias, given, options)  # type: ignore[no-any-return]


def rows_per_chunk(vocabulary: int, cuda: bool) -> int:
    """64 to 256: about 10 million logits, or 256 rows where memory is a GPU's. Tensors of 32 MB and more go back to the
    system at once; smaller ones, of many a chunk, pile up in the heap."""
    return 256 if cuda else max(64, min(256, 10_000_000 // vocabulary))


def dtype_of(hidden: Tensor) -> torch.dtype:
    """What products with `hidden` are taken in: autocast's type where that is on, which is off inside the chunks."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


class _Options(NamedTuple):
    head: Head
    per_chunk: Chunk
    by_hand: Callable[[Tensor, slice], Solved] | None
    wanted: bool
    """Whether there will be a backward pass."""
    room: Room

    def product(self, head: Head, states: Tensor, *, alone: bool) -> Tensor:
        """The chunk's logits before the cap; of their own where autograd will hold them."""
        return head.project(states, self.room if alone else None, "student")


class _Gradients:
    """Sums of one pass: (N, H) to the hidden states, row by row times `scales` where they are given, (V, H) to the head
    and (V,) to its bias, times `scales`. None what is not asked for."""

    def __init__(self, tensors: tuple[Any, ...], needed: tuple[bool, ...]):
        made = [torch.zeros_like(t) if n and t is not None else None for t, n in zip(tensors, needed, strict=True)]
        self.hidden, self.weight, self.bias = made

    def add(self, head: Head, states: Tensor, rows: slice, gradient: Tensor | Sparse) -> None:
        """`gradient` (n, V), to the head's product at these rows."""
        if isinstance(gradient, Sparse):
            if self._few(gradient):
                return self._add_few(head, states, rows, gradient)
            gradient = gradient.dense(len(head.weight))
        if self.hidden is not None:
            self.hidden[rows] = (gradient.to(states.dtype) @ head.weight).mul_(head.scale)
        if self.weight is not None:
            dtype = self.weight.dtype
            self.weight.addmm_(gradient.t().to(dtype), states.to(dtype), alpha=head.scale)
        if self.bias is not None:
            self.bias.add_(gradient.sum(0), alpha=head.scale)

    def _few(self, gradient: Sparse) -> bool:
        """Whether K rows of the head for each row are less than all of them at once. A GPU adds them in any order, and
        has the dense product for nothing."""
        if gradient.values.is_cuda:
            return False
        return self.weight is None or gradient.values.shape[1] * self.weight.shape[1] <= len(self.weight)

    def _add_few(self, head: Head, states: Tensor, rows: slice, gradient: Sparse) -> None:
        if self.hidden is not None:
            values = gradient.values.to(head.weight.dtype)
            found = F.embedding_bag(gradient.places, head.weight, per_sample_weights=values, mode="sum")
            self.hidden[rows] = found.mul_(head.scale)
        places = gradient.places.flatten()
        if self.weight is not None:
            each = gradient.values[:, :, None].to(self.weight.dtype) * states[:, None].to(self.weight.dtype)
            self.weight.index_add_(0, places, each.flatten(0, 1), alpha=head.scale)
        if self.bias is not None:
            self.bias.index_add_(0, places, gradient.values.flatten().to(self.bias.dtype), alpha=head.scale)


class _Chunked(torch.autograd.Function):
    """Runs a `Chunk` over all rows; no two chunks' logits ever live at the same time. Where `scales` are known, or the
    head is frozen, gradients come of the same pass; else of a second one. The head's gradient is summed in place, which
    torch.utils.checkpoint would not do: there each chunk makes a (V, H) tensor of its own."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, scales: Tensor | None, options: _Options
    ) -> tuple[Tensor, ...]:
        ctx.dtype, ctx.options = dtype_of(hidden), options
        needed = ctx.needs_input_grad[:3]
        at_once = options.wanted and any(needed) and (scales is not None or not any(needed[1:]))
        found = _Gradients((hidden, weight, bias), needed) if at_once else None
        head, parts = options.head.frozen(ctx.dtype), []
        with torch.autocast(hidden.device.type, enabled=False):
            for rows in _slices(hidden, weight):
                states = hidden[rows].to(ctx.dtype)
                if found is None:
                    product = options.product(head, states, alone=True)
                    parts.append(options.per_chunk(head.cap(product), rows))
                    continue
                outputs, gradient = _with_gradient(options, head, states, rows)
                parts.append(outputs)
                found.add(head, states, rows, gradient if scales is None else _scaled(gradient, scales[rows]))
                del gradient
        options.room.clear()
        if found is None:
            ctx.save_for_backward(hidden, weight, bias)
        else:
            ctx.save_for_backward(found.hidden, found.weight, found.bias, scales)
        ctx.at_once = at_once
        outputs = tuple(torch.cat(column) for column in zip(*parts, strict=True))
        ctx.mark_non_differentiable(*outputs[1:])
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        out = gradients[0]
        if not ctx.at_once:
            return (*_again(ctx, out), None, None)
        hidden, weight, bias, scales = ctx.saved_tensors
        if scales is None:
            return hidden * out[:, None].to(hidden.dtype), None, None, None, None
        factor = _factor(out, scales)
        return (*(None if one is None else one * factor.to(one.dtype) for one in (hidden, weight, bias)), None, None)


def _scaled(gradient: Tensor | Sparse, factors: Tensor) -> Tensor | Sparse:
    return gradient.scaled(factors) if isinstance(gradient, Sparse) else gradient.mul_(factors[:, None])


def _with_gradient(options: _Options, head: Head, states: Tensor, rows: slice) -> Solved:
    """The chunk's outputs, and the gradient of its first to the head's product."""
    if options.by_hand is not None:
        return options.by_hand(options.product(head, states, alone=True), rows)
    product = options.product(head, states, alone=False).requires_grad_()
    with torch.enable_grad():
        first, *others = options.per_chunk(head.cap(product), rows)
        (gradient,) = torch.autograd.grad(first.sum(), product)
    return (first.detach(), *(one.detach() for one in others)), gradient


def _factor(out: Tensor, scales: Tensor) -> Tensor:
    """c where out = c · scales; whoever gave the scales promised it."""
    place = scales.abs().argmax() if len(scales) else None
    if place is None or not scales[place]:
        return out.new_zeros(())
    factor = out[place] / scales[place]
    assert not ((out - factor * scales).abs().max() > 1e-4 * out.abs().max()), "scales are not those of the loss"
    return factor


def _again(ctx: Any, out: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients by a second pass over the chunks."""
    hidden, weight, bias = ctx.saved_tensors
    head, found = ctx.options.head.frozen(ctx.dtype), _Gradients((hidden, weight, bias), ctx.needs_input_grad[:3])
    with torch.autocast(hidden.device.type, enabled=False):
        for rows in _slices(hidden, weight):
            states = hidden[rows].to(ctx.dtype)
            _, gradient = _with_gradient(ctx.options, head, states, rows)
            found.add(head, states, rows, _scaled(gradient, out[rows]))
    ctx.options.room.clear()
    return found.hidden, found.weight, found.bias


def _slices(hidden: Tensor, weight: Tensor) -> list[slice]:
    size = rows_per_chunk(weight.shape[0], hidden.is_cuda)
    return [slice(start, start + size) for start in range(0, hidden.shape[0], size)] or [slice(0, 0)]
