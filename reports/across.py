"""Several specs in one report: all methods beside each other, means over what can be compared, then each for itself."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from evals.panels import Panel, Panels
from refinery.records import Score
from reports import table
from reports.blocks import (
    Block,
    Bullets,
    Chart,
    Column,
    Details,
    Figure,
    Heading,
    Mono,
    Paragraph,
    See,
    Span,
    Table,
    Text,
    spans,
)
from reports.data import ReportData, called
from reports.sections.factorial import factorial
from reports.sections.sensitivity import sensitivity
from reports.terminal import comparison_table, in_order

if TYPE_CHECKING:
    from evals.forgetting import Comparison

FEW = 3
"""Specs up to which each is shown with all its sections."""
SHORT = ("summary", "pareto", "forgetting", "stages", "funnel", "cost", "provenance")
"""What is shown of each of more: their own reports have the rest."""
ONCE = ("sensitivity", "factorial")
"""Sections that are made over all specs together."""


def render(
    reports: Sequence[ReportData], sections: Callable[[ReportData, Sequence[str]], list[Block]], names: Sequence[str]
) -> list[Block]:
    """What the specs share, then each. `sections(data, names)` renders one spec's; `names` are all there are."""
    blocks: list[Block] = [Heading("All specs"), *_table(reports), *_pooled(reports)]
    blocks += [*sensitivity(reports), *factorial(reports)]
    wanted = [name for name in names if name not in ONCE and (len(reports) <= FEW or name in SHORT)]
    for number, data in enumerate(reports):
        blocks += [Heading(called(data, reports)), *_apart(sections(data, wanted), f"s{number}-")]
    return blocks


def _table(reports: Sequence[ReportData]) -> list[Block]:
    """Every method of every spec, each against its own base and baseline."""
    rows: list[list[Text]] = []
    for data in reports:
        if data.comparison is None:
            continue
        for name in in_order(data.comparison):
            method = data.comparison.methods[name]
            domain, general = method.domain_mean, method.general_mean
            cells: list[Text] = [[f"{called(data, reports)} ", Mono(name)]]
            cells += [table.score_interval(e.score) if e else table.ABSENT for e in (domain, general)]
            cells.append(table.points_interval(general.vs_base) if general else table.ABSENT)
            share = general.damage_recovered if general else None
            own = "the baseline" if name == data.comparison.baseline else table.NOT_ESTIMABLE
            rows.append([*cells, table.ratio_interval(share) if share and share.estimable else own])
    titles = ("Domain", "General", "General change", "Damage recovered")
    columns = [Column("Spec and method"), *(Column(title, "right") for title in titles)]
    if not rows:
        return [Paragraph("No spec has a comparison of models yet.")]
    return [Table(columns, rows, note="Each against its own base; the change in points.", name="all-specs")]


def _pooled(reports: Sequence[ReportData]) -> list[Block]:
    """Means over the specs of the methods that all share; benchmarks are pooled where they were measured alike."""
    measured = [data for data in reports if data.comparison is not None]
    if len(measured) < 2:
        return []
    shared = set.intersection(*(set(data.comparison.methods) for data in measured if data.comparison))
    baselines = {data.comparison.baseline for data in measured if data.comparison}
    if not shared or len(baselines) > 1 or not baselines <= shared:
        return [Paragraph("The specs share no baseline, or no method, so that there is no mean over them.", "note")]
    panels, notes = comparable(measured)
    comparison = _pool(panels, shared, baselines.pop(), measured[0].spec.report.margin)
    made = comparison_table(comparison)
    words = f"{made.note} Means over {len(measured)} specs, each with trainings of its own."
    blocks: list[Block] = [Heading("Means over the specs", 3), replace(made, note=words, name="pooled")]
    return [*blocks, *(Paragraph(note, "warning") for note in dict.fromkeys([*notes, *comparison.notes]))]


def _pool(panels: dict[str, list[Panel]], shared: set[str], baseline: str, margin: float) -> Comparison:
    from evals.forgetting import pool

    kept = {
        label: Panels(
            [replace(p, values={n: v for n, v in p.values.items() if n in {*shared, "base"}}) for p in own], []
        )
        for label, own in panels.items()
    }
    return pool(kept, baseline=baseline, margin=margin)


def comparable(reports: Sequence[ReportData]) -> tuple[dict[str, list[Panel]], list[str]]:
    """Each spec's panels, without those measured otherwise than the first spec that has the benchmark; and a note for
    each left out, which names what differs."""
    from evals.comparable import judge

    first: dict[str, tuple[str, Score | None]] = {}
    found: dict[str, list[Panel]] = {}
    notes = []
    for data in reports:
        found[data.label] = []
        for panel in data.panels:
            score = panel.like
            label, like = first.setdefault(panel.benchmark, (data.label, score))
            refused = judge(score, like).words if score is not None and like is not None else ""
            if refused:
                notes.append(f"{panel.benchmark} of {data.label} is not pooled with that of {label}: {refused}.")
            else:
                found[data.label].append(panel)
    return found, notes


# ---- one spec's sections inside a report of several


def _apart(blocks: Sequence[Block], prefix: str) -> list[Block]:
    """One level down, with ids of their own, and without links to headings of which there are several."""
    return [_one(block, prefix) for block in blocks]


def _one(block: Block, prefix: str) -> Block:
    match block:
        case Heading():
            return replace(block, level=min(4, block.level + 1))
        case Figure():
            drawn = block.chart and Chart(_ids(block.chart.wide, prefix), _ids(block.chart.narrow, prefix))
            return replace(block, chart=drawn)
        case Details():
            return replace(block, blocks=_apart(block.blocks, prefix))
        case Paragraph():
            return replace(block, text=_unlinked(block.text))
        case Bullets():
            return replace(block, items=[_unlinked(item) for item in block.items])
        case _:
            return block


def _unlinked(text: Text) -> list[Span]:
    return [span.text if isinstance(span, See) else span for span in spans(text)]


def _ids(svg: str, prefix: str) -> str:
    """The drawing with `prefix` before every id that it has or names."""
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}", svg)
    return re.sub(
        r'(aria-labelledby=")([^"]*)"', lambda m: f'{m[1]}{" ".join(prefix + each for each in m[2].split())}"', svg
    )
