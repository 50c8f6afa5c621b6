"""Does a cheap measure foretell forgetting? What is measured on the trained model, and on its data before training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from reports import plots_designs, table
from reports.blocks import Block, Bullets, Column, Figure, Heading, Paragraph, Table, Text
from reports.data import ReportData

if TYPE_CHECKING:
    from evals.predicting import Predictions

WORDS = {
    "forward_kl": "forward KL from the base, a token",
    "reverse_kl": "reverse KL from the base, a token",
    "forward_kl_sequence": "forward KL, an answer",
    "reverse_kl_sequence": "reverse KL, an answer",
    "nll": "surprise of the data to the base",
    "nll_change": "change of that against the raw answers",
    "length_shift": "change of length",
    "embedding_to_own": "distance to the base’s own answers",
    "embedding_moved": "distance to the raw answers",
    "all of the model": "all measures of the model",
    "all of the data": "all measures of the data",
}
FEWEST = 6
"""Runs below which a fit says nothing worth drawing."""


def render(data: ReportData) -> list[Block]:
    if data.comparison is None:
        return []
    from evals.predicting import collect, predictions  # needs scipy

    observations, _ = collect(data.store, data.spec)
    found = predictions(observations)
    if not found.explained and not found.forecast:
        return []
    blocks: list[Block] = [Heading("Forecasts"), Paragraph(_HOW)]
    methods = {each.method for each in found.observations}
    if len(found.observations) < FEWEST or len(methods) < 4:
        words = f"{table.counted(len(found.observations), 'run')} of {table.counted(len(methods), 'method')}"
        blocks.append(Paragraph(f"Only {words}: a fit to so few describes these and foretells nothing.", "warning"))
    blocks += [_figure(data, found)] if found.explained else []
    blocks += [_ranks(found)] if found.forecast else []
    return [*blocks, *([Bullets([_named(note) for note in found.notes])] if found.notes else [])]


_HOW = (
    "Forgotten is the base’s general mean less a run’s. What was measured on the trained model may explain forgetting; "
    "what was measured on the data before training may forecast it."
)


def _figure(data: ReportData, found: Predictions) -> Figure:
    methods = sorted({each.method for each in found.observations}, key=data.series)
    series = {name: data.series(name) for name in methods}
    clouds = []
    for name, fit in found.explained.items():
        if len(fit.measures) == 1:
            points = [
                (series[each.method], each.measures[name], 100 * each.forgotten)
                for each in found.observations
                if name in each.measures
            ]
            line = (100 * fit.intercept, 100 * fit.slopes[0])
            clouds.append(plots_designs.Cloud(WORDS.get(name, name), points, line))
    title = "What was forgotten, by what was measured"
    description = "A mark for each training: a measure along the axis, points of general skill forgotten upwards."
    drawn = (
        plots_designs.scatter("forecasts", title, description, clouds, series, "forgotten, points") if clouds else None
    )
    rows: list[list[Text]] = [
        [
            WORDS.get(name, name),
            table.decimal_interval(fit.r2, fit.low, fit.high),
            table.decimal(fit.r2_group_left_out, 2) if table.known(fit.r2_group_left_out) else table.NOT_ESTIMABLE,
            table.p_value(fit.p),
            f"{table.count(fit.n)} / {table.count(fit.groups)} / {table.count(_values(found, fit.measures))}",
        ]
        for name, fit in found.explained.items()
    ]
    titles = ("R²", "R², methods left out", "p", "Runs / methods / values")
    columns = [Column("Measure"), *(Column(each, "right") for each in titles)]
    note = (
        "R²: the share of the runs’ differences in forgetting that a straight line explains. Methods left out: the "
        "same where each method’s runs are foretold by the others’; below 0 is worse than their mean. Values: how many "
        "different ones the measure takes; two are joined by a line whatever they mean."
    )
    return Figure(title, description, drawn, Table(columns, rows, note=note, name="forecasts"), _caption(found))


def _values(found: Predictions, measures: Sequence[str]) -> int:
    """Different values, or combinations of them, among the runs."""
    known = [each.measures for each in found.observations if all(name in each.measures for name in measures)]
    return len({tuple(each[name] for name in measures) for each in known})


def _caption(found: Predictions) -> str:
    single = {
        n: fit for n, fit in found.explained.items() if len(fit.measures) == 1 and _values(found, fit.measures) > 2
    }
    if not single:
        return "No measure takes more than two values here: a line through two says nothing."
    best = max(single, key=lambda name: single[name].r2)
    fit = single[best]
    return f"Closest is {WORDS.get(best, best)}: R² {table.decimal_interval(fit.r2, fit.low, fit.high)}."


def _ranks(found: Predictions) -> Table:
    rows: list[list[Text]] = [
        [
            WORDS.get(name, name),
            table.decimal(rank.spearman, 2),
            table.decimal(rank.kendall, 2),
            table.p_value(rank.p),
            table.count(rank.n),
        ]
        for name, rank in found.forecast.items()
    ]
    titles = ("Spearman", "Kendall", "p", "Methods")
    columns = [Column("Measured before training"), *(Column(each, "right") for each in titles)]
    note = "Agreement of two rankings of the methods: by the measure of their data, and by what they then forgot."
    return Table(columns, rows, "Foretold before training", note, "forecasts-ranks")


def _named(note: str) -> str:
    name, colon, rest = note.partition(":")
    return f"{WORDS.get(name, name)}{colon}{rest}."
