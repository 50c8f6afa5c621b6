"""Losses as pure functions on tensors.

Shapes: N predicted tokens (of several rows, one after another), V words in the vocabulary, H hidden size, K tokens of
support, B rows. Divergences are in nats and carry no T²: whoever averages them multiplies.

The two functions at the top work on logits and are what the equations say. `cross_entropy` and `distillation` below
them work on hidden states and an output head, a few dozen rows at a time: at 152k words the logits of 1,024 tokens are
600 MB in float32, and a plain implementation of the divergence holds five such tensors.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Tail = Literal["renorm", "bucket", "full"]


class TokenKL(NamedTuple):
    """Per token, each of shape (N,)."""

    kl: Tensor
    """Forward divergence, teacher from student. The only one of the three that carries a gradient."""
    coverage: Tensor
    """P: the teacher's mass on the support."""
    student_coverage: Tensor
    """R: the student's mass on the same support."""


def truncated_kl(student: Tensor, teacher: Tensor, *, top_k: int, temperature: float = 1.0, tail: Tail) -> TokenKL:
    """KL(teacher || student) of two next-token distributions on the teacher's K most likely tokens (RAFT, Eqs 8-10).

    `student`, `teacher`: (N, V) logits. Both are divided by `temperature` BEFORE the support is chosen and its masses
    are taken, so a higher temperature lowers coverage at the same K. K above V is V. `tail` says what becomes of the
    V - K other tokens:

    - renorm: both distributions are renormalised on the support (the paper). Adding a constant to all of the student's
      logits on the support changes nothing, so nothing here holds the student's tail mass down.
    - bucket: the others are one further outcome. Never above `full`.
    - full: the support is not used, except to report P and R.
    """
    if temperature != 1.0:
        teacher, student = teacher / temperature, student / temperature
    if top_k >= teacher.shape[-1]:
        everything = torch.ones_like(teacher[:, 0])
        return TokenKL(_full(student, teacher), everything, everything)
    u, support = teacher.topk(top_k, dim=-1)  # (N, K)
    v = student.gather(-1, support)
    with torch.no_grad():
        coverage = (u.logsumexp(-1) - teacher.logsumexp(-1)).exp()
        student_coverage = (v.logsumexp(-1) - student.logsumexp(-1)).exp()
    if tail == "renorm":
        kl = _kl(u.log_softmax(-1), v.log_softmax(-1))
    elif tail == "full":
        kl = _full(student, teacher)
    else:
        kl = _kl(_with_tail(teacher, u, support), _with_tail(student, v, support))
    return TokenKL(kl, coverage, student_coverage)


def _full(student: Tensor, teacher: Tensor) -> Tensor:
    return _kl(teacher.log_softmax(-1), student.log_softmax(-1))


def _kl(log_q: Tensor, log_p: Tensor) -> Tensor:
    """sum_a q(a) (log q(a) - log p(a)) over the last dimension, with one temporary fewer than F.kl_div."""
    q = log_q.exp()
    return torch.einsum("nv,nv->n", q, log_q.sub_(log_p) if not log_q.requires_grad else log_q - log_p)


def _with_tail(logits: Tensor, inside: Tensor, support: Tensor) -> Tensor:
    """(N, K + 1) log-probabilities: the support's tokens, then all others together. The tail is summed over its own
    logits and not taken as 1 - P, which would cancel where P is close to 1."""
    outside = logits.scatter(-1, support, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([inside, outside], -1).log_softmax(-1)


def sample_means(values: Tensor, lengths: list[int]) -> Tensor:
    """(B,) mean of each row's tokens: `values` is (N,), row after row, `lengths` its B lengths. A row without tokens
    has mean 0. Eq 10 is their mean: a long rollout weighs no more than a short one."""
    sizes = torch.tensor(lengths, device=values.device)
    rows = torch.repeat_interleave(torch.arange(len(lengths), device=values.device), sizes)
    return values.new_zeros(len(lengths)).index_add(0, rows, values) / sizes.clamp(min=1)


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
    *,
    top_k: int,
    temperature: float = 1.0,
    tail: Tail,
) -> TokenKL:
    """`truncated_kl` from hidden states: `hidden` (N, H), `teacher_hidden` (N, H of the teacher), token by token the
    same positions. Gradients go to `hidden` and `head`; the teacher has none."""
    if (head.softcap is None) == (teacher_head.softcap is None):
        (head, left), (teacher_head, _) = head.at(temperature), teacher_head.at(temperature)
    else:
        left = temperature
    frozen = teacher_head.frozen(_dtype(teacher_hidden))

    def per_chunk(logits: Tensor, rows: slice) -> tuple[Tensor, ...]:
        with torch.no_grad():
            teacher = frozen.cap(frozen.project(teacher_hidden[rows].to(frozen.weight.dtype)))
        return truncated_kl(logits, teacher, top_k=top_k, temperature=left, tail=tail)

    return TokenKL(*_by_chunks(hidden, head, per_chunk))


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
