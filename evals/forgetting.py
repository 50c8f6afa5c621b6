"""What a method gained, lost and recovered, against the base model and against a baseline method.

Every figure is paired: the same items, seeds side by side, and an interval over both (evals/stats). Four figures
compete for the name "improvement", and papers mix them up, so each has its own name here. With base B, baseline S
(plain fine-tuning, say) and method M:

    vs_baseline         M - S, in points
    damage_recovered    (M - S) / (B - S), the share of what the baseline lost that the method did not lose
    relative_gain       (M - S) / S, over several benchmarks the mean of their ratios
    pooled_gain         the same as a ratio of sums
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from evals import stats
from evals.comparable import judge
from evals.panels import BASE, Panel, Panels, clusters, load
from evals.stats import Block
from refinery.records import Score
from refinery.store import Store


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


@dataclass(frozen=True, slots=True)
class Effect:
    """One method on one benchmark, or on the unweighted mean of several. Scores and differences are fractions."""

    score: Estimate
    base: Estimate
    vs_base: Estimate
    """Method minus base: the gain on a domain benchmark, the loss (negative) on a general one."""
    vs_baseline: Estimate
    retention: Estimate
    """Method over base."""
    damage_recovered: Estimate
    relative_gain: Estimate
    pooled_gain: Estimate
    within_margin: bool
    """The interval of `vs_base` lies above -margin: what it lost is provably less than the margin."""
    lost: tuple[int, ...] = ()
    """For each run: items that the base scored higher on. Empty for means, as the next two."""
    gained: tuple[int, ...] = ()
    mcnemar: tuple[float, ...] = ()
    """For each run: exact p value of lost and gained being equally likely."""
    p_holm: float = math.nan
    """p of `vs_base` adjusted over all methods and general benchmarks; NaN for domain benchmarks and means."""


@dataclass(frozen=True, slots=True)
class MethodResult:
    """Everything about one method; a mean is None where the method lacks one of its benchmarks."""

    name: str
    n_seeds: int
    domain: dict[str, Effect]
    general: dict[str, Effect]
    domain_mean: Effect | None
    general_mean: Effect | None
    vs_best_domain: Estimate | None
    """Domain mean minus that of the best method; `p` is one-sided, of being worse by the margin or more. The best was
    picked on the same items and so looks a little too good: this errs on the strict side."""
    matches_best_domain: bool
    """The interval of `vs_best_domain` lies above -margin."""
    general_centred: Effect | None = None
    """The general mean with every benchmark centred on chance (0 guessing, 1 perfect), so that a point of a two-way
    choice counts for what it is worth. None where a benchmark's chance is not known or all are 0."""


@dataclass(frozen=True, slots=True)
class Comparison:
    baseline: str
    best_domain: str
    """The method with the highest domain mean; "" where there is none."""
    margin: float
    methods: dict[str, MethodResult]
    notes: list[str] = field(default_factory=list)
    """What was left out, and why."""


def compare(
    store: Store,
    *,
    base: str,
    methods: Mapping[str, Sequence[str]],
    baseline: str,
    domain: Sequence[str],
    general: Sequence[str],
    margin: float = 0.05,
    seed: int = 0,
) -> Comparison:
    """Compare methods within one store. `base` and the lists in `methods` are checkpoint fingerprints, by seed."""
    loaded = load(store, base=base, methods=methods, domain=domain, general=general)
    return compare_panels(loaded, baseline=baseline, margin=margin, seed=seed)


def pool(loaded: Mapping[str, Panels], *, baseline: str, margin: float = 0.05, seed: int = 0) -> Comparison:
    """Compare methods over several stores, say one a domain: a name for each to what `panels.load` gave for it.

    A benchmark that several stores share is averaged over them: its items are one sample, drawn together, while each
    store's seeds are trainings of their own. A store's benchmark that was measured otherwise than the first store's is
    left out with a note.
    """
    panels: list[Panel] = []
    notes = [f"{name}: {note}" for name, each in loaded.items() for note in each.notes]
    first: dict[str, tuple[str, Score]] = {}
    for name, panel in ((name, panel) for name, each in loaded.items() for panel in each.found):
        if panel.like is not None:
            other, like = first.setdefault(panel.benchmark, (name, panel.like))
            if refused := judge(panel.like, like).words:
                notes.append(f"{name}: {panel.benchmark} left out: unlike {other}'s ({refused})")
                continue
        panels.append(replace(panel, runs=name))
    return compare_panels(Panels(panels, notes), baseline=baseline, margin=margin, seed=seed)


def compare_panels(loaded: Panels, *, baseline: str, margin: float = 0.05, seed: int = 0) -> Comparison:
    """`compare` on arrays. In a mean benchmarks count equally, and so do several panels of one benchmark."""
    names = list(dict.fromkeys(name for panel in loaded.found for name in panel.values if name != BASE))
    kinds = {kind: [panel for panel in loaded.found if panel.kind == kind] for kind in ("domain", "general")}
    whole = {kind: [n for n in names if all(n in p.values for p in found)] for kind, found in kinds.items() if found}
    best = max(whole.get("domain", []), key=lambda name: _level(kinds["domain"], name), default="")
    results = {}
    for name in names:
        effects: dict[str, dict[str, Effect]] = {"domain": {}, "general": {}}
        for panel in loaded.found:
            if name in panel.values and panel.benchmark not in effects[panel.kind]:
                same = [p for p in kinds[panel.kind] if p.benchmark == panel.benchmark and name in p.values]
                effects[panel.kind][panel.benchmark] = _effect(same, name, baseline, margin, seed)
        means = {kind: _effect(kinds[kind], name, baseline, margin, seed) for kind in whole if name in whole[kind]}
        vs_best = _vs_best(kinds["domain"], name, best, margin, seed) if "domain" in means else None
        results[name] = MethodResult(
            name=name,
            n_seeds=_runs([panel for panel in loaded.found if name in panel.values], [name]),
            domain=effects["domain"],
            general=effects["general"],
            domain_mean=means.get("domain"),
            general_mean=means.get("general"),
            vs_best_domain=vs_best,
            matches_best_domain=vs_best is not None and vs_best.low > -margin,
            general_centred=_centred(kinds["general"], name, baseline, margin, seed) if "general" in means else None,
        )
    notes = [f"{n}: no {kind} mean, as it lacks a benchmark" for kind in whole for n in names if n not in whole[kind]]
    uneven = {name: results[name].n_seeds for name in names if results[name].n_seeds != results[names[0]].n_seeds}
    notes += [f"{name} has {n} runs, {names[0]} {results[names[0]].n_seeds}" for name, n in uneven.items()]
    return Comparison(baseline, best, margin, _with_holm(results), [*loaded.notes, *notes])


def _effect(panels: Sequence[Panel], name: str, baseline: str, margin: float, seed: int) -> Effect:
    vs_base = _mean(panels, [name, BASE], _difference, seed, margin=margin)
    missing = "" if all(baseline in panel.values for panel in panels) else "the baseline has no score"
    missing = "this is the baseline" if name == baseline else missing
    pooled = _ratio(panels, [name, baseline], _as_they_are, "the baseline's score", missing)
    one = len({panel.benchmark for panel in panels}) == 1
    runs = [pair for panel in panels if one for pair in zip(*_rows(panel, [name, BASE]), strict=True)]
    changes = [(int((base > method).sum()), int((method > base).sum())) for method, base in runs]
    return Effect(
        score=_mean(panels, [name], lambda m: m, seed),
        base=_mean(panels, [BASE], lambda b: b, seed),
        vs_base=vs_base,
        vs_baseline=_mean(panels, [name, baseline], _difference, seed, missing),
        retention=_ratio(panels, [name, BASE], _as_they_are, "the base's score"),
        damage_recovered=_ratio(panels, [name, BASE, baseline], _over_baseline, "the baseline's loss", missing),
        relative_gain=_mean_of_ratios(panels, name, baseline, seed, missing),
        pooled_gain=replace(pooled, value=pooled.value - 1, low=pooled.low - 1, high=pooled.high - 1),
        within_margin=vs_base.low > -margin,
        lost=tuple(lost for lost, _ in changes),
        gained=tuple(gained for _, gained in changes),
        mcnemar=tuple(stats.mcnemar(lost, gained) for lost, gained in changes),
    )


def _centred(panels: Sequence[Panel], name: str, baseline: str, margin: float, seed: int) -> Effect | None:
    if any(panel.chance is None for panel in panels) or not any(panel.chance for panel in panels):
        return None
    moved = [
        replace(panel, values={arm: stats.centred(x, panel.chance or 0.0) for arm, x in panel.values.items()})
        for panel in panels
    ]
    return _effect(moved, name, baseline, margin, seed)


def _difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a - b


def _as_they_are(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.stack([a, b], axis=-1)


def _over_baseline(method: np.ndarray, base: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    return np.stack([method - baseline, base - baseline], axis=-1)


def _rows(panel: Panel, names: Sequence[str]) -> list[np.ndarray]:
    """Scores of several arms, (seeds, items) each: as many seeds as all have; the base's one row beside each."""
    seeds = min((len(panel.values[name]) for name in names if name != BASE), default=1)
    return [np.broadcast_to(panel.values[name][:seeds], (seeds, len(panel.items))) for name in names]


def _blocks(panels: Sequence[Panel], names: Sequence[str], combine: Callable[..., np.ndarray]) -> list[Block]:
    times = Counter(panel.benchmark for panel in panels)
    found = []
    for panel in panels:
        values, labels = combine(*_rows(panel, names)), clusters(panel.items)
        weight = 1 / (len(times) * times[panel.benchmark])
        values = stats.by_cluster(values, labels) if labels else values
        found.append(Block(values, runs=panel.runs, items=panel.items, weight=weight))
    return found


def _mean(
    panels: Sequence[Panel],
    names: Sequence[str],
    combine: Callable[..., np.ndarray],
    seed: int,
    missing: str = "",
    margin: float | None = None,
) -> Estimate:
    if missing:
        return _not_estimable(panels, names, missing)
    found = stats.crossed(_blocks(panels, names, combine), seed=seed)
    low, high = found.low, found.high
    if len(names) == len(panels) == 1 and len(panels[0].values[names[0]]) == 1 and _binary(panels[0].values[names[0]]):
        low, high = stats.wilson(panels[0].values[names[0]].sum(), len(panels[0].items))
    p, least = (found.p, stats.detectable_by(found)) if len(names) > 1 else (math.nan, math.nan)
    worse = math.nan if margin is None else stats.noninferiority(found, margin)
    return Estimate(found.value, low, high, _items(panels), _runs(panels, names), _few(panels, names), p, least, worse)


def _ratio(
    panels: Sequence[Panel],
    names: Sequence[str],
    combine: Callable[..., np.ndarray],
    below: str,
    missing: str = "",
) -> Estimate:
    if missing:
        return _not_estimable(panels, names, missing)
    blocks = _blocks(panels, names, combine)
    found = stats.crossed_ratio(blocks)
    if not found.bounded:
        return _not_estimable(panels, names, f"not estimable: {below} cannot be told from 0")
    if sum(block.weight * block.values[..., 1].mean() for block in blocks) < 0:
        return _not_estimable(panels, names, f"not estimable: {below} is negative")
    return Estimate(found.value, found.low, found.high, _items(panels), _runs(panels, names), _few(panels, names))


def _mean_of_ratios(panels: Sequence[Panel], name: str, baseline: str, seed: int, missing: str) -> Estimate:
    """Mean over panels of (M - S) / S. Its interval is the delta method's: each score's pull on its own ratio."""

    def pull(method: np.ndarray, reference: np.ndarray) -> np.ndarray:
        ratio = method.mean() / reference.mean()
        return ratio - 1 + (method - ratio * reference) / reference.mean()

    each = [_ratio([panel], [name, baseline], _as_they_are, "the baseline's score", missing) for panel in panels]
    for panel, found in zip(panels, each, strict=True):
        if not found.estimable:
            where = "" if len(panels) == 1 else f" on {panel.benchmark}"
            return _not_estimable(panels, [name, baseline], found.note + where)
    if len(panels) == 1:
        return replace(each[0], value=each[0].value - 1, low=each[0].low - 1, high=each[0].high - 1)
    return replace(_mean(panels, [name, baseline], pull, seed), p=math.nan)


def _vs_best(panels: Sequence[Panel], name: str, best: str, margin: float, seed: int) -> Estimate:
    if name == best:
        return Estimate(0.0, 0.0, 0.0, _items(panels), _runs(panels, [name]), "this is the best", 0.0)
    found = stats.crossed(_blocks(panels, [name, best], _difference), seed=seed)
    p = stats.noninferiority(found, margin)
    return Estimate(found.value, found.low, found.high, _items(panels), _runs(panels, [name, best]), "", p)


def _level(panels: Sequence[Panel], name: str) -> float:
    return float(stats.moments(_blocks(panels, [name], lambda m: m)).estimate[0])


def _binary(values: np.ndarray) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())


def _items(panels: Sequence[Panel]) -> int:
    return sum(len(items) for items in {panel.items for panel in panels})


def _runs(panels: Sequence[Panel], names: Sequence[str]) -> int:
    """Training runs behind an estimate: the seeds that all of `names` have, summed over stores."""
    known = [name for name in names if name != BASE and all(name in panel.values for panel in panels)]
    seeds = {panel.runs: min((len(panel.values[name]) for name in known), default=1) for panel in panels}
    return sum(seeds.values())


def _few(panels: Sequence[Panel], names: Sequence[str]) -> str:
    trained = any(name != BASE for name in names)
    return "one seed: the interval speaks of items alone" if trained and _runs(panels, names) == 1 else ""


def _not_estimable(panels: Sequence[Panel], names: Sequence[str], why: str) -> Estimate:
    return Estimate(math.nan, math.nan, math.nan, _items(panels), _runs(panels, names), why)


def _with_holm(results: dict[str, MethodResult]) -> dict[str, MethodResult]:
    """Each general benchmark's p of `vs_base`, adjusted over all methods and general benchmarks at once."""
    cells = [(name, benchmark) for name, result in results.items() for benchmark in result.general]
    adjusted = stats.holm([results[name].general[benchmark].vs_base.p for name, benchmark in cells])
    for (name, benchmark), p in zip(cells, adjusted, strict=True):
        general = results[name].general
        general[benchmark] = replace(general[benchmark], p_holm=p)
    return results
