"""pass@k without bias: how likely one of k answers is right, from n of which c were (Chen et al. 2021,
arXiv:2107.03374, equation 1)."""

import math


def pass_at_k(n: int, right: int, k: int) -> float:
    """1 - C(n - c, k) / C(n, k), as a product over the c right ones in logarithms, so that neither large binomials nor
    a difference of nearly equal numbers loses digits. ValueError where k answers cannot be drawn from n."""
    if not 0 <= right <= n or not 1 <= k <= n:
        raise ValueError(f"pass@{k} of {n} answers, {right} right")
    if n - right < k:
        return 1.0
    return -math.expm1(math.fsum(math.log1p(-k / i) for i in range(n - right + 1, n + 1)))


def steps(n: int) -> list[int]:
    """The k that are reported for n answers: 1, 2, 4, ... and n itself."""
    return [*(k for k in (2**power for power in range(n.bit_length())) if k < n), n]
