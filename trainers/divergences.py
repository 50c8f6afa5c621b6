"""How far a student's next-token distribution is from a teacher's: one function on logits, and what it may be.

Shapes: N predicted tokens, V words, K tokens of support. Notation: q teacher, p student (both after the temperature T),
D the divergence at one position, all in nats and without T².

    forward   D = KL(q||p) = Σ q log(q/p)                       covers all that the teacher would say
    reverse   D = KL(p||q) = Σ p log(p/q)                       settles on one thing that the teacher would say
    jsd       D = β KL(q||m) + (1-β) KL(p||m),  m = βq + (1-β)p  GKD's (arXiv 2306.13649, Eq 1): D/β goes to forward as
                                                                 β goes to 0, D/(1-β) to reverse as β goes to 1

Every D is Σ p f(r) with r = q/p, which is what the estimators by sampling use:

    f(r) = r log r | -log r | β r log(r/m) + (1-β) log(1/m)  with m = βr + 1-β
    ∇D   = E_p[ (f(r) - r f'(r)) ∇log p ],  f - r f' = -r | -log r (+1, whose mean is zero) | -(1-β) log m
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from trainers.distill_params import Estimator, Kind, Support, Tail
from trainers.head import Room


@dataclass(frozen=True)
class Divergence:
    """What is measured, on which words, and how."""

    kind: Kind = "forward"
    beta: float = 0.5
    """β of jsd, between 0 and 1, both excluded."""
    top_k: int | None = None
    """K; None is the whole vocabulary."""
    support: Support = "teacher"
    """Whose K likeliest words the sums run over. `random`: K draws with replacement instead, from q for forward and
    from p for the others, so that the mean over draws is D over the whole vocabulary (arXiv 2503.16870); `tail` then
    means nothing."""
    tail: Tail = "renorm"
    """What becomes of the V - K other words. renorm: both distributions are renormalised on the support (RAFT's Eq 10);
    adding a constant to all of the student's logits there changes nothing, so nothing holds its tail mass down.
    bucket: together they are one further outcome, never above `full`. full: every word counts, the support is only
    reported on."""
    temperature: float = 1.0
    """T: both logits are divided by it BEFORE the support is chosen, so a higher one lowers coverage at the same K."""
    estimator: Estimator = "analytic"
    """analytic: D over the support. sampled: f(r) at the rollout's own token z ~ p, with the gradient
    (f - r f')(r) ∇log p(z): right on average, noisy. rao_blackwell: D as analytic; the trainer adds the gradient
    that goes through the sampling of the prefix (trainers/distill.py)."""
    token_clip: float | None = None
    """Upper bound of each word's own term of the sums, as in OPSD: words of mere style can hold most of a divergence.
    A clipped term has no gradient."""


class TokenDivergence(NamedTuple):
    """Per token, each of shape (N,)."""

    value: Tensor
    """D, or its estimate. The only one of the three that carries a gradient."""
    coverage: Tensor
    """P: the teacher's mass on the support; of sampled words nan."""
    student_coverage: Tensor
    """R: the student's mass on the same support."""
    entropy: Tensor | None = None
    """Of the student's next word at temperature 1, where it is asked for; without a gradient."""


def divergence(
    student: Tensor, teacher: Tensor, how: Divergence, tokens: Tensor | None = None, seed: int = 0
) -> TokenDivergence:
    """D of (N, V) logits; gradients go to `student` alone.

    `tokens`: (N,) ids that were sampled from the student, for the estimator `sampled`. `seed`: of the draws of a
    `random` support; the same seed draws the same words.
    """
    if how.temperature != 1.0:
        student, teacher = student / how.temperature, teacher / how.temperature
    if how.estimator == "sampled":
        assert tokens is not None
        return _at(student, teacher, tokens[:, None], how)
    if how.support == "random" and how.top_k is not None:
        return _drawn(student, teacher, how, seed)
    if how.top_k is None or how.top_k >= teacher.shape[-1]:
        everything = torch.ones_like(teacher[:, 0])
        return TokenDivergence(_sum(student.log_softmax(-1), teacher.log_softmax(-1), how), everything, everything)
    return _truncated(student, teacher, how, how.top_k)


def _truncated(student: Tensor, teacher: Tensor, how: Divergence, k: int) -> TokenDivergence:
    chooser = teacher if how.support == "teacher" else student.detach()
    support = chooser.topk(k, dim=-1).indices  # (N, K)
    u, v = teacher.gather(-1, support), student.gather(-1, support)
    with torch.no_grad():
        coverage = (u.logsumexp(-1) - teacher.logsumexp(-1)).exp()
        student_coverage = (v.logsumexp(-1) - student.logsumexp(-1)).exp()
    if how.tail == "renorm":
        value = _sum(v.log_softmax(-1), u.log_softmax(-1), how)
    elif how.tail == "full":
        value = _sum(student.log_softmax(-1), teacher.log_softmax(-1), how)
    else:
        value = _sum(_with_tail(student, v, support), _with_tail(teacher, u, support), how)
    return TokenDivergence(value, coverage, student_coverage)


def _with_tail(logits: Tensor, inside: Tensor, support: Tensor) -> Tensor:
    """(N, K + 1) log-probabilities: the support's words, then all others together. The tail is summed over its own
    logits and not taken as 1 - P, which would cancel where P is close to 1."""
    outside = logits.scatter(-1, support, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([inside, outside], -1).log_softmax(-1)


def _sum(log_p: Tensor, log_q: Tensor, how: Divergence) -> Tensor:
    """(N,) D over the last dimension's outcomes. Without a clip no (N, outcomes) product is held beside the two."""
    if how.kind == "forward":
        return _expected(log_q.exp(), log_q - log_p, how.token_clip)
    if how.kind == "reverse":
        return _expected(log_p.exp(), log_p - log_q, how.token_clip)
    beta, p, q = how.beta, log_p.exp(), log_q.exp()
    log_m = torch.logaddexp(log_q + math.log(beta), log_p + math.log1p(-beta))
    if how.token_clip is None:
        return beta * _expected(q, log_q - log_m, None) + (1 - beta) * _expected(p, log_p - log_m, None)
    terms = beta * q * (log_q - log_m) + (1 - beta) * p * (log_p - log_m)
    return terms.clamp(max=how.token_clip).sum(-1)


def _expected(weights: Tensor, values: Tensor, clip: float | None) -> Tensor:
    if clip is None:
        return torch.einsum("nv,nv->n", weights, values)
    return (weights * values).clamp(max=clip).sum(-1)


def _at(student: Tensor, teacher: Tensor, ids: Tensor, how: Divergence) -> TokenDivergence:
    """D estimated at (N, K) `ids` drawn from p: the mean of f over them, with the gradient of D's own expectation."""
    log_p = student.gather(-1, ids) - student.logsumexp(-1, keepdim=True)
    with torch.no_grad():
        log_r = teacher.gather(-1, ids) - teacher.logsumexp(-1, keepdim=True) - log_p
        value, weight = _point(log_r, how)
        if how.token_clip is not None:
            weight = weight.masked_fill(value > how.token_clip, 0.0)
            value = value.clamp(max=how.token_clip)
    estimate = weight * log_p
    unknown = torch.full_like(value[:, 0], math.nan)
    return TokenDivergence((estimate + (value - estimate).detach()).mean(-1), unknown, unknown)


def _point(log_r: Tensor, how: Divergence) -> tuple[Tensor, Tensor]:
    """f(r) and f(r) - r f'(r), its constants left out."""
    r = log_r.exp()
    if how.kind == "forward":
        return r * log_r, -r
    if how.kind == "reverse":
        return -log_r, -log_r
    log_m = torch.logaddexp(log_r + math.log(how.beta), torch.full_like(log_r, math.log1p(-how.beta)))
    return how.beta * r * (log_r - log_m) - (1 - how.beta) * log_m, -(1 - how.beta) * log_m


def _drawn(student: Tensor, teacher: Tensor, how: Divergence, seed: int) -> TokenDivergence:
    """D estimated at K words drawn with replacement, fresh at every position."""
    assert how.top_k is not None
    generator = torch.Generator(student.device).manual_seed(seed)
    source = teacher if how.kind == "forward" else student.detach()
    ids = torch.multinomial(source.softmax(-1), how.top_k, replacement=True, generator=generator)
    if how.kind != "forward":
        return _at(student, teacher, ids, how)
    log_p = student.gather(-1, ids) - student.logsumexp(-1, keepdim=True)
    log_q = teacher.gather(-1, ids) - teacher.logsumexp(-1, keepdim=True)
    terms = log_q - log_p
    value = terms.mean(-1) if how.token_clip is None else terms.clamp(max=how.token_clip).mean(-1)
    unknown = torch.full_like(value, math.nan).detach()
    return TokenDivergence(value, unknown, unknown)


# ---- by hand


def solvable(how: Divergence, words: int) -> bool:
    """Whether `solved` knows this one: at temperature 1, unclipped, a sum over the whole vocabulary or over a support
    on which both are renormalised."""
    if how.estimator == "sampled" or how.token_clip is not None or how.temperature != 1.0:
        return False
    return _whole(how, words) or (how.support != "random" and how.tail == "renorm")


def _whole(how: Divergence, words: int) -> bool:
    return how.top_k is None or (how.top_k >= words and how.support != "random")


class Solution(NamedTuple):
    value: Tensor
    """D (N,)."""
    coverage: Tensor
    student_coverage: Tensor
    entropy: Tensor
    """As in `TokenDivergence`."""
    gradient: Tensor | tuple[Tensor, Tensor]
    """Of each D to its row of the student's logits (N, V); or the places (N, K) where it is not 0, and what it is."""


def solved(student: Tensor, teacher: Tensor, how: Divergence, room: Room) -> Solution:
    """What is `solvable`, with its gradient. (N, V) tensors are what costs time and memory here: both logits are
    written over, and what is of their size stands in `room`."""
    if _whole(how, teacher.shape[-1]):
        value, spread, gradient = _solved(_both(student, room, "p"), _both(teacher, room, "q"), how)
        everything = torch.ones_like(value)
        return Solution(value, everything, everything, spread, gradient)
    assert how.top_k is not None
    support = (teacher if how.support == "teacher" else student).topk(how.top_k, dim=-1).indices
    p, q = softmax(student, room, "p"), softmax(teacher, room, "q")
    masses = [each.gather(-1, support).sum(-1) for each in (p, q)]
    spread = log_total(student, p)[:, 0] - dots(p, student)
    ps, qs = (_both(each.gather(-1, support), Room(), "") for each in (student, teacher))
    value, _, gradient = _solved(ps, qs, how)
    return Solution(value, masses[1], masses[0], spread, (support, gradient))


def _solved(ps: tuple[Tensor, Tensor], qs: tuple[Tensor, Tensor], how: Divergence) -> tuple[Tensor, Tensor, Tensor]:
    """D (N,), the student's entropy (N,), and the gradient of each D to its row of the student's logits, from p, log p,
    q and log q, which are written over. With u the part of D that changes with p, ∇D = p (u - Σ p u):

        forward  p - q      reverse  u = log(p/q)      jsd  u = (1-β) log(p/m)
    """
    (p, log_p), (q, log_q) = ps, qs
    spread = -dots(p, log_p)
    if how.kind == "forward":
        return dots(q, log_q.sub_(log_p)), spread, p.sub_(q)
    rest: Tensor | float = 0.0
    if how.kind == "reverse":
        u = log_p.sub_(log_q)
    else:
        log_m = torch.lerp(p, q, how.beta).clamp_min_(torch.finfo(p.dtype).tiny).log_()  # where m is 0, so are p and q
        rest = how.beta * dots(q, log_q.sub_(log_m))
        u = log_p.sub_(log_m).mul_(1 - how.beta)
    mean = dots(p, u)
    return rest + mean, spread, u.sub_(mean[:, None]).mul_(p)


def _both(logits: Tensor, room: Room, name: str) -> tuple[Tensor, Tensor]:
    """(N, V) p and log p, the latter in the place of the logits."""
    p = softmax(logits, room, name)
    return p, logits.sub_(log_total(logits, p))


def softmax(logits: Tensor, room: Room, name: str) -> Tensor:
    return torch.softmax(logits, -1, out=room(name, len(logits), logits.shape[-1], logits))


def log_total(logits: Tensor, p: Tensor) -> Tensor:
    """(N, 1) log Σ exp, without a second exponential a word: the highest logit less the log of its probability, which
    is never small."""
    return logits.amax(-1, keepdim=True) - p.amax(-1, keepdim=True).log()


def entropy(logits: Tensor, factor: float, room: Room) -> Tensor:
    """(N,) -Σ p log p of the logits times `factor`, in nats."""
    scaled = torch.mul(logits, factor, out=room("q", len(logits), logits.shape[-1], logits))
    p = softmax(scaled, room, "p")
    return log_total(scaled, p)[:, 0] - dots(p, scaled)


def dots(a: Tensor, b: Tensor) -> Tensor:
    """(N,) Σ_v a_nv b_nv. On a CPU row by row: the product of two batches of one row each takes three times as long."""
    if a.is_cuda or len(a) == 0 or a.shape[-1] < 10_000:
        return torch.einsum("nv,nv->n", a, b)
    return torch.stack([torch.dot(x, y) for x, y in zip(a, b, strict=True)])
