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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from evals import paired, stats
from evals.comparable import judge
from evals.paired import Estimate
from evals.panels import BASE, Panel, Panels, load
from refinery.records import Score
from refinery.store import Store


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
    vs_best_general: Estimate | None
    """Of a method that matches: general mean minus that of `best_general`, which has no p."""
    general_centred: Effect | None = None
    """The general mean with every benchmark centred on chance (0 guessing, 1 perfect), so that a point of a two-way
    choice counts for what it is worth. None where a benchmark's chance is not known or all are 0."""


@dataclass(frozen=True, slots=True)
class Comparison:
    baseline: str
    best_domain: str
    """The method with the highest domain mean; "" where there is none."""
    best_general: str
    """Of the methods that match it, the one with the highest general mean."""
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
    best = max(whole.get("domain", []), key=lambda name: paired.level(kinds["domain"], name), default="")
    results = {}
    for name in names:
        effects: dict[str, dict[str, Effect]] = {"domain": {}, "general": {}}
        for panel in loaded.found:
            if name in panel.values and panel.benchmark not in effects[panel.kind]:
                same = [p for p in kinds[panel.kind] if p.benchmark == panel.benchmark and name in p.values]
                effects[panel.kind][panel.benchmark] = _effect(same, name, baseline, margin, seed)
        means = {kind: _effect(kinds[kind], name, baseline, margin, seed) for kind in whole if name in whole[kind]}
        vs_best = paired.vs_best(kinds["domain"], name, best, margin, seed) if "domain" in means else None
        results[name] = MethodResult(
            name=name,
            n_seeds=paired.runs([panel for panel in loaded.found if name in panel.values], [name]),
            domain=effects["domain"],
            general=effects["general"],
            domain_mean=means.get("domain"),
            general_mean=means.get("general"),
            vs_best_domain=vs_best,
            matches_best_domain=vs_best is not None and vs_best.low > -margin,
            vs_best_general=None,
            general_centred=_centred(kinds["general"], name, baseline, margin, seed) if "general" in means else None,
        )
    matching = {n: r.general_mean.score.value for n, r in results.items() if r.matches_best_domain and r.general_mean}
    least = max(matching, key=matching.__getitem__, default="")
    for name in matching:
        vs_least = paired.vs_best(kinds["general"], name, least, margin, seed)
        results[name] = replace(results[name], vs_best_general=vs_least)
    notes = [f"{n}: no {kind} mean, as it lacks a benchmark" for kind in whole for n in names if n not in whole[kind]]
    uneven = {name: results[name].n_seeds for name in names if results[name].n_seeds != results[names[0]].n_seeds}
    notes += [f"{name} has {n} runs, {names[0]} {results[names[0]].n_seeds}" for name, n in uneven.items()]
    notes += filter(None, (paired.pairing(loaded.found, name, baseline) for name in names if name != baseline))
    return Comparison(baseline, best, least, margin, _with_holm(results), [*loaded.notes, *notes])


def _effect(panels: Sequence[Panel], name: str, baseline: str, margin: float, seed: int) -> Effect:
    vs_base = paired.mean(panels, [name, BASE], paired.difference, seed, margin=margin)
    missing = "" if all(baseline in panel.values for panel in panels) else "the baseline has no score"
    missing = "this is the baseline" if name == baseline else missing
    pooled = paired.ratio(panels, [name, baseline], paired.as_they_are, "the baseline's score", missing)
    one = len({panel.benchmark for panel in panels}) == 1
    runs = [pair for panel in panels if one for pair in zip(*paired.rows(panel, [name, BASE]), strict=True)]
    changes = [(int((base > method).sum()), int((method > base).sum())) for method, base in runs]
    return Effect(
        score=paired.mean(panels, [name], lambda m: m, seed),
        base=paired.mean(panels, [BASE], lambda b: b, seed),
        vs_base=vs_base,
        vs_baseline=paired.mean(panels, [name, baseline], paired.difference, seed, missing),
        retention=paired.ratio(panels, [name, BASE], paired.as_they_are, "the base's score"),
        damage_recovered=paired.ratio(
            panels, [name, BASE, baseline], paired.over_baseline, "the baseline's loss", missing
        ),
        relative_gain=paired.mean_of_ratios(panels, name, baseline, seed, missing),
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


def _with_holm(results: dict[str, MethodResult]) -> dict[str, MethodResult]:
    """Each general benchmark's p of `vs_base`, adjusted over all methods and general benchmarks at once."""
    cells = [(name, benchmark) for name, result in results.items() for benchmark in result.general]
    adjusted = stats.holm([results[name].general[benchmark].vs_base.p for name, benchmark in cells])
    for (name, benchmark), p in zip(cells, adjusted, strict=True):
        general = results[name].general
        general[benchmark] = replace(general[benchmark], p_holm=p)
    return results
