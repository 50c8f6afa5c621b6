"""The grid that every method ran over: what settings cost and gave, and which were chosen."""

from reports import plots, table
from reports.blocks import Block, Column, Figure, Heading, Mono, Paragraph, Table, Text
from reports.data import VALIDATION, ReportData, Trial
from reports.plots import Span

_SPLIT = (
    "Settings were chosen on the validation split alone, with the first seed, over the same grid for every method. "
    "A chosen score is the best of several and therefore a little too good; the comparison above uses other items."
)


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
    caption = f"Labels: {tuned}. Rings mark what was chosen; vertical lines are 95% intervals."
    chart = plots.grid_points("tuning", title, description, points, series, axes)
    titles = ["Method and settings", "Validation accuracy", "General mean", "Validation items", "Chosen"]
    columns = [Column(name, "right" if 0 < number < 4 else "left") for number, name in enumerate(titles)]
    return Figure(title, description, chart, Table(columns, rows), caption)


def _point(data: ReportData, trial: Trial, number: int) -> plots.Trial:
    """In percent; where the general benchmarks were not measured, points stand side by side."""
    score, general = trial.scores[VALIDATION], _general(data, trial)
    label = " ".join(table.plain_number(value) for value in trial.params.values())
    x = Span(float(number) if general is None else 100 * general)
    y = Span(100 * score.value, 100 * score.low, 100 * score.high)
    return plots.Trial(data.series(trial.method), label, x, y, trial.chosen)


def _row(data: ReportData, trial: Trial) -> list[Text]:
    score = trial.scores[VALIDATION]
    settings = " ".join(f"{key}={table.plain_number(value)}" for key, value in trial.params.items())
    return [
        [Mono(trial.method), " ", Mono(settings)],
        table.percent_interval(score),
        table.percent(_general(data, trial)),
        table.count(score.n),
        "chosen" if trial.chosen else "",
    ]


def _general(data: ReportData, trial: Trial) -> float | None:
    """The unweighted mean of the general benchmarks, where all of them were measured for this grid point."""
    wanted = data.spec.evaluate.general if data.spec.evaluate else []
    scores = [trial.scores[benchmark].value for benchmark in wanted if benchmark in trial.scores]
    return sum(scores) / len(scores) if scores and len(scores) == len(wanted) else None
