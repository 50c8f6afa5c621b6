"""What was gained against what was lost: every method in one plane, and which of them no other beats on both sides."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from evals.panels import BASE
from reports import plots, table
from reports.blocks import Block, Column, Figure, Heading, Mono, Paragraph, Span, Table, Text
from reports.data import ReportData
from reports.sections.summary import Measured, in_plane

if TYPE_CHECKING:
    from evals.forgetting import Comparison
    from evals.paired import Estimate


def render(data: ReportData) -> list[Block]:
    measured = in_plane(data.comparison) if data.comparison else []
    if not measured or data.comparison is None:
        return []
    blocks: list[Block] = [Heading("Gain against loss"), _figure(data, data.comparison, measured)]
    return [*blocks, *([_front(measured)] if len(measured) > 1 else [])]


def _figure(data: ReportData, comparison: Comparison, measured: list[Measured]) -> Figure:
    points = []
    rows: list[list[Text]] = []
    beaten = dominated(measured)
    for method in measured:
        x, y = method.general.vs_base, method.domain.vs_base
        seeds = seed_changes(data, method.name)
        dots = [(100 * general, 100 * domain) for domain, general in seeds]
        points.append(plots.Point(method.name, data.series(method.name), span(x), span(y), dots))
        runs = "; ".join(f"{table.points(domain)} / {table.points(general)}" for domain, general in seeds)
        by = beaten[method.name]
        front: Text = "on it" if not by else ["beaten by ", *_listed(by)]
        rows.append([Mono(method.name), table.points_interval(y), table.points_interval(x), front, runs])
    title = "What was gained and what was lost"
    description = (
        "Each method by its change of domain accuracy (up is better) and of the general mean (right is better)."
    )
    chart = plots.tradeoff("tradeoff", title, description, points, 100 * comparison.margin)
    columns = [Column("Method"), Column("Domain, points", "right"), Column("General, points", "right")]
    columns += [Column("Front"), Column("Single seeds, domain / general", "right")]
    caption = (
        "Changes against the base, which is the cross. Large marks are means over seeds with 95% intervals, faint ones "
        "single seeds. Up and to the right is better; the shaded side lost more than "
        f"{table.margin_points(comparison.margin)} points of general skill."
    )
    note = "Front: by its means alone, no other method is as good on both sides and better on one."
    return Figure(title, description, chart, Table(columns, rows, note=note, name="tradeoff"), caption)


def dominated(measured: list[Measured]) -> dict[str, list[str]]:
    """For each method those whose means are at least as good on both sides and better on one."""
    found: dict[str, list[str]] = {}
    for one in measured:
        own = (one.domain.score.value, one.general.score.value)
        found[one.name] = [
            other.name
            for other in measured
            if (its := (other.domain.score.value, other.general.score.value)) != own
            and its[0] >= own[0]
            and its[1] >= own[1]
        ]
    return found


def _front(measured: list[Measured]) -> Paragraph:
    """The front in a sentence, and how sure it is that the others are off it."""
    beaten = dominated(measured)
    on = sorted((m for m in measured if not beaten[m.name]), key=lambda m: -m.domain.score.value)
    names = _listed([m.name for m in on])
    text: list[Span] = ["By their means alone no method is better on both sides than ", *names]
    if len(on) == len(measured) > 1:
        text = ["By their means alone none of ", *names, " beats another on both sides"]
    apart = [
        m.name
        for m in measured
        if beaten[m.name] and any(_apart(m, other) for other in measured if other.name in beaten[m.name])
    ]
    if apart:
        text += ["; both intervals of ", *_listed(apart), " lie wholly below those of a method that beats it"]
    return Paragraph([*text, "."])


def _apart(lower: Measured, upper: Measured) -> bool:
    """On both sides the whole interval below the other's."""
    return all(getattr(lower, kind).score.high < getattr(upper, kind).score.low for kind in ("domain", "general"))


def _listed(names: list[str]) -> list[Span]:
    return [span for number, name in enumerate(names) for span in ((", ", Mono(name)) if number else (Mono(name),))]


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
