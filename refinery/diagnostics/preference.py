"""Who prefers which side, asked blind: raw against refined, the order hidden and turned round, ties allowed.

What people said and what models said are never added up: a model's preference is a model's.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from refinery.diagnostics._numbers import Interval, Meanings, Row, row, wilson
from refinery.diagnostics._pairs import Pairs
from refinery.records import digest

VERSION = 1
NEEDS, USES, LIBRARIES = ("labels",), (), ()

CHOICES = ("raw", "refined", "tie")
DRAWS = 1000

MEANINGS: Meanings = {
    f"{kind}_{name}": (f"{what} ({words})", read)
    for kind, words in (("human", "people"), ("model", "judge models"))
    for name, what, read in (
        ("wins", "refined preferred, of rows decided", "0.5 no preference; the interval must clear it."),
        ("ties", "rows judged a tie", "Undecided rows, those judged differently when swapped included."),
        ("consistency", "judgements that stand when swapped", "Low: the order decides, not the answers."),
        ("kappa", "agreement of raters beyond chance", "1 full, 0 chance; below 0.4 preferences are shaky."),
    )
}


def texts_digest(raw: str, refined: str) -> str:
    """Names what was judged, so that a judgement of texts that have changed since does not count."""
    return digest([raw, refined])


class Labels:
    """Judgements as the store has them (`Store.preferences`)."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]):
        self.rows = rows
        keys = ("example_id", "rater", "kind", "first", "choice", "texts", "model")
        self.identity = digest([[row[key] for key in keys] for row in rows])


def measure(pairs: Pairs, *, labels: Labels) -> list[Row]:
    """Rows of the family "preference", human_... and model_... where there are any.

    A rater's verdict on a row is what both orders agree on, a tie where they differ, or the one order's choice where
    only one was judged; several raters' verdicts make the row's by majority. wins: of rows decided, the share for
    refined, Wilson interval. ties: share of rows. consistency: of rows a rater judged in both orders, the share judged
    alike. kappa: Cohen's for two raters, Fleiss's for more, on the rows that all of them judged; bootstrap interval.
    """
    wanted = {label["example_id"] for label in labels.rows}
    texts = {pair.id: texts_digest(pair.raw, pair.refined) for pair in pairs if pair.id in wanted}
    rows = []
    for kind in ("human", "model"):
        own = [r for r in labels.rows if r["kind"] == kind and texts.get(r["example_id"]) == r["texts"]]
        if own:
            rows += _kind_rows(kind, own)
    return rows


def _kind_rows(kind: str, labels: Sequence[Mapping[str, Any]]) -> list[Row]:
    orders: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for label in labels:
        orders[label["example_id"], label["rater"]][label["first"]] = label["choice"]
    verdicts: dict[str, dict[str, str]] = defaultdict(dict)
    for (example_id, rater), by_order in orders.items():
        told = set(by_order.values())
        verdicts[example_id][rater] = told.pop() if len(told) == 1 else "tie"
    raters = sorted({label["rater"] for label in labels})
    models = sorted({label["model"] for label in labels if label["model"]})
    by_row = Counter(majority(list(each.values())) for each in verdicts.values())
    decided, n = by_row["raw"] + by_row["refined"], len(verdicts)
    detail = {"raters": raters, "models": models, **{choice: by_row[choice] for choice in CHOICES}}
    twice = [set(by_order.values()) for by_order in orders.values() if len(by_order) == 2]
    same = sum(len(told) == 1 for told in twice)
    return [
        row("preference", f"{kind}_wins", by_row["refined"] / decided if decided else None, decided,
            wilson(by_row["refined"], decided), **detail),
        row("preference", f"{kind}_ties", by_row["tie"] / n, n, wilson(by_row["tie"], n)),
        row("preference", f"{kind}_consistency", same / len(twice) if twice else None, len(twice),
            wilson(same, len(twice))),
        _kappa_row(kind, verdicts, raters),
    ]  # fmt: skip


def majority(verdicts: Sequence[str]) -> str:
    """The side with more votes; a tie where neither has."""
    votes = Counter(verdicts)
    if votes["raw"] == votes["refined"]:
        return "tie"
    return "raw" if votes["raw"] > votes["refined"] else "refined"


def _kappa_row(kind: str, verdicts: Mapping[str, Mapping[str, str]], raters: Sequence[str]) -> Row:
    name = f"{kind}_kappa"
    if len(raters) < 2:
        return row("preference", name, None, 0, note="needs two raters")
    full = [[each[rater] for rater in raters] for each in verdicts.values() if len(each) == len(raters)]
    table = np.array([[CHOICES.index(choice) for choice in each] for each in full], dtype=int).reshape(-1, len(raters))
    value = kappa(table)
    if value is None:
        return row("preference", name, None, len(table), note="the raters used one answer only, or share no row")
    return row("preference", name, value, len(table), _bootstrap(table), kind="Cohen" if len(raters) == 2 else "Fleiss")


def kappa(table: np.ndarray) -> float | None:
    """Of (rows, raters) with the index of each choice: Cohen's (1960) for two raters, Fleiss's (1971) for more. None
    where chance alone would agree always, or there is no row."""
    n, raters = table.shape
    if not n:
        return None
    if raters == 2:
        observed = float(np.mean(table[:, 0] == table[:, 1]))
        shares = [np.bincount(table[:, r], minlength=len(CHOICES)) / n for r in (0, 1)]
        expected = float(shares[0] @ shares[1])
    else:
        counts = np.stack([(table == choice).sum(1) for choice in range(len(CHOICES))], axis=1)
        observed = float(np.mean((np.sum(counts**2, 1) - raters) / (raters * (raters - 1))))
        expected = float(np.sum((counts.sum(0) / (n * raters)) ** 2))
    return None if expected >= 1 else (observed - expected) / (1 - expected)


def _bootstrap(table: np.ndarray) -> Interval:
    rng = np.random.default_rng(0)
    drawn = (kappa(table[rng.integers(0, len(table), len(table))]) for _ in range(DRAWS))
    known = [value for value in drawn if value is not None]
    if len(table) < 2 or not known:
        return None, None
    low, high = np.quantile(known, [0.025, 0.975])
    return float(low), float(high)
