"""Is what refining made still right? Answers, numbers and names against the reference, and what gates let through."""

from typing import Any

import numpy as np

from refinery.checks import SLOW, names, numbers
from refinery.diagnostics._numbers import Meanings, Row, mean_row, row, share_row, side_rows, wilson
from refinery.diagnostics._pairs import Pairs

VERSION = 2
NEEDS, USES, LIBRARIES = (), ("reference", "gates"), ()

LIMIT = 5000
"""Pairs checked at most."""
SLOW_LIMIT = 2000
"""The same for rules that may take their time (refinery/checks)."""

MEANINGS: Meanings = {
    "fell_back": ("rows that fell back to the raw answer", "Many: the writer or the gates are too strict for it."),
    "answer_raw": ("raw answers that agree with the reference", "Below 1 only where the reference is a bare answer."),
    "answer_refined": ("refined answers that agree with the reference", "What is missing is taught as wrong answers."),
    "answer_change": ("agreement with the reference, change", "Below 0: refining broke right answers."),
    "numbers_kept": ("raw numbers that are kept", "What is missing was dropped or changed."),
    "numbers_made_up": ("refined numbers that the raw answer lacks", "Worked steps add some; else they are made up."),
    "names_kept": ("raw names and quotes that are kept", "What is missing was dropped or changed."),
    "names_made_up": ("refined names that the raw answer lacks", "High: details that nobody gave."),
    "false_accepts": ("of candidates let through, wrong", "Raise the threshold where this is high."),
    "false_rejects": ("of candidates refused, right", "Lower the threshold where this is high."),
}


def measure(pairs: Pairs, *, reference: Any = None, gates: Any = None, seed: int = 0) -> list[Row]:
    """Rows of the family "quality".

    fell_back. numbers_kept, numbers_made_up, names_kept, names_made_up: mean shares over the pairs that
    have any (refinery/checks says what counts as a number or a name). With a `reference` (the spec's way to check an
    answer): the share of either side that agrees with it, and the paired change. With `gates`: of each gate's
    candidates, false_accepts:<step> (wrong ones among those let through) and false_rejects:<step> (right ones among
    those refused), where right is what the reference rule says. fell_back and gates are of all rows only.
    """
    rows = []
    if not pairs.is_part:
        count, n = pairs.fell_back, len(pairs)
        rows.append(row("quality", "fell_back", count / n if n else None, n, wilson(count, n)))
        rows += [each for gate in (gates.judged if gates is not None else ()) for each in _gate_rows(*gate)]
    chosen = pairs.sample(LIMIT, seed)
    for name, shares in (("numbers", _numbers), ("names", names.shares)):
        found = np.array([shares(p.refined, p.raw) for p in chosen], dtype=np.float64).reshape(-1, 2)
        note = {"note": f"no pair has {name} to compare"}
        rows.append(mean_row("quality", f"{name}_kept", found[:, 0], **note))
        rows.append(mean_row("quality", f"{name}_made_up", 1 - found[:, 1], **note))
    if reference is not None:
        if reference.check.kind in SLOW:
            chosen = pairs.sample(SLOW_LIMIT, seed)
        verdicts = [[reference.agrees(text, p.reference) for text in (p.raw, p.refined)] for p in chosen]
        known = np.array([both for both in verdicts if None not in both], dtype=bool).reshape(-1, 2)
        rows += side_rows("quality", "answer", known[:, 0], known[:, 1], rule=reference.check.kind)
    return rows


def _gate_rows(step: str, param: str, threshold: float, verdicts: list[tuple[bool, bool]]) -> list[Row]:
    known = np.array(verdicts, dtype=bool).reshape(-1, 2)
    passed, right = known[:, 0], known[:, 1]
    detail = {"gate": f"{param} {threshold:g}"}
    return [
        share_row("quality", f"false_accepts:{step}", ~right[passed], **detail),
        share_row("quality", f"false_rejects:{step}", right[~passed], **detail),
    ]


def _numbers(candidate: str, reference: str) -> tuple[float | None, float | None]:
    return numbers.shares(candidate, reference, 0.0)
