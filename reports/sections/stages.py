"""Learning in stages: what each stage left of every benchmark, and what later stages took from earlier ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from reports import plots_designs, table
from reports.blocks import Block, Column, Figure, Heading, Mono, Paragraph, Table, Text
from reports.data import ReportData, Staged

if TYPE_CHECKING:
    from evals.stats import Mean


def render(data: ReportData) -> list[Block]:
    if not data.stages:
        return []
    blocks: list[Block] = [Heading("Stages"), Paragraph(_HOW, "note")]
    blocks += [_matrix(number, staged) for number, staged in enumerate(data.stages)]
    notes = [Paragraph(f"{note}.", "warning") for staged in data.stages for note in staged.matrix.notes]
    return [*blocks, *notes, *_summary(data.stages)]


_HOW = (
    "Rows are what was learnt last, from the base down; columns are benchmarks. Forgotten is the best score before the "
    "last stage less the last one, which chance alone pushes above 0; since learnt compares the last stage with that "
    "which taught the benchmark, where a benchmark belongs to a stage by its place in the spec."
)


def _matrix(number: int, staged: Staged) -> Figure:
    matrix = staged.matrix
    cells = [[None if v is None else (v, table.percent(v, 0)) for v in row] for row in matrix.values]
    title = f"{matrix.method}: every stage on every benchmark"
    description = "Mean scores over seeds, a row for each stage and a column for each benchmark."
    drawn = plots_designs.matrix(f"stages-{number}", title, description, matrix.rows, matrix.columns, cells)
    rows: list[list[Text]] = [
        [Mono(name), *(table.score_interval(s) if s else table.ABSENT for s in scores)]
        for name, scores in zip(matrix.rows, staged.scores, strict=True)
    ]
    lost = ["" if v is None else table.points(v) for v in matrix.forgotten()]
    rows.append(["forgotten since its best, points", *lost])
    rows.append(["since learnt, points", *(table.points_interval(s) if s else "" for s in staged.since_learnt)])
    columns = [Column("After"), *(Column(each, "right") for each in matrix.columns)]
    return Figure(title, description, drawn, Table(columns, rows, name=f"stages-{number + 1}"), _caption(staged))


def _caption(staged: Staged) -> str:
    worst = [
        (change.value, name, change)
        for name, change in zip(staged.matrix.columns, staged.since_learnt, strict=True)
        if change is not None
    ]
    if not worst:
        return ""
    value, name, change = min(worst, key=lambda each: each[0])
    if value >= 0:
        return "No benchmark of an earlier stage fell in later ones."
    return f"Of what an earlier stage taught, most was lost on {name}: {table.points_interval(change)} points."


def _summary(stages: Sequence[Staged]) -> list[Block]:
    """The usual measures of continual learning (evals/stats/sequences.py); nothing where stages have no benchmarks of
    their own."""
    rows: list[list[Text]] = []
    for staged in stages:
        found = staged.matrix.measures
        if found is None:
            continue
        shown = [table.score_interval(found.accuracy), *map(_points, (found.backward_transfer, found.forward_transfer))]
        rows.append([Mono(staged.matrix.method), *shown, _points(staged.general)])
    titles = ("Last accuracy", "Backward transfer", "Forward transfer", "General change")
    columns = [Column("Method"), *(Column(title, "right") for title in titles)]
    note = (
        "Over the domain benchmarks, one a stage: last accuracy is their mean after the last stage, backward transfer "
        "the mean change since each was learnt, forward transfer the mean change by the stages before its own; t "
        "intervals over seeds. General change: the general mean after the last stage, against the base. In points."
    )
    return [Table(columns, rows, "Continual learning in one line a method", note, "stages")] if rows else []


def _points(change: Mean | None) -> str:
    return table.points_interval(change) if change is not None else table.ABSENT
