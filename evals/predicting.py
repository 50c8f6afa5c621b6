"""Does a cheap measure foretell forgetting? Of every trained checkpoint: what it forgot, beside what was measured on it
or on its data, regressed and ranked.

Two questions are kept apart. What was measured on the trained model (forward KL) may explain forgetting; what was
measured on the refined data alone, before anything was trained, may forecast it. Runs of one method share its data, so
a forecast is scored over methods (`ranked` on their means) and leave-one-out leaves out whole methods as well.
"""

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import optimize
from scipy import stats as distributions

from evals.panels import BASE, load
from refinery.looking import latest
from refinery.spec import SOURCE, Spec
from refinery.store import Row, Store

ON_MODEL = ("forward_kl", "reverse_kl", "forward_kl_sequence", "reverse_kl_sequence")
"""Measured on the trained model (trainers/probes.py), at the last probe."""

ON_DATA = ("nll", "nll_change", "length_shift", "embedding_to_own", "embedding_moved")
"""Measured on what it was trained on (refinery/diagnostics), before training:

    nll               nats a token that the base needs for the answers
    nll_change        that, against the raw answers
    length_shift      |log of the ratio of mean lengths|, in words, against the raw answers
    embedding_to_own  MMD² between the answers and the base's own
    embedding_moved   1 - mean cosine of raw and refined answers
"""


@dataclass(frozen=True, slots=True)
class Observation:
    """One trained checkpoint."""

    method: str
    seed: int
    forgotten: float
    """General mean of the base minus its own, as a fraction: above 0 is forgetting."""
    measures: dict[str, float]
    """Those of ON_MODEL and ON_DATA that are known."""


@dataclass(frozen=True, slots=True)
class Fit:
    """forgotten = intercept + slopes · measures, by least squares over runs."""

    measures: tuple[str, ...]
    n: int
    groups: int
    """Methods among the runs. With few of them R² speaks of these methods alone."""
    intercept: float
    slopes: tuple[float, ...]
    r2: float
    low: float
    high: float
    """95% interval of R² (noncentral F, measures taken as given; as if runs were independent)."""
    p: float
    """Of all slopes being zero."""
    r2_left_out: float
    """Share of variance foretold for each run by the others: below 0 is worse than their mean."""
    r2_group_left_out: float
    """The same, leaving out all runs of a method at once. NaN for fewer than three methods."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """Agreement of two rankings."""

    n: int
    spearman: float
    kendall: float
    p: float
    """Two-sided, of a Spearman correlation this far from 0 if the order were chance: exact up to 8, else by
    permutation."""


def regress(
    measures: Mapping[str, Sequence[float]], outcome: Sequence[float], groups: Sequence[Hashable] | None = None
) -> Fit | None:
    """`measures`: name to one value a run. None where there are too few runs (two more than slopes and intercept are
    needed) or a measure, or the outcome, does not vary."""
    names = tuple(measures)
    y = np.asarray(outcome, dtype=float)
    x = np.column_stack([np.ones(len(y)), *(np.asarray(measures[name], dtype=float) for name in names)])
    n, k = x.shape
    labels = list(range(n)) if groups is None else list(groups)
    if n < k + 2 or np.linalg.matrix_rank(x) < k or np.ptp(y) == 0:
        return None
    weights = np.linalg.lstsq(x, y, rcond=None)[0]
    total = float(((y - y.mean()) ** 2).sum())
    r2 = 1 - float(((y - x @ weights) ** 2).sum()) / total
    f = r2 / (k - 1) / ((1 - r2) / (n - k)) if r2 < 1 else math.inf
    return Fit(
        names,
        n,
        len(set(labels)),
        float(weights[0]),
        tuple(map(float, weights[1:])),
        r2,
        *r2_interval(r2, n, k - 1),
        float(distributions.f.sf(f, k - 1, n - k)),
        _left_out(x, y, list(range(n))),
        _left_out(x, y, labels) if len(set(labels)) >= 3 else math.nan,
    )


def r2_interval(r2: float, n: int, slopes: int, confidence: float = 0.95) -> tuple[float, float]:
    """Of the share of variance explained: all noncentralities under which so high (low) an F is not too rare
    (Steiger & Fouladi 1992)."""
    if r2 >= 1:
        return 1.0, 1.0
    df, half = n - slopes - 1, (1 - confidence) / 2
    f = r2 / slopes / ((1 - r2) / df)

    def end(share: float) -> float:
        def gap(noncentrality: float) -> float:
            return float(distributions.ncf.cdf(f, slopes, df, noncentrality)) - share

        if float(distributions.f.cdf(f, slopes, df)) <= share:
            return 0.0
        high = 1.0
        while gap(high) > 0 and high < 1e7:
            high *= 2
        noncentrality = optimize.brentq(gap, 1e-12, high)
        return float(noncentrality / (noncentrality + n))

    return end(1 - half), end(half)


def _left_out(x: np.ndarray, y: np.ndarray, labels: Sequence[Hashable]) -> float:
    """1 - (squared errors of foretelling each run without its label's runs) / (the same by the others' mean)."""
    missed = base = 0.0
    marks = np.array([{label: at for at, label in enumerate(dict.fromkeys(labels))}[label] for label in labels])
    for mark in np.unique(marks):
        rest = marks != mark
        if rest.sum() < x.shape[1] or np.linalg.matrix_rank(x[rest]) < x.shape[1]:
            return math.nan
        weights = np.linalg.lstsq(x[rest], y[rest], rcond=None)[0]
        missed += float(((y[~rest] - x[~rest] @ weights) ** 2).sum())
        base += float(((y[~rest] - y[rest].mean()) ** 2).sum())
    return 1 - missed / base if base else math.nan


def ranked(forecast: Sequence[float], outcome: Sequence[float], draws: int = 20_000, seed: int = 0) -> Ranked | None:
    """None for fewer than three pairs, or where one side is all ties."""
    x, y = (distributions.rankdata(np.asarray(side, dtype=float)) for side in (forecast, outcome))
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    a, b = ((side - side.mean()) / side.std() / math.sqrt(len(side)) for side in (x, y))
    rho = float(a @ b)
    if len(x) <= 8:
        orders = np.array(list(itertools.permutations(range(len(x)))))
        extreme = np.abs(a[orders] @ b) >= abs(rho) - 1e-12
        p = float(extreme.mean())
    else:
        rng = np.random.default_rng(seed)
        extreme = np.abs(rng.permuted(np.tile(a, (draws, 1)), axis=1) @ b) >= abs(rho) - 1e-12
        p = (1 + float(extreme.sum())) / (1 + draws)
    return Ranked(len(x), rho, float(distributions.kendalltau(x, y).statistic), p)


@dataclass(frozen=True)
class Predictions:
    observations: list[Observation]
    explained: dict[str, Fit]
    """Measure to its fit, over all runs that have it; "all of the model" and "all of the data" take several."""
    forecast: dict[str, Ranked]
    """Measure of ON_DATA to its rank correlation over methods with what they then forgot."""
    notes: list[str] = field(default_factory=list)


def predictions(observations: Sequence[Observation]) -> Predictions:
    """Every question that the observations allow; what they do not is noted."""
    explained, forecast, notes = {}, {}, []
    for name in (*ON_MODEL, *ON_DATA):
        known = [each for each in observations if name in each.measures]
        if not known:
            continue
        fit = _fit((name,), known)
        if fit is None:
            notes.append(f"{name}: too few runs, or none that differ, to regress on ({len(known)})")
        else:
            explained[name] = fit
        if name in ON_DATA:
            found = _by_method(known, name)
            if found is None:
                notes.append(f"{name}: a forecast needs three methods whose data differ in it")
            else:
                forecast[name] = found
    for label, names in (("all of the model", ON_MODEL[:2]), ("all of the data", ON_DATA)):
        there = tuple(name for name in names if name in explained)
        known = [each for each in observations if all(name in each.measures for name in there)]
        fit = _fit(there, known) if len(there) > 1 else None
        if fit is not None:
            explained[label] = fit
    return Predictions(list(observations), explained, forecast, notes)


def _fit(names: Sequence[str], known: Sequence[Observation]) -> Fit | None:
    measures = {name: [each.measures[name] for each in known] for name in names}
    return regress(measures, [each.forgotten for each in known], [each.method for each in known])


def _by_method(known: Sequence[Observation], name: str) -> Ranked | None:
    """Over the means of each method's runs."""
    methods = list(dict.fromkeys(each.method for each in known))
    own = [[each for each in known if each.method == method] for method in methods]
    forecast = [float(np.mean([each.measures[name] for each in some])) for some in own]
    return ranked(forecast, [float(np.mean([each.forgotten for each in some])) for some in own])


# ---- from the store


def collect(store: Store, spec: Spec) -> tuple[list[Observation], list[str]]:
    """An observation for every final checkpoint with a comparable score on every general benchmark; and notes."""
    if spec.train is None or spec.evaluate is None or not spec.evaluate.general:
        return [], ["the spec trains nothing or names no general benchmarks"]
    complete = [row for row in store.checkpoints() if row["status"] == "complete"]
    if spec.point.keys:  # of a matrix: other points have methods and seeds of the same names
        own = {cell["checkpoint"] for cell in store.cells(spec.point.id)}
        complete = [row for row in complete if row["role"] == "base" or row["fingerprint"] in own]
    finals = [row for row in complete if row["role"] == "final" and row["name"] in spec.train.methods]
    bases = [row for row in complete if row["role"] == "base"]
    if not finals or not bases:
        return [], ["nothing is trained, or the base is not evaluated"]
    names = {f"{row['name']}\t{row['seed']}": row for row in finals}
    loaded = load(
        store,
        base=bases[-1]["fingerprint"],
        methods={name: [row["fingerprint"]] for name, row in names.items()},
        domain=[],
        general=spec.evaluate.general,
    )
    on_data = _data_measures(store, spec)
    found, notes = [], [note.replace("\t", " seed ") for note in loaded.notes]
    for name, row in names.items():
        if loaded.found and all(name in panel.values for panel in loaded.found):
            lost = [float(panel.values[BASE].mean() - panel.values[name].mean()) for panel in loaded.found]
            data = spec.train.methods[row["name"]].data or spec.train.data
            measures = {**_model_measures(store, row), **on_data.get(data, {})}
            found.append(Observation(row["name"], row["seed"], float(np.mean(lost)), measures))
    return found, notes


def _model_measures(store: Store, row: Row) -> dict[str, float]:
    last = {each["name"]: each["value"] for each in store.training_metrics(row["fingerprint"])}  # in order of steps
    return {name: float(last[name]) for name in ON_MODEL if last.get(name) is not None}


def _data_measures(store: Store, spec: Spec) -> dict[str, dict[str, float]]:
    """Step name to the measures of its rows against the raw answers; the source's are those of the raw side."""
    found: dict[str, dict[str, float]] = {}
    for step in latest(store, [SOURCE, *spec.graph]):
        rows = {row["name"]: row["value"] for row in store.diagnostics(step["fingerprint"]) if row["value"] is not None}
        if not rows:
            continue
        ratio = rows.get("words_ratio")
        sides = {
            "nll": (rows.get("nll_raw"), rows.get("nll_refined")),
            "nll_change": (0.0, rows.get("nll_change")),
            "length_shift": (0.0, abs(math.log(ratio)) if ratio else None),
            "embedding_to_own": (rows.get("own_mmd2_raw"), rows.get("own_mmd2_refined")),
            "embedding_moved": (0.0, 1 - rows["cosine_mean"] if "cosine_mean" in rows else None),
        }
        for name, (raw, refined) in sides.items():
            if refined is not None:
                found.setdefault(step["name"], {})[name] = float(refined)
                if raw is not None:
                    found.setdefault(SOURCE, {}).setdefault(name, float(raw))
    return found
