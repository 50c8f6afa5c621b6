"""Token losses that ask for something else than the one token of the reference. Shapes as in trainers/losses.py."""

import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.chunks import by_chunks
from trainers.head import Head


def gem_loss(logits: Tensor, targets: Tensor, beta: float) -> Tensor:
    """(N,) GEM (arXiv 2408.16673) for h the identity: -log p(y) + Σ_v q(v) log p(v), q = softmax(logits / β) fixed.

    `logits` (N, V), `targets` (N,). The gradient to the logits is q - onehot(y): that of cross-entropy at β = 1, and
    none once the model's own q is sure of y, so that what it holds possible besides is left alone. The value is a
    difference of log-probabilities, below 0 where q is surer of another token than p is of y.
    """
    log_p = logits.log_softmax(-1)
    with torch.no_grad():
        q = (logits / beta).softmax(-1)
    return (q * log_p).sum(-1) - log_p.gather(-1, targets[:, None])[:, 0]


def gem(hidden: Tensor, head: Head, targets: Tensor, beta: float) -> Tensor:
    """`gem_loss` from hidden states (N, H), a few dozen rows of logits at a time."""

    def per_chunk(logits: Tensor, rows: slice) -> tuple[Tensor, ...]:
        return (gem_loss(logits, targets[rows], beta),)

    return by_chunks(hidden, head, per_chunk)[0]


def token_kl(logits: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) forward KL(reference || model) and reverse KL(model || reference) of next-token distributions, in nats."""
    log_p, log_q = logits.log_softmax(-1), reference.log_softmax(-1)
    forward = F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1)
    reverse = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
    return forward, reverse
