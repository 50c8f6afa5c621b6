"""How natural the answers are to the base model: the likelihood it gives them, told the question and nothing else."""

from typing import Any

import numpy as np

from refinery.diagnostics._numbers import Meanings, Row, histogram, mean_row, ratio_row, row
from refinery.diagnostics._pairs import Pairs

VERSION = 1
NEEDS, USES, LIBRARIES = ("likelihoods",), (), ()

RARE = 0.01
"""A token of less probability than this is one that the model would hardly say."""

MEANINGS: Meanings = {
    "nll_raw": (
        "nats a token of the raw answers",
        "How surprised the base model is: what is foreign costs more to learn.",
    ),
    "nll_refined": ("nats a token of the refined answers", "Below raw's: closer to what the model would say."),
    "nll_change": ("nats a token, change", "Below 0: refining made the answers more natural to the model."),
    "rare_raw": ("tokens of the raw answers below 1%", "Tokens the model would hardly ever say."),
    "rare_refined": ("tokens of the refined answers below 1%", "Below raw's: fewer tokens that pull hard in training."),
    "rare_change": ("tokens below 1%, change", "Below 0: fewer foreign tokens."),
    "nll_p95_raw": ("nats of the 95th percentile token, raw", "The tail of surprise, where training pulls hardest."),
    "nll_p95_refined": ("nats of the 95th percentile token, refined", "Below raw's: a shorter tail."),
}


def measure(pairs: Pairs, *, likelihoods: Any) -> list[Row]:
    """Rows of the family "likelihood" over the pairs that `likelihoods.logprobs` (id -> one list of natural-log token
    probabilities for each side) knows: per-token NLL as the mean over answers of each answer's mean (t interval), its
    paired change, the share of tokens below RARE (interval of a ratio over rows) and the 95th percentile over tokens.
    An answer without a token is left out with its pair."""
    found = (likelihoods.logprobs.get(pair.id) for pair in pairs)
    known = [both for both in found if both is not None and all(both)]
    sides = [[-np.asarray(both[side]) for both in known] for side in (0, 1)]
    means = [np.array([tokens.mean() for tokens in side]) for side in sides]
    high = max((float(np.quantile(m, 0.99)) for m in means if len(m)), default=1.0)
    rows, rare = [], []
    for name, side, mean in zip(("raw", "refined"), sides, means, strict=True):
        lengths = np.array([len(tokens) for tokens in side], dtype=float)
        few = np.array([float(np.sum(tokens > -np.log(RARE))) for tokens in side])
        rare.append(few / lengths if len(lengths) else few)
        rows.append(mean_row("likelihood", f"nll_{name}", mean, histogram=histogram(mean, 0, max(high, 1e-9))))
        rows.append(ratio_row("likelihood", f"rare_{name}", few, lengths))
        p95, low, top = _percentile(side)
        rows.append(row("likelihood", f"nll_p95_{name}", p95, len(side), (low, top), tokens=int(lengths.sum())))
    model = {"model": likelihoods.model}
    rows.append(mean_row("likelihood", "nll_change", means[1] - means[0], **model))
    return [*rows, mean_row("likelihood", "rare_change", rare[1] - rare[0], **model)]


def _percentile(side: list[np.ndarray], draws: int = 200) -> tuple[float | None, float | None, float | None]:
    """95th percentile over all tokens, with a bootstrap interval over answers (an answer's tokens go together)."""
    if not side:
        return None, None, None
    value = float(np.quantile(np.concatenate(side), 0.95))
    if len(side) < 2:
        return value, None, None
    rng = np.random.default_rng(0)
    drawn = [np.quantile(np.concatenate([side[i] for i in rng.integers(0, len(side), len(side))]), 0.95)
             for _ in range(draws)]  # fmt: skip
    low, high = np.quantile(drawn, [0.025, 0.975])
    return value, float(low), float(high)
