"""The charts about models: what was gained and lost, how training went, how a grid came out.

Each function takes numbers that are ready to be drawn (points are percentage points) and gives a `Chart`, or None
where matplotlib is not installed. `series` numbers a method alike in every chart: it stands for a colour, a marker and
a dash, so that no method is told apart by colour alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reports.blocks import Chart
from reports.marks import color, crowded, dash, legend, logarithmic, marker, place_labels, shown, signed
from reports.svg import INK, NARROW, PAPER, QUIET, SERIES, SHADE, chart


@dataclass(frozen=True)
class Span:
    """A value and its interval, both in the chart's units; NaN ends are not drawn."""

    value: float
    low: float = math.nan
    high: float = math.nan

    @property
    def known(self) -> bool:
        return not math.isnan(self.value)

    @property
    def arms(self) -> list[list[float]]:
        """Distances to the ends, as matplotlib's error bars want them."""
        below, above = self.value - self.low, self.high - self.value
        return [[0.0 if math.isnan(distance) else max(0.0, distance)] for distance in (below, above)]


@dataclass(frozen=True)
class Point:
    """One method in a plane; `seeds` are its single training runs."""

    name: str
    series: int
    x: Span
    y: Span
    seeds: Sequence[tuple[float, float]] = ()


def tradeoff(name: str, title: str, description: str, points: Sequence[Point], margin: float) -> Chart | None:
    """Domain gain against general change. The base stands at the origin; left of -margin is shaded."""

    def draw(figure: Any, width: int) -> None:
        axes = figure.subplots()
        axes.axhline(0, color=QUIET, linewidth=0.8)
        axes.axvline(0, color=QUIET, linewidth=0.8)
        for point in points:
            for x, y in point.seeds if len(point.seeds) > 1 else ():
                style = {"color": color(point.series), "marker": marker(point.series), "alpha": 0.45}
                axes.plot(x, y, linestyle="none", markersize=5, markeredgewidth=0, **style)
            _mark(axes, point.x, point.y, point.series, size=9)
        axes.plot(0, 0, marker="+", markersize=11, markeredgewidth=1.6, color=INK, linestyle="none")
        axes.margins(0.12)
        low, high = axes.get_xlim()
        if low < -margin:
            axes.axvspan(low - 100, -margin, color=SHADE, alpha=0.09, linewidth=0)
            axes.set_xlim(low, high)
        axes.set_xlabel("change of the general mean, points")
        axes.set_ylabel("change of domain accuracy, points")
        signed(axes.xaxis)
        signed(axes.yaxis)
        labels = [(p.x.value, p.y.value, p.name) for p in points] + [(0.0, 0.0, "base")]
        others = [seed for point in points for seed in point.seeds]
        place_labels(figure, axes, labels, others, 10.5 if more else 12)

    more = 12 * max(0, len(points) - len(SERIES))
    return chart(name, title, description, draw, (430 + more, 360 + more))


def _mark(axes: Any, x: Span, y: Span, series: int, size: float) -> None:
    """A point with its interval in both directions."""
    marks(axes, [x], [y], series, size)


def marks(axes: Any, x: Sequence[Span], y: Sequence[Span], series: int, size: float) -> None:
    """Points of one series with their intervals, as one artist: drawn one by one, many take seconds."""
    style = {"color": color(series), "marker": marker(series), "markersize": size, "elinewidth": 1.5}
    arms = [[[span.arms[end][0] for span in spans] for end in (0, 1)] for spans in (y, x)]
    places = ([span.value for span in spans] for spans in (x, y))
    axes.errorbar(*places, *arms, markeredgecolor=PAPER, markeredgewidth=0.7, linestyle="none", **style)


@dataclass(frozen=True)
class Dots:
    """One row of a dot plot: a benchmark, and per series what it changed by."""

    label: str
    spans: Sequence[tuple[int, Span]]
    group: str = ""


def dots(
    name: str, title: str, description: str, rows: Sequence[Dots], series: Mapping[str, int], margin: float
) -> Chart | None:
    """Change against the base per benchmark, one dot a method, with intervals; the margin band is shaded."""
    height = 15 * len(series) + (34 if crowded(series) else 16)
    groups = 18 * len({row.group for row in rows})
    heights = (90 + height * len(rows) + groups, 105 + (height + 17) * len(rows) + groups)

    def draw(figure: Any, width: int) -> None:
        axes, named = figure.subplots(), crowded(series)
        above = named or width <= NARROW
        axes.axvline(0, color=QUIET, linewidth=1)
        axes.axvspan(-margin, margin, color=SHADE, alpha=0.1, linewidth=0)
        places = _places_of(rows, 1.4 * _step(len(series), above) if above else 0.45)
        found: dict[int, list[tuple[Span, Span]]] = {}
        for row, place, opens in places:
            _dot_row(axes, row, place, opens, len(series), above, found)
        for number, pairs in found.items():
            marks(axes, [x for x, _ in pairs], [y for _, y in pairs], number, size=7)
        axes.set_ylim(places[-1][1] + (0.5 if named else 0.6), -0.5)
        if named:
            of = {number: shown(name, 24 if width > NARROW else 12) for name, number in series.items()}
            ticks = [(y.value, of[number]) for number, pairs in found.items() for _, y in pairs]
            axes.set_yticks(*zip(*ticks, strict=True), fontsize=10)
        else:
            axes.set_yticks([p for _, p, _ in places], ["" if above else shown(row.label, 24) for row, _, _ in places])
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
        axes.set_xlabel("change against the base, points")
        signed(axes.xaxis)
        if not named:
            legend(figure, series, width)

    return chart(name, title, description, draw, heights)


def _places_of(rows: Sequence[Dots], gap: float) -> list[tuple[Dots, float, bool]]:
    """Each row, where it stands, and whether it opens a group; before a group is a gap, in heights of a row."""
    places, place = [], 0.0
    for number, row in enumerate(rows):
        opens = bool(row.group) and (number == 0 or rows[number - 1].group != row.group)
        place += gap if opens else 0.0
        places.append((row, place, opens))
        place += 1
    return places


def _step(count: int, above: bool) -> float:
    """From dot to dot of one row, in heights of a row."""
    return 1 / (count + (2.2 if above else 1.2))


def _dot_row(
    axes: Any,
    row: Dots,
    place: float,
    opens: bool,
    count: int,
    above: bool,
    found: dict[int, list[tuple[Span, Span]]],
) -> None:
    """Where the dots of one benchmark stand, under each other, into `found` by series; its name may stand above
    them."""
    across = axes.get_yaxis_transform()
    step = _step(count, above)
    first = place - step * (len(row.spans) - 1) / 2 + (step * 0.4 if above else 0)
    if opens:
        head = first - 2.4 * step if above else place - 0.62
        axes.text(0, head, row.group, transform=across, color=QUIET, fontsize=11)
    if above:
        axes.text(0, first - 1.1 * step, shown(row.label, 40), transform=across, fontsize=11.5, va="center")
    for number, (series, span) in enumerate(row.spans):
        if span.known:
            found.setdefault(series, []).append((span, Span(first + step * number)))


@dataclass(frozen=True)
class Curve:
    """One method's metric over training steps: the mean over seeds, and the lowest and highest seed."""

    series: int
    steps: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float] = field(default_factory=list)
    high: Sequence[float] = field(default_factory=list)


@dataclass(frozen=True)
class Panel:
    title: str
    curves: Sequence[Curve]
    log: bool = False


def curves(name: str, title: str, description: str, panels: Sequence[Panel], series: Mapping[str, int]) -> Chart | None:
    """Small multiples over training steps, one panel a metric."""
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)

    def draw(figure: Any, width: int) -> None:
        shape = (rows, columns) if width > NARROW else (len(panels), 1)
        grid = figure.subplots(*shape, squeeze=False).ravel()
        for axes, panel in zip(grid, panels, strict=False):
            for curve in panel.curves:
                ink = color(curve.series)
                axes.plot(curve.steps, curve.mean, color=ink, linestyle=dash(curve.series), linewidth=1.7)
                if len(curve.low):
                    axes.fill_between(curve.steps, curve.low, curve.high, color=ink, alpha=0.15, linewidth=0)
            axes.set_title(panel.title, loc="left", fontsize=12)
            if panel.log:
                logarithmic(axes)
            axes.grid(axis="y")
            axes.set_xlabel("optimizer step")
            axes.locator_params(axis="x", nbins=4)
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        legend(figure, series, width, lines=True)

    return chart(name, title, description, draw, (60 + 210 * rows, 70 + 190 * len(panels)))


@dataclass(frozen=True)
class Trial:
    """One grid point of one method."""

    series: int
    label: str
    x: Span
    y: Span
    chosen: bool


def grid_points(
    name: str,
    title: str,
    description: str,
    trials: Sequence[Trial],
    series: Mapping[str, int],
    labels: tuple[str, str],
) -> Chart | None:
    """A tuning grid: each method's points joined in the order of the grid, the chosen ones ringed."""

    def draw(figure: Any, width: int) -> None:
        axes = figure.subplots()
        for index in series.values():
            own = [trial for trial in trials if trial.series == index]
            style = {"color": color(index), "linestyle": dash(index), "linewidth": 0.9, "alpha": 0.55}
            axes.plot([t.x.value for t in own], [t.y.value for t in own], **style)
            for trial in own:
                _mark(axes, trial.x, trial.y, index, size=7)
        for trial in trials:
            if trial.chosen:
                ring = {"markersize": 15, "markerfacecolor": "none", "markeredgecolor": INK, "markeredgewidth": 1.3}
                axes.plot(trial.x.value, trial.y.value, marker="o", **ring)
        axes.set_xlabel(labels[0])
        axes.set_ylabel(labels[1])
        axes.grid()
        axes.margins(0.12)
        legend(figure, series, width)
        place_labels(figure, axes, [(t.x.value, t.y.value, t.label) for t in trials], size=10)

    return chart(name, title, description, draw, (440, 400))
