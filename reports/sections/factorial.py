"""What each part contributes: crossed settings, their main effects and how they act on each other."""

from __future__ import annotations

from collections.abc import Sequence

from reports import plots_designs, table
from reports.blocks import Block, Bullets, Column, Figure, Heading, Mono, Paragraph, Table, Text
from reports.cells import cells
from reports.data import ReportData
from reports.designs import Design, Effect, designs, effects, missing
from reports.sections.sensitivity import KINDS, score_of, span_of

SHOWN = 4
"""Designs, at most: the largest."""


def render(data: ReportData) -> list[Block]:
    return factorial([data])


def factorial(reports: Sequence[ReportData]) -> list[Block]:
    """A figure and a table of effects for each full crossing; what is missing for one where there is none."""
    known = [cell for cell in cells(reports) if score_of(cell, "general") or score_of(cell, "domain")]
    found = designs(known)
    gaps = [] if found else missing(known)[:3]
    if not found and not gaps:
        return []
    blocks: list[Block] = [Heading("Ablation")]
    if gaps:
        items: list[Text] = [
            ["The crossing of data with ", both, " lacks ", Mono(cell.name), f" on {data}: with it, what the data and "
             "what the method contribute could be told apart."]
            for data, both, cell in gaps
        ]  # fmt: skip
        blocks.append(Bullets(items))
    for number, design in enumerate(found[:SHOWN]):
        blocks += _design(number, design)
    if len(found) > SHOWN:
        blocks.append(Paragraph(f"{len(found) - SHOWN} smaller crossings are left out.", "note"))
    return blocks


def _design(number: int, design: Design) -> list[Block]:
    notes: list[str] = []
    found = _effects(number, design, effects(design, notes))
    warnings = [Paragraph(note, "warning") for note in dict.fromkeys(notes)]
    return [Heading(f"Crossing {' × '.join(design.factors)}", 3), _figure(number, design), found, *warnings]


def _figure(number: int, design: Design) -> Figure:
    """The first factor along the axis, a curve for each combination of the others."""
    first, *others = design.factors
    along = design.factors[first]
    curves = list(dict.fromkeys(key[1:] for key in design.cells))
    series = {", ".join(curve): place for place, curve in enumerate(curves)}
    panels = []
    for kind, title in KINDS:
        lines = [
            plots_designs.Line(
                place,
                [float(i) for i in range(len(along))],
                [span_of(score_of(design.cells[level, *curve], kind)) for level in along],
            )
            for place, curve in enumerate(curves)
        ]
        panels.append(plots_designs.Panel(title, [line for line in lines if any(s.known for s in line.spans)]))
    title = f"Every combination of {' and '.join(design.factors)}"
    description = f"Domain accuracy and general mean over {first}, a curve for each level of {', '.join(others)}."
    ticks = [(float(i), level) for i, level in enumerate(along)]
    drawn = plots_designs.curves(
        f"crossing-{number}", title, description, [p for p in panels if p.lines], series, first, ticks
    )
    rows: list[list[Text]] = []
    for key, cell in design.cells.items():
        scores = [score_of(cell, kind) for kind, _ in KINDS]
        rows.append(
            [Mono(cell.name), *key, *(table.score_interval(score) if score else table.ABSENT for score in scores)]
        )
    columns = [Column("Method"), *map(Column, design.factors), *(Column(t.capitalize(), "right") for _, t in KINDS)]
    caption = "Parallel curves: the factors act each for itself. Curves that are not: one does more beside the other."
    return Figure(title, description, drawn, Table(columns, rows, name=f"crossing-{number + 1}"), caption)


def _effects(number: int, design: Design, found: Sequence[Effect]) -> Table:
    from evals import stats

    estimates = [(i, kind, e) for i, each in enumerate(found) for kind, _ in KINDS if (e := getattr(each, kind))]
    adjusted = stats.holm([estimate.p for _, _, estimate in estimates]) if estimates else []
    holm = {(i, kind): p for (i, kind, _), p in zip(estimates, adjusted, strict=True)}
    rows: list[list[Text]] = []
    for place, effect in enumerate(found):
        cells_: list[Text] = [_name(design, effect)]
        for kind, _ in KINDS:
            estimate = getattr(effect, kind)
            cells_.append(table.points_interval(estimate) if estimate else table.ABSENT)
            cells_.append(table.p_value(holm[place, kind]) if estimate else "")
        rows.append(cells_)
    columns = [Column("Effect")]
    for _, title in KINDS:
        columns += [Column(f"{title.capitalize()}, points", "right"), Column("Holm p", "right")]
    return Table(columns, rows, note=_NOTE, name=f"effects-{number + 1}")


_NOTE = (
    "A main effect is the mean change over the other factors’ levels; an interaction is how much larger one’s effect "
    "is at the other’s level than at its first. Paired by item and seed; p adjusted by Holm over the table."
)


def _name(design: Design, effect: Effect) -> str:
    parts = [f"{name} {level} against {design.factors[name][0]}" for name, level in effect.levels.items()]
    return parts[0] if len(parts) == 1 else "Interaction: " + "; ".join(parts)
