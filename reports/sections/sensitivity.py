"""Curves over every key in which methods differ alone: does the setting matter, and by more than chance?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from reports import plots_designs, table
from reports.blocks import Block, Column, Figure, Heading, Mono, Paragraph, Table, Text
from reports.cells import Cell, cells, shown
from reports.data import ReportData
from reports.designs import Sweep, contrast, differing, sweeps
from reports.plots import Span

if TYPE_CHECKING:
    from evals.forgetting import Effect
    from evals.paired import Estimate
    from evals.stats import Mean

KINDS = (("domain", "domain accuracy"), ("general", "general mean"))


def render(data: ReportData) -> list[Block]:
    return sensitivity([data])


def sensitivity(reports: Sequence[ReportData]) -> list[Block]:
    """One figure a key, with a curve for every set of methods that differ in it alone. Nothing where there is none."""
    found = [sweep for sweep in sweeps(cells(reports)) if any(score_of(cell, "general") for cell in sweep.cells)]
    by_key: dict[str, list[Sweep]] = {}
    for sweep in found:
        by_key.setdefault(sweep.key, []).append(sweep)
    if not by_key:
        return []
    notes: list[str] = []
    figures = [_figure(key, own, notes) for key, own in by_key.items()]
    warnings = [Paragraph(note, "warning") for note in dict.fromkeys(notes)]
    return [Heading("Sensitivity"), Paragraph(_HOW, "note"), *warnings, *figures]


_HOW = (
    "Methods that differ in one key alone, found by their settings. Differences are against the first value, paired "
    "by item and seed; p is adjusted by Holm over the figure."
)


def _figure(key: str, found: Sequence[Sweep], notes: list[str]) -> Figure:
    numeric = all(sweep.numeric for sweep in found)
    words = list(dict.fromkeys(shown(value) for sweep in found for value in sweep.values))
    if numeric:
        words = [shown(value) for value in sorted({value for sweep in found for value in sweep.values})]
    log = numeric and _spread(found)
    series = {_label(sweep, found): number for number, sweep in enumerate(found)}
    panels = [_panel(kind, title, found, numeric, words) for kind, title in KINDS]
    panels = [panel for panel in panels if panel.lines]
    places = {word: float(value) for sweep in found for value, word in zip(sweep.values, map(shown, sweep.values),
              strict=True)} if numeric else {word: float(i) for i, word in enumerate(words)}  # fmt: skip
    ticks = [(places[word], word) for word in words]
    title = f"What {key} does"
    description = f"Domain accuracy and the general mean over the values of {key}, with 95% intervals."
    drawn = plots_designs.curves(
        f"sweep-of-{key}".replace(".", "-"), title, description, panels, series, key, ticks, log
    )
    changes = {kind: [_against_first(sweep, kind, notes) for sweep in found] for kind, _ in KINDS}
    holm = _holm([change for each in changes.values() for own in each for change in own])
    return Figure(title, description, drawn, _table(key, found, changes, holm), _caption(changes, holm))


def _spread(found: Sequence[Sweep]) -> bool:
    """Whether the values ask for a logarithmic axis."""
    values = [value for sweep in found for value in sweep.values]
    return min(values) > 0 and max(values) / min(values) >= 20


def _panel(kind: str, title: str, found: Sequence[Sweep], numeric: bool, words: Sequence[str]) -> plots_designs.Panel:
    lines = []
    for number, sweep in enumerate(found):
        spans = [span_of(score_of(cell, kind)) for cell in sweep.cells]
        at = [float(v) if numeric else float(words.index(shown(v))) for v in sweep.values]
        if any(span.known for span in spans):
            lines.append(plots_designs.Line(number, at, spans))
    first = next((cell for sweep in found for cell in sweep.cells if _effect(cell, kind)), None)
    effect = _effect(first, kind) if first else None
    return plots_designs.Panel(title, lines, 100 * effect.base.value if effect else None)


def _effect(cell: Cell, kind: str) -> Effect | None:
    return getattr(cell.result, f"{kind}_mean") if cell.result else None


def score_of(cell: Cell, kind: str) -> Estimate | None:
    effect = _effect(cell, kind)
    return effect.score if effect else None


def span_of(score: Estimate | None) -> Span:
    return Span(100 * score.value, 100 * score.low, 100 * score.high) if score else Span(math.nan)


def _label(sweep: Sweep, found: Sequence[Sweep]) -> str:
    """What tells a curve from the others of its key."""
    words = differing([other.cells[0] for other in found], sweep.key)
    return words[sweep.cells[0].name] or sweep.cells[0].name


Changes = dict[str, list[list["Mean | None"]]]
"""Kind to curve to point: its difference from the curve's first point."""


def _table(key: str, found: Sequence[Sweep], changes: Changes, holm: dict[int, float]) -> Table:
    rows: list[list[Text]] = []
    for number, sweep in enumerate(found):
        for place, cell in enumerate(sweep.cells):
            cells_: list[Text] = [[f"{shown(cell.value(key))} ", Mono(cell.name)]]
            for kind, _ in KINDS:
                score, change = score_of(cell, kind), changes[kind][number][place]
                cells_.append(table.score_interval(score) if score else table.ABSENT)
                cells_.append("the first" if place == 0 else table.points_interval(change) if change else table.ABSENT)
                cells_.append("" if place == 0 or change is None else table.p_value(holm[id(change)]))
            rows.append(cells_)
    columns = [Column(f"{key} and method")]
    for _, title in KINDS:
        columns += [Column(title.capitalize(), "right"), Column("Difference", "right"), Column("Holm p", "right")]
    return Table(columns, rows, name=f"sensitivity-{key}".replace(".", "-").replace("_", "-"))


def _against_first(sweep: Sweep, kind: str, notes: list[str]) -> list[Mean | None]:
    first = sweep.cells[0]
    return [None if cell is first else contrast([(cell, 1.0), (first, -1.0)], kind, notes) for cell in sweep.cells]


def _holm(changes: Sequence[Mean | None]) -> dict[int, float]:
    from evals import stats

    known = [change for change in changes if change is not None]
    return dict(zip(map(id, known), stats.holm([change.p for change in known]), strict=True)) if known else {}


def _caption(changes: Changes, holm: dict[int, float]) -> str:
    """Whether anything moved by more than chance."""
    if not holm:
        return "The values were not measured alike on the same items."
    moved = [
        title
        for kind, title in KINDS
        if any(c is not None and holm[id(c)] < 0.05 for own in changes[kind] for c in own)
    ]
    if not moved:
        return "No value can be told from the first once p is adjusted for how many there are."
    return f"Beyond chance (Holm, 5%) some value differs from the first in {' and '.join(moved)}."
