"""Losses in chunks, on hidden states and an output head.

Shapes: N predicted tokens (of several rows, one after another), V words in the vocabulary, H hidden size, B rows.
Divergences are in nats and carry no T²: whoever averages them multiplies.

`cross_entropy` and `distillation` take a few dozen rows at a time: at 152k words the logits of 1,024 tokens are 600 MB
in float32, and a plain implementation of the divergence holds five such tensors. What a divergence is says
trainers/divergences.py, on logits.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.divergences import Divergence, TokenDivergence, divergence, solvable, solved


def sample_means(values: Tensor, lengths: list[int]) -> Tensor:
    """(B,) mean of each row's tokens: `values` is (N,), row after row, `lengths` its B lengths. A row without tokens
    has mean 0. Eq 10 is their mean: a long rollout weighs no more than a short one."""
    sizes = torch.tensor(lengths, device=values.device)
    rows = torch.repeat_interleave(torch.arange(len(lengths), device=values.device), sizes)
    return values.new_zeros(len(lengths)).index_add(0, rows, values) / sizes.clamp(min=1)


def reward_to_go(values: Tensor, lengths: list[int]) -> Tensor:
    """(N,) sum of the later tokens' values within each token's own row."""
    rows = [row.flip(0).cumsum(0).flip(0) - row for row in values.split(lengths)]
    return torch.cat(rows) if rows else values


def gradient_at(term: Tensor, weights: list[torch.nn.Parameter]) -> Tensor:
    """The term's gradient at some weights, as one vector; the graph stays."""
    found = torch.autograd.grad(term, weights, retain_graph=True, allow_unused=True)
    parts = [torch.zeros_like(w) if g is None else g for g, w in zip(found, weights, strict=True)]
    return torch.cat([part.flatten().float() for part in parts])


class Head(NamedTuple):
    """How hidden states become logits: cap(scale · (h Wᵀ + b)), where cap(x) is softcap · tanh(x / softcap)."""

    weight: Tensor
    """(V, H)"""
    bias: Tensor | None = None
    """(V,)"""
    scale: float = 1.0
    softcap: float | None = None

    def project(self, hidden: Tensor) -> Tensor:
        """(n, V) products before the cap, in float32 at least: bfloat16 logits near 20 would be rounded to eighths.
        The scale is put on the (n, H) states: on the logits it would cost a tensor of their size."""
        states = hidden if self.scale == 1.0 else hidden * self.scale
        if states.is_cuda and states.dtype in (torch.bfloat16, torch.float16):
            product = torch.mm(states, self.weight.t(), out_dtype=torch.float32)
        else:
            wide = torch.promote_types(states.dtype, torch.float32)
            product = states.to(wide) @ self.weight.to(wide).t()
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


def cross_entropy(hidden: Tensor, head: Head, targets: Tensor, scales: Tensor | None = None) -> Tensor:
    """(N,) -log p(target): `hidden` (N, H), `targets` (N,) token ids. Gradients go to hidden states and head. `scales`:
    see `by_chunks`."""

    def per_chunk(logits: Tensor, rows: slice) -> tuple[Tensor, ...]:
        return (F.cross_entropy(logits, targets[rows], reduction="none"),)

    def by_hand(logits: Tensor, rows: slice) -> Solved:
        log_p, chosen = logits.log_softmax(-1), targets[rows, None]
        value = -log_p.gather(-1, chosen)
        gradient = log_p.exp_()
        gradient.scatter_add_(-1, chosen, torch.full_like(value, -1.0))
        return (value[:, 0],), gradient

    return by_chunks(hidden, head, per_chunk, scales, by_hand)[0]


def distillation(
    hidden: Tensor,
    head: Head,
    teacher_hidden: Tensor,
    teacher_head: Head,
    how: Divergence,
    tokens: Tensor | None = None,
    scales: Tensor | None = None,
) -> TokenDivergence:
    """`divergence` from hidden states: `hidden` (N, H), `teacher_hidden` (N, H of the teacher), token by token the
    same positions; `tokens` (N,) the ids that follow them, for the sampled estimator. Gradients go to `hidden` and
    `head`; the teacher has none. Words drawn at random depend on torch's own generator. The student's entropy at
    temperature 1 comes with it. `scales`: see `by_chunks`."""
    whole = how.temperature
    if (head.softcap is None) == (teacher_head.softcap is None):
        (head, left), (teacher_head, _) = head.at(how.temperature), teacher_head.at(how.temperature)
        how = replace(how, temperature=left)
    frozen = teacher_head.frozen(_dtype(teacher_hidden))
    seed = int(torch.randint(2**40, ())) if how.support == "random" else 0

    def taught(rows: slice) -> Tensor:
        with torch.no_grad():
            return frozen.cap(frozen.project(teacher_hidden[rows].to(frozen.weight.dtype)))

    def per_chunk(logits: Tensor, rows: slice) -> tuple[Tensor, ...]:
        found = divergence(logits, taught(rows), how, None if tokens is None else tokens[rows], seed + rows.start)
        with torch.no_grad():
            return found.value, found.coverage, found.student_coverage, entropy(logits * (whole / how.temperature))

    def by_hand(logits: Tensor, rows: slice) -> Solved:
        cold = None if whole == 1.0 else entropy(logits * whole)
        value, spread, gradient = solved(logits, taught(rows), how)
        everything = torch.ones_like(value)
        return (value, everything, everything, spread if cold is None else cold), gradient

    ready = solvable(how, frozen.weight.shape[0])
    return TokenDivergence(*by_chunks(hidden, head, per_chunk, scales, by_hand if ready else None))


def entropy(logits: Tensor) -> Tensor:
    """(N,) -Σ p log p, in nats."""
    log_p = logits.log_softmax(-1)
    return -torch.einsum("nv,nv->n", log_p.exp(), log_p)


Chunk = Callable[[Tensor, slice], tuple[Tensor, ...]]
"""From a chunk's (n, V) logits and its place among the N rows to (n,) tensors; the first one carries the gradient."""

Solved = tuple[tuple[Tensor, ...], Tensor]
"""Those (n,) tensors, and the gradient of each row's first one to the row's logits, (n, V), worked out by hand."""


def by_chunks(
    hidden: Tensor,
    head: Head,
    per_chunk: Chunk,
    scales: Tensor | None = None,
    by_hand: Callable[[Tensor, slice], Solved] | None = None,
) -> tuple[Tensor, ...]:
    """What `per_chunk` gives, over all rows, each (N,).

    `scales` (N,) are a promise: the first output will be used in one way alone, as c · Σ scales · output with a number
    c (the mean over rows of a mean over tokens, say, times λ). The head's gradient can then be summed in the same pass
    that makes the outputs; without them every chunk's logits are made again for it. `by_hand` is asked in place of
    `per_chunk` where a gradient is wanted: the same outputs, and the gradient without autograd; it may write over its
    logits. A head with a cap does without it.
    """
    given = None if scales is None else scales.detach()
    options = _Options(head, per_chunk, None if head.softcap is not None else by_hand, torch.is_grad_enabled())
    return _Chunked.apply(hidden, head.weight, head.bias, given, options)  # type: ignore[no-any-return]


def rows_per_chunk(vocabulary: int, cuda: bool) -> int:
    """64 to 256: about 10 million logits, or 256 rows where memory is a GPU's. Tensors of 32 MB and more go back to the
    system at once; smaller ones, of many a chunk, pile up in the heap."""
    return 256 if cuda else max(64, min(256, 10_000_000 // vocabulary))


def _dtype(hidden: Tensor) -> torch.dtype:
    """What products with `hidden` are taken in: autocast's type where that is on, which is off inside the chunks."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


class _Options(NamedTuple):
    head: Head
    per_chunk: Chunk
    by_hand: Callable[[Tensor, slice], Solved] | None
    wanted: bool
    """Whether there will be a backward pass."""


class _Gradients:
    """Sums of one pass: (N, H) to the hidden states, row by row times `scales` where they are given, (V, H) to the head
    and (V,) to its bias, times `scales`. None what is not asked for."""

    def __init__(self, tensors: tuple[Any, ...], needed: tuple[bool, ...]):
        made = [torch.zeros_like(t) if n and t is not None else None for t, n in zip(tensors, needed, strict=True)]
        self.hidden, self.weight, self.bias = made

    def add(self, head: Head, states: Tensor, rows: slice, gradient: Tensor) -> None:
        """`gradient` (n, V), to the head's product at these rows."""
        if self.hidden is not None:
            self.hidden[rows] = (gradient.to(states.dtype) @ head.weight).mul_(head.scale)
        if self.weight is not None:
            dtype = self.weight.dtype
            self.weight.addmm_(gradient.t().to(dtype), states.to(dtype), alpha=head.scale)
        if self.bias is not None:
            self.bias.add_(gradient.sum(0), alpha=head.scale)


class _Chunked(torch.autograd.Function):
    """Runs a `Chunk` over all rows; no two chunks' logits ever live at the same time. Where `scales` are known, or the
    head is frozen, gradients come of the same pass; else of a second one. The head's gradient is summed in place, which
    torch.utils.checkpoint would not do: there each chunk makes a (V, H) tensor of its own."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, scales: Tensor | None, options: _Options
    ) -> tuple[Tensor, ...]:
        ctx.dtype, ctx.options = _dtype(hidden), options
        needed = ctx.needs_input_grad[:3]
        at_once = options.wanted and any(needed) and (scales is not None or not any(needed[1:]))
        found = _Gradients((hidden, weight, bias), needed) if at_once else None
        head, parts = options.head.frozen(ctx.dtype), []
        with torch.autocast(hidden.device.type, enabled=False):
            for rows in _slices(hidden, weight):
                states = hidden[rows].to(ctx.dtype)
                product = head.project(states)
                if found is None:
                    parts.append(options.per_chunk(head.cap(product), rows))
                    continue
                outputs, gradient = _with_gradient(options, head, product, rows)
                parts.append(outputs)
                found.add(head, states, rows, gradient if scales is None else gradient.mul_(scales[rows, None]))
                del product, gradient
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


def _with_gradient(options: _Options, head: Head, product: Tensor, rows: slice) -> Solved:
    """The chunk's outputs, and the gradient of its first to the head's product."""
    if options.by_hand is not None:
        return options.by_hand(product, rows)
    product.requires_grad_()
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
            _, gradient = _with_gradient(ctx.options, head, head.project(states), rows)
            found.add(head, states, rows, gradient.mul_(out[rows, None]))
    return found.hidden, found.weight, found.bias


def _slices(hidden: Tensor, weight: Tensor) -> list[slice]:
    size = rows_per_chunk(weight.shape[0], hidden.is_cuda)
    return [slice(start, start + size) for start in range(0, hidden.shape[0], size)] or [slice(0, 0)]
