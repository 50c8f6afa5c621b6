"""The grid that every method ran over: what settings cost and gave, and which were chosen."""

import math
from typing import NamedTuple

from reports import plots, table
from reports.blocks import Block, Column, Figure, Heading, Mono, Paragraph, Table, Text
from reports.data import VALIDATION, ReportData, Trial
from reports.plots import Span

_SPLIT = (
    "Settings were chosen on the validation split alone, with the first seed, over the same grid for every method. "
    "A chosen score is the best of several and therefore a little too good; the comparison above uses other items."
)


class Mean(NamedTuple):
    """A share with its interval."""

    value: float
    low: float
    high: float


def render(data: ReportData) -> list[Block]:
    if not data.trials:
        return []
    return [Heading("Tuning"), Paragraph(_SPLIT), _figure(data)]


def _figure(data: ReportData) -> Figure:
    series = {name: data.series(name) for name in sorted({trial.method for trial in data.trials}, key=data.series)}
    points = [_point(data, trial, number) for number, trial in enumerate(data.trials, 1)]
    rows = [_row(data, trial) for trial in data.trials]
    measured = all(_general(data, trial) is not None for trial in data.trials)
    axes = ("general mean, %" if measured else "grid point", "validation accuracy, %")
    title = "New skill against general skill over the grid"
    description = "Each grid point of each method by its general mean and its accuracy on the validation split."
    tuned = ", ".join(data.trials[0].params)
    caption = f"Labels: {tuned}. Rings mark what was chosen; lines are 95% intervals over items."
    if front := _front(data):
        listed = ", ".join(f"{trial.method} at {_settings(trial)}" for trial in front)
        caption += f" By their values alone, no point is better on both axes than {listed}."
    chart = plots.grid_points("tuning", title, description, points, series, axes)
    titles = ["Method and settings", "Validation accuracy", "General mean", "Items", "Chosen"]
    columns = [Column(name, "right" if 0 < number < 4 else "left") for number, name in enumerate(titles)]
    numbers = Table(columns, rows, note="Items: validation / general.")
    return Figure(title, description, chart, numbers, caption)


def _front(data: ReportData) -> list[Trial]:
    """The points that no other matches or beats on both axes, most domain first."""
    found = [(trial, trial.scores[VALIDATION].value, _general(data, trial)) for trial in data.trials]
    points = [(trial, domain, general[0].value) for trial, domain, general in found if general]
    best = [
        (trial, domain, general)
        for trial, domain, general in points
        if not any((d, g) != (domain, general) and d >= domain and g >= general for _, d, g in points)
    ]
    return [trial for trial, _, _ in sorted(best, key=lambda point: (-point[1], point[0].method))]


def _settings(trial: Trial) -> str:
    return " ".join(f"{key}={table.plain_number(value)}" for key, value in trial.params.items())


def _point(data: ReportData, trial: Trial, number: int) -> plots.Trial:
    """In percent; where the general benchmarks were not measured, points stand side by side."""
    score, general = trial.scores[VALIDATION], _general(data, trial)
    label = " ".join(table.plain_number(value) for value in trial.params.values())
    x = Span(float(number)) if general is None else Span(*(100 * part for part in general[0]))
    y = Span(100 * score.value, 100 * score.low, 100 * score.high)
    return plots.Trial(data.series(trial.method), label, x, y, trial.chosen)


def _row(data: ReportData, trial: Trial) -> list[Text]:
    score, general = trial.scores[VALIDATION], _general(data, trial)
    return [
        [Mono(trial.method), " ", Mono(_settings(trial))],
        table.score_interval(score),
        table.score_interval(general[0]) if general else table.ABSENT,
        f"{table.count(score.n)} / {table.count(general[1]) if general else '–'}",
        "yes" if trial.chosen else "no",
    ]


def _general(data: ReportData, trial: Trial) -> tuple[Mean, int] | None:
    """The unweighted mean of the general benchmarks and their items, where all were measured for this grid point. The
    benchmarks are independent samples, so the distances to the ends add up as squares."""
    wanted = data.spec.evaluate.general if data.spec.evaluate else []
    scores = [trial.scores[benchmark] for benchmark in wanted if benchmark in trial.scores]
    if not scores or len(scores) != len(wanted):
        return None
    value = sum(score.value for score in scores) / len(scores)
    below = math.hypot(*(score.value - score.low for score in scores)) / len(scores)
    above = math.hypot(*(score.high - score.value for score in scores)) / len(scores)
    return Mean(value, value - below, value + above), sum(score.n for score in scores)
