"""Losses in chunks, on hidden states and an output head.

Shapes: N predicted tokens (of several rows, one after another), V words in the vocabulary, H hidden size, B rows.
Divergences are in nats and carry no T²: whoever averages them multiplies.

`cross_entropy` and `distillation` take a few dozen rows at a time: at 152k words the logits of 1,024 tokens are 600 MB
in float32, and a plain implementation of the divergence holds five such tensors. What a divergence is says
trainers/divergences.py, on logits.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.chunks import Solved, Sparse, by_chunks, dtype_of
from trainers.divergences import Divergence, TokenDivergence, divergence, entropy, log_total, softmax, solvable, solved
from trainers.head import Head, Room


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


def cross_entropy(
    hidden: Tensor, head: Head, targets: Tensor, scales: Tensor | None = None, temperature: float = 1.0
) -> Tensor:
    """(N,) -log p(target) at a temperature: `hidden` (N, H), `targets` (N,) token ids. Gradients go to hidden states
    and head. `scales`: see `by_chunks`."""
    head, left = head.at(temperature)

    def per_chunk(logits: Tensor, rows: slice) -> tuple[Tensor, ...]:
        logits = logits if left == 1.0 else logits / left
        return (F.cross_entropy(logits, targets[rows], reduction="none"),)

    def by_hand(logits: Tensor, rows: slice) -> Solved:
        p, chosen = softmax(logits, room, "p"), targets[rows, None]
        value = log_total(logits, p) - logits.gather(-1, chosen)
        return (value[:, 0],), p.scatter_add_(-1, chosen, torch.full_like(value, -1.0))

    room = Room()
    return by_chunks(hidden, head, per_chunk, scales, by_hand if left == 1.0 else None, room)[0]


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
    frozen, room = teacher_head.frozen(dtype_of(teacher_hidden)), Room()
    seed = int(torch.randint(2**40, ())) if how.support == "random" else 0

    def taught(rows: slice) -> Tensor:
        with torch.no_grad():
            states = teacher_hidden[rows].to(frozen.weight.dtype)
            return frozen.cap(frozen.project(states, room, "teacher"))

    def per_chunk(logits: Tensor, rows: slice) -> tuple[Tensor, ...]:
        found = divergence(logits, taught(rows), how, None if tokens is None else tokens[rows], seed + rows.start)
        with torch.no_grad():
            spread = entropy(logits, whole / how.temperature, room)
        return found.value, found.coverage, found.student_coverage, spread

    def by_hand(logits: Tensor, rows: slice) -> Solved:
        cold = None if whole == 1.0 else entropy(logits, whole, room)
        value, coverage, student_coverage, spread, gradient = solved(logits, taught(rows), how, room)
        found = Sparse(*gradient) if isinstance(gradient, tuple) else gradient
        return (value, coverage, student_coverage, spread if cold is None else cold), found

    ready = solvable(how, frozen.weight.shape[0])
    return TokenDivergence(*by_chunks(hidden, head, per_chunk, scales, by_hand if ready else None, room))
