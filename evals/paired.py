"""Figures of panels, each paired: the same items, seeds side by side, with an interval over both (evals/stats)."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
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
    """Scores of several arms, (seeds, items) each: the seeds that all have; the base's one row beside each."""
    trained = [name for name in names if name != BASE]
    places = dict(zip(trained, panel.shared(trained), strict=True))
    seeds = len(places[trained[0]]) if trained else 1
    taken = [panel.values[name][places[name]] if name in places else panel.values[name] for name in names]
    return [np.broadcast_to(x, (seeds, len(panel.items))) for x in taken]


def _blocks(panels: Sequence[Panel], names: Sequence[str], combine: Callable[..., np.ndarray]) -> list[Block]:
    times = Counter(panel.benchmark for panel in panels)
    found: list[Block] = []
    for panel in panels:
        weight = 1 / (len(times) * times[panel.benchmark])
        if _unpaired(panel, names):
            found += _sides(panel, names, combine, weight)
        else:
            found.append(block(panel, combine(*rows(panel, names)), weight))
    return found


def _sides(panel: Panel, names: Sequence[str], combine: Callable[..., np.ndarray], weight: float) -> Iterator[Block]:
    """Of methods without a common seed: each one's part of a linear `combine`, with all its runs, on shared items."""
    trained = [name for name in names if name != BASE]
    for own in trained:
        there = (own, BASE) if own == trained[0] else (own,)
        shape = panel.values[own].shape
        parts = [np.broadcast_to(panel.values[n], shape) if n in there else np.zeros(shape) for n in names]
        side = block(panel, combine(*parts), weight)
        yield replace(side, runs=(panel.runs, own), shows_changes=own == trained[0])


def _unpaired(panel: Panel, names: Sequence[str]) -> bool:
    trained = [name for name in names if name != BASE and name in panel.values]
    return len(trained) > 1 and not panel.shared(trained)[0]


def block(panel: Panel, values: np.ndarray, weight: float = 1.0) -> Block:
    """Of figures made from the panel's scores, (seeds, items[, k])."""
    return Block(values, runs=panel.runs, items=panel.items, weight=weight, clusters=clusters(panel.items))


def mean(
    panels: Sequence[Panel],
    names: Sequence[str],
    combine: Callable[..., np.ndarray],
    seed: int,
    missing: str = "",
    margin: float | None = None,
) -> Estimate:
    """Of `combine` of the arms' scores, each (seeds, items), every panel's benchmark counting the same. One method with
    one seed on right or wrong has a Wilson interval, unless items share a context. `missing`: why there can be none."""
    if missing:
        return _not_estimable(panels, names, missing)
    found = stats.crossed(_blocks(panels, names, combine), seed=seed)
    low, high = found.low, found.high
    if len(names) == len(panels) == 1 and _one_run_of_items(panels[0], names[0]):
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
        if len(panels) > 1 and _unpaired(panel, [name, baseline]):
            return _not_estimable(panels, [name, baseline], f"not estimable: {UNPAIRED}")
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


def _one_run_of_items(panel: Panel, name: str) -> bool:
    """Whether its scores are one right or wrong an item, each item for itself."""
    values = panel.values[name]
    return len(values) == 1 and bool(np.isin(values, (0.0, 1.0)).all()) and clusters(panel.items) is None


def _items(panels: Sequence[Panel]) -> int:
    return sum(len(items) for items in {panel.items for panel in panels})


def runs(panels: Sequence[Panel], names: Sequence[str]) -> int:
    """Training runs behind an estimate: the seeds that all of `names` have, summed over stores; of methods without a
    common seed those of the one that has fewest."""
    known = [name for name in names if name != BASE and all(name in panel.values for panel in panels)]
    seeds = {panel.runs: 1 for panel in panels}
    for panel in panels if known else ():
        seeds[panel.runs] = len(panel.shared(known)[0]) or min(len(panel.values[name]) for name in known)
    return sum(seeds.values())


UNPAIRED = "the methods have no seed in common"


def pairing(panels: Sequence[Panel], one: str, other: str) -> str:
    """What has to be said of the runs behind a difference of two methods; "" where all are paired."""
    for panel in panels:
        if one in panel.values and other in panel.values:
            shared, most = len(panel.shared([one, other])[0]), max(len(panel.values[name]) for name in (one, other))
            if not shared:
                return f"{one} and {other} have no seed in common: their difference is one of means, not paired by seed"
            if shared < most:
                return f"{one} and {other} differ in seeds: their difference is on the {shared} that both have"
    return ""


def _few(panels: Sequence[Panel], names: Sequence[str]) -> str:
    trained = any(name != BASE for name in names)
    alone = trained and runs(panels, names) == 1
    if any(_unpaired(panel, names) for panel in panels):
        fewest = ", and the interval does not know how trainings of one of them differ" if alone else ""
        return f"{UNPAIRED}{fewest}"
    return "one seed: the interval speaks of items alone" if alone else ""


def _not_estimable(panels: Sequence[Panel], names: Sequence[str], why: str) -> Estimate:
    return Estimate(math.nan, math.nan, math.nan, _items(panels), runs(panels, names), why)
