"""What the filters share: each candidate passes or has the reason why not, and the first that passes becomes the
response."""

from collections.abc import Sequence
from typing import Any

from refinery.records import Example, Outcome
from refinery.rowops import Fallback, give_up, settle


def candidates_of(example: Example) -> tuple[str, ...]:
    """The candidates, or the response where there are none."""
    return example.candidates or (example.response,)


def sift(
    example: Example,
    reasons: Sequence[str | None],
    scores: dict[str, Any],
    fallback: Fallback,
    reason: str = "ok",
) -> Outcome:
    """The outcome, given for each candidate the reason why it does not pass, or None.

    Those that pass stay in their order. Where none does, the reason is that of the first candidate, which was the best
    until then. `reasons` and `winner` (an index, or None) join the scores.
    """
    candidates = candidates_of(example)
    passed = [i for i, why in enumerate(reasons) if why is None]
    scores = {**scores, "reasons": list(reasons), "winner": passed[0] if passed else None}
    if not passed:
        return give_up(example, fallback, reasons[0] or "", scores)
    return settle(example, candidates[passed[0]], [candidates[i] for i in passed], scores, reason)


def within(value: float | None, low: float | None, high: float | None) -> int:
    """-1 below `low`, 1 above `high`, else 0; a bound that is None does not bind, and an unknown value passes."""
    if value is None:
        return 0
    return -1 if low is not None and value < low else int(high is not None and value > high)


def ordered(low: float | None, high: float | None, name: str) -> None:
    """ValueError where nothing can lie between two bounds."""
    if low is not None and high is not None and low > high:
        raise ValueError(f"min_{name} {low:g} is above max_{name} {high:g}: nothing would pass")
