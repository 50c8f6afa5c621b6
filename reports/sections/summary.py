"""The verdict in plain sentences, the comparison behind it, and what it does not show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from evals.panels import BASE
from reports import plots, table
from reports.blocks import Block, Bullets, Column, Figure, Heading, Mono, Paragraph, Span, Strong, Table, Text
from reports.data import ReportData
from reports.terminal import comparison_table, in_order

if TYPE_CHECKING:
    from evals.forgetting import Comparison, Effect, Estimate

LAB = (
    "These figures come from the lab, a small made-up world with a model of about a million parameters. They show that "
    "the mechanics work and how effects order themselves, never what a 7B model would score."
)


@dataclass(frozen=True)
class Measured:
    """A method that has both means, so that a verdict can be given."""

    name: str
    domain: Effect
    general: Effect
    matches_best: bool


def render(data: ReportData) -> list[Block]:
    blocks: list[Block] = [Heading("Summary")]
    comparison = data.comparison
    if comparison is None:
        return [*blocks, *_without_comparison(data), *_cautions(data)]
    measured = in_plane(comparison)
    blocks += verdict(comparison, measured)
    blocks += _cautions(data)
    blocks.append(comparison_table(comparison))
    blocks += [_tradeoff(data, comparison, measured)] if measured else []
    return blocks


def in_plane(comparison: Comparison) -> list[Measured]:
    methods = [comparison.methods[name] for name in in_order(comparison)]
    return [
        Measured(method.name, method.domain_mean, method.general_mean, method.matches_best_domain)
        for method in methods
        if method.domain_mean and method.general_mean
    ]


def _without_comparison(data: ReportData) -> list[Block]:
    """What can be said of the rows, and why nothing is said of models."""
    from reports.sections.funnel import outcome

    why = "nothing was trained" if not data.checkpoints else "the base and the methods have no scores to compare"
    if data.spec.train is not None and not data.checkpoints:
        why = "no training is finished yet"
    blocks: list[Block] = [outcome(data, data.final)] if data.final else []
    return [*blocks, Paragraph(f"There is no comparison of models: {why}.")]


def _cautions(data: ReportData) -> list[Block]:
    """What would mislead if it were missed."""
    found = [LAB] if data.lab else []
    found += data.notes
    if data.comparison:
        few = min((method.n_seeds for method in data.comparison.methods.values()), default=0)
        if few == 1:
            found.append("One training per method: the intervals speak of test items alone, not of another seed.")
        elif few < 3:
            found.append(f"{few} trainings per method say little about the spread between seeds.")
        found += [note if note.endswith(".") else f"{note}." for note in data.comparison.notes]
    return [Paragraph(text, "warning") for text in found]


# ---- the verdict


def verdict(comparison: Comparison, measured: list[Measured]) -> list[Block]:
    """Who forgets least at matched accuracy, then one sentence a method."""
    best = _headline(comparison, measured)
    blocks: list[Block] = [Paragraph(best, "lead")] if best else []
    return [*blocks, Bullets([_sentence(comparison, method) for method in measured])] if measured else blocks


def _headline(comparison: Comparison, measured: list[Measured]) -> Text | None:
    """The method that lost least among those that provably match the best domain mean."""
    margin = table.margin_points(comparison.margin)
    matching = [method for method in measured if method.matches_best]
    if len(measured) < 2 or not matching:
        return None
    best = max(matching, key=lambda method: method.general.vs_base.value)
    lead: list[Span] = [Strong(best.name), f" {_gains(best.domain)} and {_keeps(best.general)}"]
    for other in measured:
        if other.name == comparison.baseline != best.name:
            lead += ["; ", Strong(other.name), f", the baseline, {_gains(other.domain)} and {_keeps(other.general)}"]
            lead += _difference(best)
    if len(matching) == 1:
        return [*lead, f". No other method is provably within {margin} points of its domain accuracy."]
    where = f". Of the {len(matching)} methods that are provably within {margin} points of the best domain accuracy, "
    return [*lead, where, Strong(best.name), " forgets least."]


def _difference(best: Measured) -> list[Span]:
    """Method against baseline in general skill, as the interval allows it to be said."""
    change = best.general.vs_baseline
    if not change.estimable:
        return []
    if change.low > 0 or change.high < 0:
        kept = f" keeps {table.amount(change)} points {'more' if change.value > 0 else 'less'} of it"
        return [". Against the baseline, ", Strong(best.name), kept]
    return [f". Their general skill cannot be told apart ({table.points_interval(change)} points)"]


def _gains(effect: Effect) -> str:
    change = effect.vs_base
    if change.low > 0:
        return f"gains {table.amount(change)} points on the domain"
    if change.high < 0:
        return f"loses {table.amount(change)} points on the domain"
    return f"shows no gain on the domain ({table.points_interval(change)} points)"


def _keeps(effect: Effect) -> str:
    change = effect.vs_base
    if change.low > 0:
        return f"gains {table.amount(change)} points of general skill"
    if change.high < 0:
        return f"loses {table.amount(change)} points of general skill"
    verb = "keeps general skill" if effect.within_margin else "shows no sure loss of general skill"
    return f"{verb} ({table.points_interval(change)} points)"


def _sentence(comparison: Comparison, method: Measured) -> Text:
    """Domain, general skill, and the verdict that the interval allows."""
    domain, general = method.domain, method.general
    margin = table.margin_points(comparison.margin)
    text: list[Span] = [
        Strong(method.name),
        f": domain {table.score_interval(domain.score)}, {table.points_interval(domain.vs_base)} points against the "
        f"base; general {table.score_interval(general.score)}, {table.points_interval(general.vs_base)} points. ",
        _class(general.vs_base, general.within_margin, margin),
    ]
    if method.name != comparison.baseline:
        text.append(_recovery(general.damage_recovered, comparison.baseline))
    return text


def _class(change: Estimate, within: bool, margin: str) -> str:
    """What the interval of a general change allows to be said."""
    if change.low > 0:
        return "General skill rose."
    if within and change.high >= 0:
        return f"General skill is kept: a loss of {margin} points is ruled out."
    if within:
        return f"It forgets a little, provably less than the margin of {margin} points."
    if change.high < -float(margin) / 100:
        return f"It forgets, provably more than the margin of {margin} points."
    if change.high < 0:
        return "It forgets."
    return f"Undecided: neither no loss nor one of {margin} points is ruled out."


def _recovery(share: Estimate, baseline: str) -> str:
    if not share.estimable:
        reason = share.note.removeprefix(f"{table.NOT_ESTIMABLE}: ")
        return f" The share of {baseline}’s damage that it recovers is {table.NOT_ESTIMABLE}: {reason}."
    return f" It recovers {table.ratio_interval(share)} of what {baseline} lost."


# ---- the chart


def _tradeoff(data: ReportData, comparison: Comparison, measured: list[Measured]) -> Figure:
    points = []
    rows: list[list[Text]] = []
    for method in measured:
        x, y = method.general.vs_base, method.domain.vs_base
        seeds = seed_changes(data, method.name)
        dots = [(100 * general, 100 * domain) for domain, general in seeds]
        points.append(plots.Point(method.name, data.series(method.name), span(x), span(y), dots))
        runs = "; ".join(f"{table.points(domain)} / {table.points(general)}" for domain, general in seeds)
        rows.append([Mono(method.name), table.points_interval(y), table.points_interval(x), runs])
    title = "What was gained and what was lost"
    description = (
        "Each method by its change of domain accuracy (up is better) and of the general mean (right is better)."
    )
    chart = plots.tradeoff("tradeoff", title, description, points, 100 * comparison.margin)
    columns = [Column("Method"), Column("Domain, points", "right"), Column("General, points", "right")]
    columns.append(Column("Single seeds, domain / general", "right"))
    caption = (
        "Changes against the base, which is the cross. Large marks are means over seeds with 95% intervals, faint ones "
        "single seeds. Up and to the right is better; the shaded side lost more than "
        f"{table.margin_points(comparison.margin)} points of general skill."
    )
    return Figure(title, description, chart, Table(columns, rows), caption)


def span(estimate: Estimate) -> plots.Span:
    """A change in points, for drawing; no end lies beyond ±100."""
    return plots.Span(100 * estimate.value, 100 * max(estimate.low, -1.0), 100 * min(estimate.high, 1.0))


def seed_changes(data: ReportData, method: str) -> list[tuple[float, float]]:
    """(domain, general) change against the base of each single seed: unweighted means over benchmarks."""
    found: list[list[float]] = []
    for kind in ("domain", "general"):
        own = [p for p in data.panels if p.kind == kind and method in p.values]
        changes = [p.values[method].mean(1) - p.values[BASE].mean() for p in own]
        found.append(np.mean(changes, axis=0).tolist() if changes else [])
    return list(zip(found[0], found[1], strict=False))
