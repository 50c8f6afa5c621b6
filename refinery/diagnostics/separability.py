"""Can a classifier tell the sides apart? A two-sample test that needs no idea of what differs (Lopez-Paz, Oquab 2017).

Area under the ROC curve of a logistic regression on words and word pairs, cross-validated: 0.5 means that it cannot.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from refinery.diagnostics._numbers import Meanings, Row, missing_extra, row, t_975, wilson
from refinery.diagnostics._pairs import Pairs

VERSION = 1
NEEDS, USES, LIBRARIES = (), ("own",), ("sklearn",)

LIMIT = 1000
FOLDS = 5
LEAST = 20
"""Pairs below which a classifier has nothing to learn from."""

MEANINGS: Meanings = {
    "raw_refined": ("AUC, raw against refined", "0.5 cannot tell them apart, 1 always can."),
    "own_raw": ("AUC, raw against the model's own", "0.5: raw answers read like the model's own."),
    "own_refined": ("AUC, refined against the model's own", "Nearer to 0.5 than raw's: more its own manner."),
}


def measure(pairs: Pairs, *, own: Any = None, seed: int = 0) -> list[Row]:
    """Rows of the family "separability": raw_refined and, with the base model's `own` answers, own_raw, own_refined.

    Both texts of a pair stand in the same fold, so that a shared subject is no clue. The value is the mean of the
    folds' areas; its interval takes pairs as the independent units (the influence function of the area, DeLong et al.
    1988, summed within pairs). The words that weigh most for each side are in the detail.
    """
    chosen = pairs.sample(LIMIT, seed)
    rows = [_row("raw_refined", [p.raw for p in chosen], [p.refined for p in chosen], seed)]
    if own is not None:
        asked = [p for p in chosen if p.id in own.texts]
        texts = [own.texts[p.id] for p in asked]
        rows.append(_row("own_raw", texts, [p.raw for p in asked], seed))
        rows.append(_row("own_refined", texts, [p.refined for p in asked], seed))
    return rows


def _row(name: str, zeros: list[str], ones: list[str], seed: int) -> Row:
    n = len(zeros)
    if missing := missing_extra("sklearn"):
        return row("separability", name, None, n, note=missing)
    if n < LEAST:
        return row("separability", name, None, n, note=f"needs {LEAST} pairs")
    fold = np.random.default_rng(seed).permutation(n) % FOLDS
    try:
        scores = _scores(zeros, ones, fold)
        words = _telling(zeros, ones)
    except ValueError as error:  # no word left in any text
        return row("separability", name, None, n, note=f"no words to learn from ({error})")
    value, influence = areas(*scores, fold)
    half = t_975(n - 1) * float(np.std(influence, ddof=1)) / n**0.5
    interval = (max(0.0, value - half), min(1.0, value + half))
    if half < 1e-9:  # told apart every time: no spread to estimate from, but not certainty either
        interval = wilson(value * n, n)
    return row("separability", name, value, n, interval, words=words)


def areas(zeros: np.ndarray, ones: np.ndarray, fold: np.ndarray) -> tuple[float, np.ndarray]:
    """(mean area over folds, each pair's influence on it) of scores (n,) of the two sides and their folds (n,).

    Within a fold the area is the share of (zero, one) combinations in order, ties counted half; a pair moves it by the
    shares that its own two scores are part of, centred.
    """
    influence, total = np.zeros(len(zeros)), 0.0
    for each in np.unique(fold):
        at = np.flatnonzero(fold == each)
        a, b = zeros[at], ones[at]
        above = (_share_below(np.sort(a), b), 1 - _share_below(np.sort(b), a))
        area = float(above[0].mean())
        total += area * len(at) / len(zeros)
        influence[at] = (above[0] - area) + (above[1] - area)
    return total, influence


def _share_below(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
    both = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    return both / (2 * len(ordered))


def _features(texts: Sequence[str]) -> tuple[Any, Any]:
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), min_df=2, max_features=20_000, sublinear_tf=True)
    return vectorizer, vectorizer.fit_transform(texts)


def _scores(zeros: list[str], ones: list[str], fold: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Decision values of each text by a classifier that saw neither it nor the other text of its pair."""
    from sklearn.linear_model import LogisticRegression

    found = np.zeros(len(zeros)), np.zeros(len(ones))
    for each in np.unique(fold):
        out, rest = np.flatnonzero(fold == each), np.flatnonzero(fold != each)
        vectorizer, features = _features([zeros[i] for i in rest] + [ones[i] for i in rest])
        model = LogisticRegression(max_iter=1000).fit(features, np.repeat([0, 1], len(rest)))
        for side, texts in zip(found, (zeros, ones), strict=True):
            side[out] = model.decision_function(vectorizer.transform([texts[i] for i in out]))
    return found


def _telling(zeros: list[str], ones: list[str]) -> list[list[str]]:
    """The eight words or word pairs that weigh most for each side."""
    from sklearn.linear_model import LogisticRegression

    vectorizer, features = _features([*zeros, *ones])
    model = LogisticRegression(max_iter=1000).fit(features, np.repeat([0, 1], len(zeros)))
    names, order = vectorizer.get_feature_names_out(), np.argsort(model.coef_[0], kind="stable")
    sides = [i for i in order[:8] if model.coef_[0][i] < 0], [i for i in order[::-1][:8] if model.coef_[0][i] > 0]
    return [[str(names[i]) for i in side] for side in sides]
