"""Figures of panels, each paired: the same items, seeds side by side, with an interval over both (evals/stats)."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from evals import stats
from evals.panels import BASE, Panel, clusters
from evals.stats import Block


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95% interval. `value` is NaN where it cannot be estimated, and `note` then says why."""

    value: float
    low: float
    high: float
    n_items: int
    n_seeds: int
    """Training runs behind it; over several stores their sum."""
    note: str = ""
    p: float = math.nan
    """Two-sided p value of its being zero, where that is a question."""
    detectable: float = math.nan
    """Of a difference: the smallest true one that this comparison finds in four cases of five."""
    p_worse: float = math.nan
    """Of `vs_base`: one-sided p value of being worse by the margin or more. Small is proof of "did not forget"."""

    @property
    def estimable(self) -> bool:
        return not math.isnan(self.value)


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a - b


def as_they_are(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(…, 2): what a ratio's numerator and denominator are the means of."""
    return np.stack([a, b], axis=-1)


def over_baseline(method: np.ndarray, base: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """(…, 2): what the method kept, and what the baseline lost."""
    return np.stack([method - baseline, base - baseline], axis=-1)


def rows(panel: Panel, names: Sequence[str]) -> list[np.ndarray]:
    """Scores of several arms, (seeds, items) each: as many seeds as all have; the base's one row beside each."""
    seeds = min((len(panel.values[name]) for name in names if name != BASE), default=1)
    return [np.broadcast_to(panel.values[name][:seeds], (seeds, len(panel.items))) for name in names]


def _blocks(panels: Sequence[Panel], names: Sequence[str], combine: Callable[..., np.ndarray]) -> list[Block]:
    times = Counter(panel.benchmark for panel in panels)
    found = []
    for panel in panels:
        values, labels = combine(*rows(panel, names)), clusters(panel.items)
        weight = 1 / (len(times) * times[panel.benchmark])
        values = stats.by_cluster(values, labels) if labels else values
        found.append(Block(values, runs=panel.runs, items=panel.items, weight=weight))
    return found


def mean(
    panels: Sequence[Panel],
    names: Sequence[str],
    combine: Callable[..., np.ndarray],
    seed: int,
    missing: str = "",
    margin: float | None = None,
) -> Estimate:
    """Of `combine` of the arms' scores, each (seeds, items), every panel's benchmark counting the same. One method with
    one seed on right or wrong has a Wilson interval. `missing`: why there can be none."""
    if missing:
        return _not_estimable(panels, names, missing)
    found = stats.crossed(_blocks(panels, names, combine), seed=seed)
    low, high = found.low, found.high
    if len(names) == len(panels) == 1 and len(panels[0].values[names[0]]) == 1 and _binary(panels[0].values[names[0]]):
        low, high = stats.wilson(panels[0].values[names[0]].sum(), len(panels[0].items))
    p, least = (found.p, stats.detectable_by(found)) if len(names) > 1 else (math.nan, math.nan)
    worse = math.nan if margin is None else stats.noninferiority(found, margin)
    return Estimate(found.value, low, high, _items(panels), runs(panels, names), _few(panels, names), p, least, worse)


def ratio(
    panels: Sequence[Panel],
    names: Sequence[str],
    combine: Callable[..., np.ndarray],
    below: str,
    missing: str = "",
) -> Estimate:
    """Of the two columns that `combine` gives, a ratio of their means; `below` names the second, which has to be told
    from 0 for it to be estimable."""
    if missing:
        return _not_estimable(panels, names, missing)
    blocks = _blocks(panels, names, combine)
    found = stats.crossed_ratio(blocks)
    if not found.bounded:
        return _not_estimable(panels, names, f"not estimable: {below} cannot be told from 0")
    if sum(block.weight * block.values[..., 1].mean() for block in blocks) < 0:
        return _not_estimable(panels, names, f"not estimable: {below} is negative")
    return Estimate(found.value, found.low, found.high, _items(panels), runs(panels, names), _few(panels, names))


def mean_of_ratios(panels: Sequence[Panel], name: str, baseline: str, seed: int, missing: str) -> Estimate:
    """Mean over panels of (M - S) / S. Its interval is the delta method's: each score's pull on its own ratio."""

    def pull(method: np.ndarray, reference: np.ndarray) -> np.ndarray:
        ratio = method.mean() / reference.mean()
        return ratio - 1 + (method - ratio * reference) / reference.mean()

    each = [ratio([panel], [name, baseline], as_they_are, "the baseline's score", missing) for panel in panels]
    for panel, found in zip(panels, each, strict=True):
        if not found.estimable:
            where = "" if len(panels) == 1 else f" on {panel.benchmark}"
            return _not_estimable(panels, [name, baseline], found.note + where)
    if len(panels) == 1:
        return replace(each[0], value=each[0].value - 1, low=each[0].low - 1, high=each[0].high - 1)
    return replace(mean(panels, [name, baseline], pull, seed), p=math.nan)


def vs_best(panels: Sequence[Panel], name: str, best: str, margin: float, seed: int) -> Estimate:
    """`name` minus `best`; p is one-sided, of being worse by the margin or more."""
    if name == best:
        return Estimate(0.0, 0.0, 0.0, _items(panels), runs(panels, [name]), "this is the best", 0.0)
    found = stats.crossed(_blocks(panels, [name, best], difference), seed=seed)
    p = stats.noninferiority(found, margin)
    return Estimate(found.value, found.low, found.high, _items(panels), runs(panels, [name, best]), "", p)


def level(panels: Sequence[Panel], name: str) -> float:
    """The mean that `mean` gives, without its interval."""
    return float(stats.moments(_blocks(panels, [name], lambda m: m)).estimate[0])


def _binary(values: np.ndarray) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())


def _items(panels: Sequence[Panel]) -> int:
    return sum(len(items) for items in {panel.items for panel in panels})


def runs(panels: Sequence[Panel], names: Sequence[str]) -> int:
    """Training runs behind an estimate: the seeds that all of `names` have, summed over stores."""
    known = [name for name in names if name != BASE and all(name in panel.values for panel in panels)]
    seeds = {panel.runs: min((len(panel.values[name]) for name in known), default=1) for panel in panels}
    return sum(seeds.values())


def _few(panels: Sequence[Panel], names: Sequence[str]) -> str:
    trained = any(name != BASE for name in names)
    return "one seed: the interval speaks of items alone" if trained and runs(panels, names) == 1 else ""


def _not_estimable(panels: Sequence[Panel], names: Sequence[str], why: str) -> Estimate:
    return Estimate(math.nan, math.nan, math.nan, _items(panels), runs(panels, names), why)
