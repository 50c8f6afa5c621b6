"""Peak memory of the distillation loss at a large vocabulary, forward and backward, against a plain implementation.

    python tests/bench/distill_memory.py

152k words, 1,024 tokens (4,096 where a case says so), hidden size 896, float32, on the CPU. Every case runs in a
process of its own; its figure is the peak resident size less what stood before the loss was called (weights and hidden
states included). Exits with 1 where a limit is passed.
"""

import os
import resource
import subprocess
import sys
from pathlib import Path

VOCABULARY, TOKENS, HIDDEN = 151_936, 1_024, 896
LIMITS_MB = {
    "full": 400,
    "full, 4,096 tokens": 460,
    "reverse": 500,
    "jsd": 700,
    "64 draws": 400,
    "sampled": 400,
    "top-64": 250,
    "full, head trained": 1_100,
}
CASES = ["plain", *LIMITS_MB]


def measure(case: str) -> None:
    import torch

    from trainers.divergences import Divergence
    from trainers.head import Head
    from trainers.losses import distillation

    torch.manual_seed(0)
    weights = [torch.randn(VOCABULARY, HIDDEN).mul_(0.05) for _ in range(2)]
    length = 4 * TOKENS if "4,096" in case else TOKENS
    states = [torch.randn(length, HIDDEN) for _ in range(2)]
    states[0].requires_grad_()
    weights[0].requires_grad_(case == "full, head trained")
    (torch.ones(64, 64) @ torch.ones(64, 64)).sum()  # the matrix library allocates its own buffers on first use
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024
    if case == "plain":
        log_p, log_q = ((h @ w.T).log_softmax(-1) for h, w in zip(states, weights, strict=True))
        (log_q.exp() * (log_q - log_p)).sum().backward()
    else:
        how = {
            "reverse": Divergence("reverse"),
            "jsd": Divergence("jsd"),
            "64 draws": Divergence(top_k=64, support="random"),
            "sampled": Divergence("reverse", estimator="sampled"),
            "top-64": Divergence(top_k=64),
        }.get(case, Divergence())
        head, teacher = (Head(w) for w in weights)
        tokens = torch.arange(length)
        distillation(states[0], head, states[1], teacher, how, tokens).value.sum().backward()
    assert states[0].grad is not None and states[0].grad.isfinite().all()
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)  # both in KiB


def main() -> int:
    peak = {}
    for case in CASES:
        command, root = [sys.executable, __file__, case], str(Path(__file__).parents[2])
        run = subprocess.run(command, stdout=subprocess.PIPE, check=True, env={**os.environ, "PYTHONPATH": root})
        peak[case] = int(run.stdout)
        limit = LIMITS_MB.get(case)
        ratio = f"{peak['plain'] / peak[case]:5.1f} times less than plain" if limit else ""
        print(f"{case:20} {peak[case]:6d} MB  {f'(limit {limit})' if limit else '':14} {ratio}")
    return int(any(peak[case] > limit for case, limit in LIMITS_MB.items()))


if __name__ == "__main__":
    sys.exit(main() if len(sys.argv) == 1 else measure(sys.argv[1]))
