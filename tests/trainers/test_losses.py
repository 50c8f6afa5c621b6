"""The losses against plain float64 arithmetic, and against TRL's own kernel."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from trainers.balance import LARGE, Balancer
from trainers.divergences import Divergence, TokenDivergence, divergence
from trainers.head import Head
from trainers.losses import cross_entropy, distillation, sample_means

WORDS, ROWS = 40, 50


def logits(seed: int, scale: float = 3.0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(ROWS, WORDS)) * scale).float()


def truncated_kl(student: torch.Tensor, teacher: torch.Tensor, **how: Any) -> TokenDivergence:
    return divergence(student, teacher, Divergence(**how))


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def reference(student: torch.Tensor, teacher: torch.Tensor, k: int, temperature: float) -> dict[str, np.ndarray]:
    """KL_renorm, KL_bucket, KL_full, P and R per row, from the definitions, in float64."""
    rows: dict[str, list[float]] = {name: [] for name in ("renorm", "bucket", "full", "P", "R")}
    for v, u in zip(student.double().numpy(), teacher.double().numpy(), strict=True):
        q, p = softmax(u / temperature), softmax(v / temperature)
        inside = np.argsort(-q)[:k]
        outside = np.setdiff1d(np.arange(len(q)), inside)
        mass_q, mass_p = q[inside].sum(), p[inside].sum()
        q_in, p_in = q[inside] / mass_q, p[inside] / mass_p
        rows["renorm"].append((q_in * np.log(q_in / p_in)).sum())
        q_b, p_b = np.append(q[inside], q[outside].sum()), np.append(p[inside], p[outside].sum())
        rows["bucket"].append((q_b * np.log(q_b / p_b)).sum())
        rows["full"].append((q * np.log(q / p)).sum())
        rows["P"].append(mass_q)
        rows["R"].append(mass_p)
    return {name: np.array(values) for name, values in rows.items()}


@pytest.mark.parametrize("temperature", [1.0, 1.5])
@pytest.mark.parametrize("tail", ["renorm", "bucket", "full"])
def test_truncated_kl_is_its_definition(tail: str, temperature: float) -> None:
    student, teacher = logits(1), logits(2)
    expected = reference(student, teacher, 7, temperature)
    got = truncated_kl(student, teacher, top_k=7, temperature=temperature, tail=tail)
    assert np.abs(got.value.numpy() - expected[tail]).max() < 1e-5
    assert np.abs(got.coverage.numpy() - expected["P"]).max() < 1e-5
    assert np.abs(got.student_coverage.numpy() - expected["R"]).max() < 1e-5


def test_renorm_bucket_and_full_decompose() -> None:
    student, teacher, k = logits(3), logits(4), 5
    kl = {
        tail: truncated_kl(student, teacher, top_k=k, tail=tail).value.double().numpy()
        for tail in ("renorm", "bucket", "full")
    }
    ref = reference(student, teacher, k, 1.0)
    p, r = ref["P"], ref["R"]
    bucket = p * kl["renorm"] + p * np.log(p / r) + (1 - p) * np.log((1 - p) / (1 - r))
    assert np.abs(kl["bucket"] - bucket).max() < 1e-5
    q, s = teacher.double().softmax(-1).numpy(), student.double().softmax(-1).numpy()
    tails = []
    for q_row, s_row in zip(q, s, strict=True):
        outside = np.argsort(-q_row)[k:]
        q_tail, s_tail = q_row[outside] / q_row[outside].sum(), s_row[outside] / s_row[outside].sum()
        tails.append((q_tail * np.log(q_tail / s_tail)).sum())
    assert np.abs(kl["full"] - (kl["bucket"] + (1 - p) * np.array(tails))).max() < 1e-5
    assert (kl["bucket"] <= kl["full"] + 1e-6).all()
    assert (kl["renorm"] > kl["full"]).any()


def test_renorm_leaves_the_students_tail_free() -> None:
    student, teacher = logits(5), logits(6)
    support = teacher.topk(6).indices
    moved = student.scatter_add(-1, support, torch.full((ROWS, 6), -4.0))
    before = truncated_kl(student, teacher, top_k=6, tail="renorm")
    after = truncated_kl(moved, teacher, top_k=6, tail="renorm")
    assert (before.value - after.value).abs().max() < 1e-5
    assert (after.student_coverage < before.student_coverage).all()
    bucket = [truncated_kl(s, teacher, top_k=6, tail="bucket").value for s in (student, moved)]
    assert (bucket[0] - bucket[1]).abs().max() > 0.5


@pytest.mark.parametrize("tail", ["renorm", "bucket", "full"])
def test_support_above_the_vocabulary_is_the_vocabulary(tail: str) -> None:
    student, teacher = logits(7), logits(8)
    got = truncated_kl(student, teacher, top_k=10_000, tail=tail)
    assert np.abs(got.value.numpy() - reference(student, teacher, WORDS, 1.0)["full"]).max() < 1e-5
    assert (got.coverage - 1).abs().max() < 1e-6


@pytest.mark.parametrize("tail", ["renorm", "bucket", "full"])
def test_bucket_and_others_stay_finite_for_sure_distributions(tail: str) -> None:
    student, teacher = logits(9, 60.0).requires_grad_(), logits(10, 60.0)
    kl = truncated_kl(student, teacher, top_k=3, tail=tail).value
    kl.sum().backward()
    assert kl.isfinite().all() and student.grad.isfinite().all()


def test_temperature_squared_keeps_the_gradient_s_scale() -> None:
    """For logits far smaller than T, T²·KL has nearly the gradient of half the squared difference of centred logits,
    whatever T is (Hinton et al., 2015)."""
    student, teacher = logits(11, 0.01).double(), logits(12, 0.01).double()
    centred = [x - x.mean(-1, keepdim=True) for x in (student, teacher)]
    expected = (centred[0] - centred[1]) / WORDS
    for temperature in (1.0, 2.0, 8.0):
        leaf = student.clone().requires_grad_()
        kl = truncated_kl(leaf, teacher, top_k=WORDS, temperature=temperature, tail="full").value.sum()
        (kl * temperature**2).backward()
        assert (leaf.grad - expected).abs().max() < 0.05 * expected.abs().max()


def states(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).float()


@pytest.mark.parametrize("tail", ["renorm", "bucket", "full"])
@pytest.mark.parametrize("softcap", [None, 5.0])
def test_chunks_equal_one_piece(tail: str, softcap: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainers.chunks.rows_per_chunk", lambda vocabulary, cuda: 8)
    hidden, weight, bias = (
        states(s, *shape).requires_grad_() for s, shape in ((1, (ROWS, 6)), (2, (WORDS, 6)), (3, (WORDS,)))
    )
    other, other_weight = states(4, ROWS, 9), states(5, WORDS, 9)
    weights = torch.linspace(0, 1, ROWS)
    head, teacher = Head(weight, bias, 0.7, softcap), Head(other_weight)
    chunked = distillation(hidden, head, other, teacher, Divergence(top_k=5, temperature=1.5, tail=tail))
    got = torch.autograd.grad((chunked.value * weights).sum(), (hidden, weight, bias))
    whole_logits = 0.7 * (hidden @ weight.T + bias)
    whole_logits = whole_logits if softcap is None else softcap * torch.tanh(whole_logits / softcap)
    whole = truncated_kl(whole_logits, other @ other_weight.T, top_k=5, temperature=1.5, tail=tail)
    expected = torch.autograd.grad((whole.value * weights).sum(), (hidden, weight, bias))
    for a, b in zip((*chunked[:3], *got), (*whole[:3], *expected), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    probabilities = whole_logits.detach().double().softmax(-1)
    entropy = -(probabilities * probabilities.log()).sum(-1)  # at temperature 1, whatever the divergence has
    assert chunked.entropy is not None and not chunked.entropy.requires_grad
    assert torch.allclose(chunked.entropy.double(), entropy, atol=1e-5)


def test_cross_entropy_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainers.chunks.rows_per_chunk", lambda vocabulary, cuda: 8)
    hidden, weight = states(6, ROWS, 6).requires_grad_(), states(7, WORDS, 6).requires_grad_()
    targets = torch.arange(ROWS) % WORDS
    got = cross_entropy(hidden, Head(weight), targets)
    expected = F.cross_entropy(hidden @ weight.T, targets, reduction="none")
    assert torch.allclose(got, expected, atol=1e-5)
    for a, b in zip(
        torch.autograd.grad(got.mean(), (hidden, weight)),
        torch.autograd.grad(expected.mean(), (hidden, weight)),
        strict=True,
    ):
        assert torch.allclose(a, b, atol=1e-6)


def test_frozen_head_gets_no_gradient() -> None:
    hidden, weight = states(8, ROWS, 6).requires_grad_(), states(9, WORDS, 6)
    distillation(
        hidden, Head(weight), states(10, ROWS, 6), Head(weight), Divergence(top_k=4, tail="renorm")
    ).value.sum().backward()
    assert hidden.grad is not None and weight.grad is None


def test_no_rows_is_no_loss() -> None:
    hidden, weight = states(8, 0, 6).requires_grad_(), states(9, WORDS, 6)
    out = distillation(hidden, Head(weight), hidden.detach(), Head(weight), Divergence(top_k=4, tail="full"))
    assert out.value.shape == (0,)


def test_agrees_with_trls_kernel_on_full_support() -> None:
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    hidden, weight = states(11, ROWS, 6).requires_grad_(), states(12, WORDS, 6).requires_grad_()
    other, other_weight = states(13, ROWS, 6), states(14, WORDS, 6)
    ours = distillation(hidden, Head(weight), other, Head(other_weight), Divergence(top_k=WORDS, tail="full")).value
    theirs, _ = ChunkedDivergenceFunction.apply(hidden, weight, None, other, other_weight, None, 0.0, 1.0)
    assert torch.allclose(ours, theirs, atol=1e-5)
    for a, b in zip(
        torch.autograd.grad(ours.sum(), (hidden, weight)),
        torch.autograd.grad(theirs.sum(), (hidden, weight)),
        strict=True,
    ):
        assert torch.allclose(a, b, atol=1e-5)


def test_autocast_keeps_logits_wide() -> None:
    hidden, weight = states(15, ROWS, 64).requires_grad_(), states(16, WORDS, 64)
    with torch.autocast("cpu", torch.bfloat16):
        got = cross_entropy(hidden, Head(weight), torch.zeros(ROWS, dtype=torch.long))
    rounded = hidden.detach().bfloat16().double() @ weight.bfloat16().double().T
    expected = F.cross_entropy(rounded, torch.zeros(ROWS, dtype=torch.long), reduction="none")
    assert got.dtype == torch.float32
    assert torch.allclose(got.double(), expected, atol=1e-4)


def test_sample_means_weigh_rows_alike() -> None:
    values = torch.tensor([1.0, 2.0, 3.0, 10.0])
    assert sample_means(values, [3, 0, 1]).tolist() == [2.0, 0.0, 10.0]


def test_balance_of_the_first_step_is_the_ratio() -> None:
    assert Balancer(decay=0.9).update(2.5, 0.5) == pytest.approx(5.0)


def test_balance_is_corrected_for_its_start() -> None:
    """Against the sums written out: m(s) = (1-β) Σ β^(s-i) L(i), divided by 1-β^s."""
    rng = np.random.default_rng(0)
    sft, kl = rng.uniform(1, 3, 20), rng.uniform(0.1, 1, 20)
    balancer = Balancer(decay=0.8)
    for s in range(1, 21):
        got = balancer.update(sft[s - 1], kl[s - 1])
        weights = 0.2 * 0.8 ** np.arange(s - 1, -1, -1) / (1 - 0.8**s)
        assert got == pytest.approx((weights * sft[:s]).sum() / ((weights * kl[:s]).sum() + 1e-8), rel=1e-9)


def test_balance_bounds_fixed_and_broken_steps(caplog: pytest.LogCaptureFixture) -> None:
    assert Balancer(maximum=3.0).update(100.0, 1.0) == 3.0
    assert Balancer(minimum=0.5).update(1.0, 100.0) == 0.5
    assert Balancer(fixed=0.1).update(5.0, 1.0) == 0.1
    balancer = Balancer()
    before = balancer.update(2.0, 1.0)
    assert balancer.update(float("nan"), 1.0) == before and balancer.update(1.0, float("inf")) == before
    assert (balancer.steps, balancer.skipped) == (1, 2)
    assert Balancer().update(float("nan"), 1.0) == 0.0
    with caplog.at_level("WARNING", logger="refinery"):
        balancer = Balancer()
        assert balancer.update(1.0, 0.001) > LARGE
        balancer.update(1.0, 0.001)
    assert balancer.large == 2 and len(caplog.records) == 1


def test_balance_of_two_equal_distributions_is_not_of_their_rounding() -> None:
    for kind in ("ema", "initial"):
        balancer = Balancer(decay=0.5, kind=kind)
        assert [balancer.update(3.0, kl) for kl in (1e-8, -2e-8, 9e-7)] == [0.0, 0.0, 0.0]
        got = balancer.update(3.0, 1e-3)
        mean = {"ema": (1e-8 / 16 + 9e-7 / 4 + 1e-3 / 2) / (15 / 16), "initial": 1e-3}[kind]
        assert got == pytest.approx(3.0 / (mean + 1e-8), rel=1e-9)
        assert (balancer.update(3.0, 0.5) == got) == (kind == "initial")
    assert Balancer(minimum=0.5).update(3.0, 1e-8) == 0.5
    assert Balancer(kind="gradient").update(3.0, 1e-3, nats=1e-8) == 0.0  # a noise of gradients may be any size
    assert Balancer(kind="gradient").update(3.0, 1e-7, nats=1e-2) == pytest.approx(3.0 / 1.1e-7)


def test_balance_goes_on_from_its_state() -> None:
    one = Balancer()
    for loss in (3.0, 2.0, 1.5):
        one.update(loss, 0.4)
    other = Balancer(**one.state())
    assert other.update(1.0, 0.3) == one.update(1.0, 0.3)


@pytest.mark.parametrize("softcap", [None, 5.0])
def test_cross_entropy_at_a_temperature(softcap: float | None) -> None:
    """The logits are capped and then divided, by whatever road."""
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(6, 8), torch.randn(20, 8) * 3, torch.arange(6)
    hidden.requires_grad_()
    logits = hidden @ weight.t()
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    expected = -(logits / 1.7).log_softmax(-1)[range(6), targets]
    got = cross_entropy(hidden, Head(weight, softcap=softcap), targets, temperature=1.7)
    assert torch.allclose(got, expected, atol=1e-5)
    found, wanted = (torch.autograd.grad(each.sum(), hidden)[0] for each in (got, expected))
    assert torch.allclose(found, wanted, atol=1e-5)
