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

from trainers.divergences import Divergence, TokenDivergence, divergence


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


def cross_entropy(hidden: Tensor, head: Head, targets: Tensor) -> Tensor:
    """(N,) -log p(target): `hidden` (N, H), `targets` (N,) token ids. Gradients go to hidden states and head."""

    def per_chunk(logits: Tensor, rows: slice) -> tuple[Tensor, ...]:
        return (F.cross_entropy(logits, targets[rows], reduction="none"),)

    return _by_chunks(hidden, head, per_chunk)[0]


def distillation(
    hidden: Tensor,
    head: Head,
    teacher_hidden: Tensor,
    teacher_head: Head,
    how: Divergence,
    tokens: Tensor | None = None,
) -> TokenDivergence:
    """`divergence` from hidden states: `hidden` (N, H), `teacher_hidden` (N, H of the teacher), token by token the
    same positions; `tokens` (N,) the ids that follow them, for the sampled estimator. Gradients go to `hidden` and
    `head`; the teacher has none. Words drawn at random depend on torch's own generator. The student's entropy at
    temperature 1 comes with it."""
    whole = how.temperature
    if (head.softcap is None) == (teacher_head.softcap is None):
        (head, left), (teacher_head, _) = head.at(how.temperature), teacher_head.at(how.temperature)
        how = replace(how, temperature=left)
    frozen = teacher_head.frozen(_dtype(teacher_hidden))
    seed = int(torch.randint(2**40, ())) if how.support == "random" else 0

    def per_chunk(logits: Tensor, rows: slice) -> tuple[Tensor, ...]:
        with torch.no_grad():
            teacher = frozen.cap(frozen.project(teacher_hidden[rows].to(frozen.weight.dtype)))
        found = divergence(logits, teacher, how, None if tokens is None else tokens[rows], seed + rows.start)
        if torch.is_grad_enabled():  # the pass for the gradient, which is of the value alone
            return (found.value,)
        return found.value, found.coverage, found.student_coverage, entropy(logits * (whole / how.temperature))

    return TokenDivergence(*_by_chunks(hidden, head, per_chunk))


def entropy(logits: Tensor) -> Tensor:
    """(N,) -Σ p log p, in nats."""
    log_p = logits.log_softmax(-1)
    return -torch.einsum("nv,nv->n", log_p.exp(), log_p)


Chunk = Callable[[Tensor, slice], tuple[Tensor, ...]]
"""From a chunk's (n, V) logits and its place among the N rows to (n,) tensors; the first one carries the gradient."""


def _by_chunks(hidden: Tensor, head: Head, per_chunk: Chunk) -> tuple[Tensor, ...]:
    return _Chunked.apply(hidden, head.weight, head.bias, head, per_chunk)  # type: ignore[no-any-return]


def rows_per_chunk(vocabulary: int, cuda: bool) -> int:
    """64 to 256: about 10 million logits, or 256 rows where memory is a GPU's."""
    return 256 if cuda else max(64, min(256, 10_000_000 // vocabulary))


def _dtype(hidden: Tensor) -> torch.dtype:
    """What products with `hidden` are taken in: autocast's type where that is on, which is off inside the chunks."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


class _Chunked(torch.autograd.Function):
    """Runs a `Chunk` over all rows, and again, chunk by chunk, for the gradient: no two chunks' logits ever live at
    the same time. The head's gradient is summed in place, which torch.utils.checkpoint would not do: there each chunk
    makes a (V, H) tensor of its own. A head that is frozen costs nothing."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, head: Head, per_chunk: Chunk
    ) -> tuple[Tensor, ...]:
        ctx.dtype, ctx.head, ctx.per_chunk = _dtype(hidden), head, per_chunk
        ctx.save_for_backward(hidden, weight, bias)
        head = head.frozen(ctx.dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            parts = [
                per_chunk(head.cap(head.project(hidden[rows].to(ctx.dtype))), rows) for rows in _slices(hidden, weight)
            ]
        outputs = tuple(torch.cat(column) for column in zip(*parts, strict=True))
        ctx.mark_non_differentiable(*outputs[1:])
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        hidden, weight, _ = ctx.saved_tensors
        head = ctx.head.frozen(ctx.dtype)
        hidden_grad, weight_grad, bias_grad = (
            torch.zeros_like(tensor) if needed else None
            for tensor, needed in zip(ctx.saved_tensors, ctx.needs_input_grad, strict=False)
        )
        with torch.autocast(hidden.device.type, enabled=False):
            for rows in _slices(hidden, weight):
                states = hidden[rows].to(ctx.dtype)
                grad = _chunk_gradient(ctx.per_chunk, head, states, rows, gradients[0][rows])
                if hidden_grad is not None:
                    hidden_grad[rows] = (grad.to(ctx.dtype) @ head.weight).mul_(head.scale)
                if weight_grad is not None:
                    weight_grad.addmm_(grad.t().to(weight.dtype), states.to(weight.dtype), alpha=head.scale)
                if bias_grad is not None:
                    bias_grad.add_(grad.sum(0), alpha=head.scale)
        return hidden_grad, weight_grad, bias_grad, None, None


def _chunk_gradient(per_chunk: Chunk, head: Head, states: Tensor, rows: slice, out: Tensor) -> Tensor:
    """(n, V) gradient of the chunk's first output, weighted by `out` (n,), to the head's product."""
    product = head.project(states).requires_grad_()
    with torch.enable_grad():
        value = per_chunk(head.cap(product), rows)[0]
        return torch.autograd.grad(value, product, out)[0]


def _slices(hidden: Tensor, weight: Tensor) -> list[slice]:
    size = rows_per_chunk(weight.shape[0], hidden.is_cuda)
    return [slice(start, start + size) for start in range(0, hidden.shape[0], size)] or [slice(0, 0)]
