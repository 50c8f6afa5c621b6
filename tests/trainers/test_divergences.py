"""Every divergence and its gradient against the expression written out in float64, the limits, the identities, and the
estimators' means."""

from typing import Any

import pytest
import torch

from trainers.divergences import Divergence, divergence, dots, solved
from trainers.head import Head, Room
from trainers.losses import distillation, reward_to_go

ROWS, WORDS = 12, 17
KINDS = ["forward", "reverse", "jsd"]


def logits(seed: int, scale: float = 2.0, rows: int = ROWS) -> torch.Tensor:
    return torch.randn(rows, WORDS, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def naive(p: torch.Tensor, q: torch.Tensor, kind: str, beta: float = 0.5) -> torch.Tensor:
    """(N,) from probabilities, as the definitions read."""

    def kl(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a * (a / b).log()).sum(-1)

    if kind == "jsd":
        m = beta * q + (1 - beta) * p
        return beta * kl(q, m) + (1 - beta) * kl(p, m)
    return kl(q, p) if kind == "forward" else kl(p, q)


def outcomes(
    student: torch.Tensor, teacher: torch.Tensor, k: int, support: str, tail: str, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """p and q over what is compared, row by row."""
    p, q = (student / temperature).softmax(-1), (teacher / temperature).softmax(-1)
    if tail == "full":
        return p, q
    made = []
    for row_p, row_q in zip(p, q, strict=True):
        inside = (row_q if support == "teacher" else row_p).argsort(descending=True)[:k]
        outside = [i for i in range(WORDS) if i not in inside.tolist()]
        pair = []
        for row in (row_p, row_q):
            kept = row[inside]
            pair.append(kept / kept.sum() if tail == "renorm" else torch.cat([kept, row[outside].sum()[None]]))
        made.append(pair)
    return torch.stack([pair[0] for pair in made]), torch.stack([pair[1] for pair in made])


@pytest.mark.parametrize("temperature", [1.0, 1.7])
@pytest.mark.parametrize("tail", ["renorm", "bucket", "full"])
@pytest.mark.parametrize("support", ["teacher", "student"])
@pytest.mark.parametrize("kind", KINDS)
def test_value_and_gradient_are_the_definition_s(kind: Any, support: Any, tail: Any, temperature: float) -> None:
    how = Divergence(kind, beta=0.3, top_k=5, support=support, tail=tail, temperature=temperature)
    student, teacher = logits(1).requires_grad_(), logits(2)
    weights = torch.linspace(0.5, 2, ROWS, dtype=torch.float64)
    got = divergence(student, teacher, how)
    [gradient] = torch.autograd.grad((got.value * weights).sum(), student)
    p, q = outcomes(student, teacher, 5, support, tail, temperature)
    expected = naive(p, q, kind, 0.3)
    [wanted] = torch.autograd.grad((expected * weights).sum(), student)
    assert torch.allclose(got.value, expected, atol=1e-12)
    assert torch.allclose(gradient, wanted, atol=1e-12)
    chosen, _ = outcomes(student, teacher, 5, support, "bucket", temperature)
    assert torch.allclose(got.student_coverage, 1 - chosen[:, -1], atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_k_of_the_whole_vocabulary_is_no_k(kind: Any) -> None:
    for tail in ("renorm", "bucket", "full"):
        whole = divergence(logits(1), logits(2), Divergence(kind))
        cut = divergence(logits(1), logits(2), Divergence(kind, top_k=WORDS, tail=tail))
        assert torch.equal(whole.value, cut.value) and (cut.coverage == 1).all()


def test_bucket_is_below_full_and_the_chain_rule_holds() -> None:
    """full = bucket + tail mass · divergence within the tail, of the first argument's tail; for all three kinds."""
    student, teacher = logits(3), logits(4)
    for kind in KINDS:
        values = {
            tail: divergence(student, teacher, Divergence(kind, beta=0.3, top_k=4, tail=tail)).value
            for tail in ("bucket", "full")
        }
        assert (values["bucket"] <= values["full"] + 1e-12).all()
        p, q = student.softmax(-1), teacher.softmax(-1)
        outside = torch.ones_like(p).scatter(-1, teacher.topk(4).indices, 0.0).bool()
        rows_p, rows_q = p[outside].view(ROWS, -1), q[outside].view(ROWS, -1)
        mass_p, mass_q = rows_p.sum(-1, keepdim=True), rows_q.sum(-1, keepdim=True)
        if kind == "jsd":
            m = 0.3 * rows_q + 0.7 * rows_p
            mass_m = m.sum(-1, keepdim=True)
            inner = 0.3 * mass_q[:, 0] * naive(m / mass_m, rows_q / mass_q, "forward")
            inner = inner + 0.7 * mass_p[:, 0] * naive(m / mass_m, rows_p / mass_p, "forward")
        else:
            mass = mass_q if kind == "forward" else mass_p
            inner = mass[:, 0] * naive(rows_p / mass_p, rows_q / mass_q, kind)
        assert torch.allclose(values["full"], values["bucket"] + inner, atol=1e-12)


def test_jsd_goes_to_both_ends() -> None:
    student, teacher = logits(5, 1.0), logits(6, 1.0)
    near = 1e-6
    forward, reverse = (divergence(student, teacher, Divergence(kind)).value for kind in ("forward", "reverse"))
    low = divergence(student, teacher, Divergence("jsd", beta=near)).value / near
    high = divergence(student, teacher, Divergence("jsd", beta=1 - near)).value / near
    assert torch.allclose(low, forward, rtol=1e-4) and torch.allclose(high, reverse, rtol=1e-4)
    half = divergence(student, teacher, Divergence("jsd")).value
    assert torch.allclose(half, divergence(teacher, student, Divergence("jsd")).value) and (half < 0.6932).all()


def test_gkd_s_convention_is_trl_s() -> None:
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    hidden, weight = torch.randn(9, 6), torch.randn(WORDS, 6)
    other, other_weight = torch.randn(9, 6), torch.randn(WORDS, 6)
    for how, beta in ((Divergence("jsd", beta=0.2), 0.2), (Divergence("reverse"), 1.0), (Divergence("forward"), 0.0)):
        ours = distillation(hidden, Head(weight), other, Head(other_weight), how).value
        theirs, _ = ChunkedDivergenceFunction.apply(hidden, weight, None, other, other_weight, None, beta, 1.0)
        assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_clip_bounds_each_word_s_term(kind: Any) -> None:
    student, teacher = logits(7).requires_grad_(), logits(8)
    got = divergence(student, teacher, Divergence(kind, beta=0.3, token_clip=0.05)).value
    p, q = student.softmax(-1), teacher.softmax(-1)
    m = 0.3 * q + 0.7 * p
    terms = {
        "forward": q * (q / p).log(),
        "reverse": p * (p / q).log(),
        "jsd": 0.3 * q * (q / m).log() + 0.7 * p * (p / m).log(),
    }[kind]
    clipped = torch.where(terms > 0.05, 0.05, terms)
    assert (terms > 0.05).any() and torch.allclose(got, clipped.sum(-1), atol=1e-12)
    [gradient] = torch.autograd.grad(got.sum(), student, retain_graph=True)
    [wanted] = torch.autograd.grad(clipped.sum(), student)
    assert torch.allclose(gradient, wanted, atol=1e-12)
    loose = divergence(student, teacher, Divergence(kind, beta=0.3, token_clip=1e3)).value
    assert torch.allclose(loose, naive(p, q, kind, 0.3), atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_sampled_token_s_mean_is_exact(kind: Any) -> None:
    """Not by draws: the estimate at every word, weighted by the student's probabilities, is D and its gradient."""
    student, teacher = logits(9, 1.0, rows=1).requires_grad_(), logits(10, 1.0, rows=1)
    how = Divergence(kind, beta=0.3, temperature=1.3, estimator="sampled")
    every = torch.arange(WORDS)
    wide = student.expand(WORDS, -1)
    estimates = divergence(wide, teacher.expand(WORDS, -1), how, every).value
    p, q = (student / 1.3).softmax(-1), (teacher / 1.3).softmax(-1)
    expected = naive(p, q, kind, 0.3)[0]
    [wanted] = torch.autograd.grad(expected, student)
    [gradient] = torch.autograd.grad((estimates * p[0].detach()).sum(), student)
    assert (estimates.detach() * p[0].detach()).sum().item() == pytest.approx(expected.item(), abs=1e-12)
    assert torch.allclose(gradient, wanted, atol=1e-12)
    assert torch.isnan(divergence(wide, teacher.expand(WORDS, -1), how, every).coverage).all()


@pytest.mark.parametrize("estimator", ["sampled", "random"])
@pytest.mark.parametrize("kind", KINDS)
def test_draws_average_to_the_whole(kind: Any, estimator: str) -> None:
    """Value and gradient over many draws lie within five standard errors of the exact ones."""
    draws = 20_000
    student, teacher = logits(11, 1.0, rows=1), logits(12, 1.0, rows=1)
    leaf = student.expand(draws, -1).clone().requires_grad_()
    wide = teacher.expand(draws, -1)
    if estimator == "sampled":
        tokens = torch.multinomial(student.softmax(-1)[0], draws, replacement=True,
                                   generator=torch.Generator().manual_seed(0))  # fmt: skip
        values = divergence(leaf, wide, Divergence(kind, estimator="sampled"), tokens).value
    else:
        values = divergence(leaf, wide, Divergence(kind, top_k=3, support="random"), seed=5).value
    [gradients] = torch.autograd.grad(values.sum(), leaf)
    one = student.clone().requires_grad_()
    exact = naive(one.softmax(-1), teacher.softmax(-1), kind)
    [gradient] = torch.autograd.grad(exact.sum(), one)
    for found, wanted in ((values.detach()[:, None], exact.detach()[:, None]), (gradients, gradient)):
        error = found.std(0) / draws**0.5
        assert ((found.mean(0) - wanted[0]).abs() <= 5 * error + 1e-12).all()


def test_top_k_s_renormalised_target_is_biased_where_draws_are_not() -> None:
    """What random draws are for (arXiv 2503.16870): with a student at the teacher, K draws push it nowhere on average,
    and a renormalised K pushes nowhere either, but with a student a little off the two have different means."""
    teacher = logits(13, 1.0, rows=1)
    student = (teacher + 0.5 * logits(14, 1.0, rows=1)).requires_grad_()
    [exact] = torch.autograd.grad(divergence(student, teacher, Divergence()).value.sum(), student)
    [cut] = torch.autograd.grad(divergence(student, teacher, Divergence(top_k=3)).value.sum(), student)
    assert (cut - exact).abs().max() > 0.05


def test_the_same_seed_draws_the_same_words() -> None:
    how = Divergence("forward", top_k=4, support="random")
    one, two, other = (divergence(logits(1), logits(2), how, seed=seed).value for seed in (3, 3, 4))
    assert torch.equal(one, two) and not torch.equal(one, other)


@pytest.mark.parametrize("how", [
    Divergence("reverse", top_k=5, support="student", tail="bucket", temperature=1.5),
    Divergence("jsd", beta=0.3, token_clip=0.02),
    Divergence("reverse", estimator="sampled"),
    Divergence("jsd", top_k=4, tail="full"),
])  # fmt: skip
def test_chunks_equal_one_piece(how: Divergence, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients included, and a row's place among the others does not matter."""
    monkeypatch.setattr("trainers.chunks.rows_per_chunk", lambda vocabulary, cuda: 5)
    hidden, weight = torch.randn(ROWS, 6).requires_grad_(), torch.randn(WORDS, 6).requires_grad_()
    other, other_weight, tokens = torch.randn(ROWS, 7), torch.randn(WORDS, 7), torch.arange(ROWS)
    chunked = distillation(hidden, Head(weight), other, Head(other_weight), how, tokens).value
    whole = divergence(hidden @ weight.T, other @ other_weight.T, how, tokens).value
    weights = torch.linspace(0, 1, ROWS)
    got, wanted = (torch.autograd.grad((v * weights).sum(), (hidden, weight)) for v in (chunked, whole))
    assert torch.allclose(chunked, whole, atol=1e-5)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(got, wanted, strict=True))
    order = torch.randperm(ROWS)
    moved = distillation(hidden[order], Head(weight), other[order], Head(other_weight), how, tokens[order]).value
    assert torch.allclose(moved, chunked[order], atol=1e-6)


@pytest.mark.parametrize("how", [Divergence("jsd"), Divergence("reverse", top_k=4)])
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("promised", [False, True])
def test_no_more_than_a_chunk_is_ever_projected(
    how: Divergence, trained: bool, promised: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Student and teacher once a chunk; twice where the head is trained and nothing is known of the loss."""
    seen: list[int] = []
    real = Head.project

    def noting(head: Head, hidden: torch.Tensor, *room: Any) -> Any:
        seen.append(len(hidden))
        return real(head, hidden, *room)

    monkeypatch.setattr(Head, "project", noting)
    monkeypatch.setattr("trainers.chunks.rows_per_chunk", lambda vocabulary, cuda: 5)
    hidden, weight = torch.randn(23, 6).requires_grad_(), torch.randn(WORDS, 6).requires_grad_(trained)
    scales = torch.ones(23) if promised else None
    value = distillation(hidden, Head(weight), torch.randn(23, 6), Head(weight), how, None, scales).value
    value.sum().backward()
    assert seen == [5, 5, 5, 5, 5, 5, 5, 5, 3, 3] * (2 if trained and not promised else 1)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_by_hand_are_those_of_autograd(kind: Any) -> None:
    """In float64, also where the two distributions share nothing."""
    for spread in (0.5, 5.0, 300.0):
        how, student = Divergence(kind, beta=0.3), (spread * logits(1)).double().requires_grad_()
        teacher = (spread * logits(2)).double()
        expected = divergence(student, teacher, how).value
        [slope] = torch.autograd.grad(expected.sum(), student)
        value, _, _, entropy, gradient = solved(student.detach().clone(), teacher.clone(), how, Room())
        log_p = student.detach().log_softmax(-1)
        assert torch.allclose(value, expected, rtol=1e-9, atol=1e-12)
        assert torch.allclose(gradient, slope, rtol=1e-9, atol=1e-12)
        assert torch.allclose(entropy, -(log_p.exp() * log_p).sum(-1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("support", ["teacher", "student"])
def test_gradients_by_hand_on_a_support_are_those_of_autograd(kind: Any, support: Any) -> None:
    for spread in (0.5, 5.0, 300.0):
        how = Divergence(kind, beta=0.3, top_k=7, support=support)
        student, teacher = (spread * logits(1)).double().requires_grad_(), (spread * logits(2)).double()
        expected = divergence(student, teacher, how)
        [slope] = torch.autograd.grad(expected.value.sum(), student)
        *found, entropy, (places, values) = solved(student.detach().clone(), teacher.clone(), how, Room())
        for one, other in zip(found, expected[:3], strict=True):
            assert torch.allclose(one, other, rtol=1e-9, atol=1e-12)
        assert torch.allclose(torch.zeros_like(slope).scatter(-1, places, values), slope, rtol=1e-9, atol=1e-12)
        log_p = student.detach().log_softmax(-1)
        assert torch.allclose(entropy, -(log_p.exp() * log_p).sum(-1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scale", [0.7, 1.0])
@pytest.mark.parametrize("how", [
    Divergence(),
    Divergence("jsd", temperature=1.5),
    Divergence(top_k=4, temperature=1.5),  # 4 x 6 of the head's 40 rows are fewer than all; 8 x 6 are not
    Divergence("reverse", top_k=8, support="student"),
])  # fmt: skip
def test_a_pass_by_hand_equals_autograd(how: Divergence, scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the head is frozen, or alone has a gradient, and room is used again by a shorter last chunk."""
    monkeypatch.setattr("trainers.chunks.rows_per_chunk", lambda vocabulary, cuda: 7)
    torch.manual_seed(0)
    leaves = [torch.randn(*shape) for shape in ((ROWS, 6), (WORDS, 6), (WORDS,))]
    other, teacher, scales = torch.randn(ROWS, 7), Head(torch.randn(WORDS, 7)), torch.linspace(0, 2, ROWS)
    for trained in ((0, 1, 2), (0,), (1,)):
        for leaf in leaves:
            leaf.requires_grad_(False)
        own = [leaves[i].requires_grad_() for i in trained]
        head, found = Head(leaves[1], leaves[2], scale), []
        for by_hand in (True, False):
            with monkeypatch.context() as patched:
                if not by_hand:
                    patched.setattr("trainers.losses.solvable", lambda how, words: False)
                one = distillation(leaves[0], head, other, teacher, how, None, scales)
            found.append([*one, *torch.autograd.grad((one.value * scales).sum(), own)])
        assert all(torch.allclose(a, b, atol=2e-6) for a, b in zip(*found, strict=True))


def test_products_of_rows_are_the_same_however_they_are_taken() -> None:
    for words in (50, 20_000):
        a, b = torch.randn(3, words), torch.randn(3, words)
        assert torch.allclose(dots(a, b).double(), (a.double() * b.double()).sum(-1), rtol=1e-4, atol=1e-4)
        assert dots(a[:0], b[:0]).shape == (0,)


@pytest.mark.parametrize("how", [
    Divergence(),
    Divergence("reverse", temperature=1.5),
    Divergence("jsd", beta=0.3),
    Divergence(top_k=4, temperature=1.5),
    Divergence("reverse", top_k=8, support="student"),
    Divergence("reverse", top_k=5, support="student", tail="bucket", temperature=1.5),
    Divergence("reverse", estimator="sampled"),
])  # fmt: skip
@pytest.mark.parametrize("cap", [None, 4.0])
def test_one_pass_equals_two(how: Divergence, cap: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients of hidden states, head and bias, where the loss is c times what was promised."""
    monkeypatch.setattr("trainers.chunks.rows_per_chunk", lambda vocabulary, cuda: 5)
    torch.manual_seed(0)
    leaves = [torch.randn(*shape).requires_grad_() for shape in ((ROWS, 6), (WORDS, 6), (WORDS,))]
    head, teacher = Head(leaves[1], leaves[2], 0.7, cap), Head(torch.randn(WORDS, 7))
    other, tokens, scales = torch.randn(ROWS, 7), torch.arange(ROWS), torch.linspace(0, 2, ROWS)
    found = []
    for promise in (None, scales):
        one = distillation(leaves[0], head, other, teacher, how, tokens, promise)
        found.append([*one, *torch.autograd.grad(-3.0 * (one.value * scales).sum(), leaves)])
    assert all(torch.allclose(a, b, atol=1e-5, equal_nan=True) for a, b in zip(*found, strict=True))


def test_a_broken_promise_is_noticed() -> None:
    hidden, weight = torch.randn(ROWS, 6).requires_grad_(), torch.randn(WORDS, 6).requires_grad_()
    value = distillation(hidden, Head(weight), hidden.detach() + 1, Head(weight), Divergence(), None, torch.ones(ROWS))
    with pytest.raises(AssertionError, match="scales"):
        (value.value * torch.linspace(0, 1, ROWS)).sum().backward()


def test_draws_are_the_same_forward_and_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient is that of the words that were drawn: it agrees with finite differences under one seed."""
    monkeypatch.setattr("trainers.chunks.rows_per_chunk", lambda vocabulary, cuda: 5)
    hidden, weight = torch.randn(ROWS, 6, dtype=torch.float64), torch.randn(WORDS, 6, dtype=torch.float64)
    other, how = torch.randn(ROWS, 6, dtype=torch.float64), Divergence("forward", top_k=3, support="random")

    def loss(states: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(1)
        return distillation(states, Head(weight), other, Head(weight), how).value.sum()

    [gradient] = torch.autograd.grad(loss(hidden.requires_grad_()), hidden)
    step = torch.randn_like(hidden) * 1e-6
    slope = (loss(hidden.detach() + step) - loss(hidden.detach() - step)) / 2
    assert slope.item() == pytest.approx((gradient * step).sum().item(), rel=1e-4)


def two_modes(kind: Any, steps: int = 400) -> torch.Tensor:
    """A student that can only be a bump somewhere on a line, learning from a teacher with two; where it ends."""
    places = torch.arange(WORDS, dtype=torch.float64)
    bump = [torch.exp(-((places - at) ** 2) / 3.0) for at in (3, 13)]
    teacher = (0.35 * bump[0] + 0.65 * bump[1] + 1e-4).log()[None]
    at = torch.tensor([5.0, 1.5], dtype=torch.float64, requires_grad=True)  # centre, and log of twice the width squared
    optimizer = torch.optim.Adam([at], lr=0.05)
    for _ in range(steps):
        student = (-((places - at[0]) ** 2) / at[1].exp())[None]
        optimizer.zero_grad()
        divergence(student, teacher, Divergence(kind)).value.sum().backward()
        optimizer.step()
    return (-((places - at[0]) ** 2) / at[1].exp()).softmax(-1).detach()


def test_forward_covers_both_modes_and_reverse_settles_on_one() -> None:
    forward, reverse = two_modes("forward"), two_modes("reverse")
    places = torch.arange(WORDS, dtype=torch.float64)
    assert (reverse * (places - 3).abs()).sum() < 2 and reverse[:7].sum() > 0.95  # the nearer mode, not the larger
    mean = (forward * places).sum()
    assert 8 < mean < 11 and forward[:7].sum() > 0.1 and forward[10:].sum() > 0.3  # moments of the teacher


def test_reward_to_go_is_within_rows() -> None:
    assert reward_to_go(torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0]), [3, 0, 2]).tolist() == [6, 4, 0, 16, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_rao_blackwell_is_the_gradient_of_the_whole_sequence(kind: Any) -> None:
    """Two tokens over four words: the mean over all sequences of the per-token gradient plus log p(z_1) · D_2 is the
    gradient of E_z[D_1 + D_2(z_1)], which the per-token one alone is not."""
    words = 4
    generator = torch.Generator().manual_seed(1)
    first, second = (torch.randn(s, generator=generator, dtype=torch.float64) for s in ((1, words), (words, words)))
    teacher_first, teacher_second = (torch.randn_like(x) for x in (first, second))
    leaves = (first.requires_grad_(), second.requires_grad_())
    how = Divergence(kind)
    p = first.softmax(-1)[0]
    d_1, d_2 = divergence(first, teacher_first, how).value, divergence(second, teacher_second, how).value
    exact = torch.autograd.grad(d_1.sum() + (p * d_2).sum(), leaves, retain_graph=True)
    found = [torch.zeros_like(leaf) for leaf in leaves]
    alone = [torch.zeros_like(leaf) for leaf in leaves]
    for z in range(words):
        values = torch.stack([d_1[0], d_2[z]])
        through = first.log_softmax(-1)[0, z] * reward_to_go(values.detach(), [2])[0]
        for store, loss in ((found, values.sum() + through), (alone, values.sum())):
            parts = torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True)
            for total, part in zip(store, parts, strict=True):
                total += p[z].detach() * (0 if part is None else part)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(found, exact, strict=True))
    assert (alone[0] - exact[0]).abs().max() > 1e-3
