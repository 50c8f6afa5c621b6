"""pass@k against exact combinatorics."""

import itertools
from fractions import Fraction
from math import comb

import pytest

from evals.scorers.passk import pass_at_k, steps


def exact(n: int, right: int, k: int) -> Fraction:
    return 1 - Fraction(comb(n - right, k), comb(n, k))


@pytest.mark.parametrize("n", [1, 2, 7, 128, 200, 1000])
def test_every_digit_is_right(n: int) -> None:
    for right in sorted({0, 1, 2, n // 3, n // 2, n - 1, n} & set(range(n + 1))):
        for k in [k for k in (1, 2, 3, 10, 64, 100, 128, n) if k <= n]:
            wanted = exact(n, right, k)
            assert pass_at_k(n, right, k) == pytest.approx(float(wanted), rel=1e-13, abs=0), (n, right, k)


def test_small_chances_keep_their_digits() -> None:
    """Where 1 - (1 - tiny) in floating point would be left with few."""
    n = 10**9
    assert pass_at_k(n, 1, 1) == pytest.approx(1e-9, rel=1e-15)


def test_it_is_the_mean_over_all_draws() -> None:
    answers = [1, 1, 0, 0, 0, 0, 1]
    for k in range(1, 8):
        draws = list(itertools.combinations(answers, k))
        assert pass_at_k(7, 3, k) == pytest.approx(sum(map(max, draws)) / len(draws))


@pytest.mark.parametrize(("n", "right", "k"), [(3, 1, 4), (3, 4, 1), (3, -1, 1), (3, 1, 0)])
def test_what_cannot_be_drawn_is_refused(n: int, right: int, k: int) -> None:
    with pytest.raises(ValueError):
        pass_at_k(n, right, k)


@pytest.mark.parametrize(("n", "ks"), [(1, [1]), (2, [1, 2]), (5, [1, 2, 4, 5]), (128, [1, 2, 4, 8, 16, 32, 64, 128])])
def test_the_ks_that_are_reported(n: int, ks: list[int]) -> None:
    assert steps(n) == ks
