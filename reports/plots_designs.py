"""The charts about settings: curves over a swept key, crossed factors, and a matrix of stages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reports.blocks import Chart
from reports.marks import color, dash, legend, marker, shown
from reports.plots import Span, marks
from reports.svg import INK, NARROW, PAPER, QUIET, SHADE, chart


@dataclass(frozen=True)
class Line:
    """One curve: where each point stands on the horizontal axis, and its value with interval."""

    series: int
    places: Sequence[float]
    spans: Sequence[Span]


@dataclass(frozen=True)
class Panel:
    title: str
    lines: Sequence[Line]
    base: float | None = None
    """Drawn as a dashed line: what the base scores."""


def curves(
    name: str,
    title: str,
    description: str,
    panels: Sequence[Panel],
    series: Mapping[str, int],
    axis: str,
    ticks: Sequence[tuple[float, str]] = (),
    log: bool = False,
) -> Chart | None:
    """Panels beside each other (on a phone under each other), percent over a setting. `ticks` name places on an axis of
    words; without them it is one of numbers."""

    def draw(figure: Any, width: int) -> None:
        across = width > NARROW
        shape = (1, len(panels)) if across else (len(panels), 1)
        for axes, panel in zip(figure.subplots(*shape, squeeze=False).ravel(), panels, strict=True):
            if panel.base is not None:
                axes.axhline(panel.base, color=QUIET, linewidth=1, linestyle="--")
                axes.annotate("base", (1, panel.base), (-2, 3), xycoords=axes.get_yaxis_transform(),
                              textcoords="offset points", ha="right", fontsize=10.5, color=QUIET)  # fmt: skip
            for line in panel.lines:
                _line(axes, line)
            axes.set_title(panel.title, loc="left", fontsize=12)
            axes.grid(axis="y")
            axes.margins(x=0.08)
            if log:
                axes.set_xscale("log")
            _ticks(axes, ticks, slanted=sum(len(word) for _, word in ticks) > (34 if across else 40))
            axes.set_xlabel(axis)
            axes.set_ylabel("%")
        if len(series) > 1:
            legend(figure, series, width)

    extra = 40 if sum(len(word) for _, word in ticks) > 34 else 0
    return chart(name, title, description, draw, (310 + extra, 60 + (240 + extra) * len(panels)))


def _line(axes: Any, line: Line) -> None:
    known = [(x, span) for x, span in zip(line.places, line.spans, strict=True) if span.known]
    style = {"color": color(line.series), "linestyle": dash(line.series), "linewidth": 1.4}
    axes.plot([x for x, _ in known], [span.value for _, span in known], **style)
    if known:
        marks(axes, [Span(x) for x, _ in known], [span for _, span in known], line.series, size=7)


def _ticks(axes: Any, ticks: Sequence[tuple[float, str]], slanted: bool) -> None:
    from matplotlib.ticker import NullFormatter, NullLocator

    if not ticks:
        return
    style = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
    axes.set_xticks([place for place, _ in ticks], [shown(word, 22) for _, word in ticks], **style)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


def matrix(
    name: str, title: str, description: str, rows: Sequence[str], columns: Sequence[str],
    cells: Sequence[Sequence[tuple[float, str] | None]],
) -> Chart | None:  # fmt: skip
    """A shaded cell with its text for each row and column: (share from 0 to 1, text), or None where unknown."""

    def draw(figure: Any, width: int) -> None:
        axes = figure.subplots()
        for y, row in enumerate(cells):
            for x, cell in enumerate(row):
                if cell is None:
                    continue
                box = {"color": SHADE, "alpha": 0.06 + 0.5 * max(0.0, min(1.0, cell[0])), "linewidth": 0}
                axes.fill_between([x - 0.48, x + 0.48], y - 0.46, y + 0.46, **box)
                axes.text(x, y, cell[1], ha="center", va="center", fontsize=12, color=INK)
        axes.set_xlim(-0.5, len(columns) - 0.5)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        long = max(map(len, columns)) * len(columns) > (60 if width > NARROW else 24)
        style = {"rotation": 30, "ha": "left", "rotation_mode": "anchor"} if long else {}
        axes.set_xticks(range(len(columns)), [shown(each, 20) for each in columns], **style)
        axes.set_yticks(range(len(rows)), [shown(each, 18 if width > NARROW else 10) for each in rows])
        axes.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)

    return chart(name, title, description, draw, (90 + 42 * len(rows), 90 + 42 * len(rows)))


@dataclass(frozen=True)
class Cloud:
    """One panel of a scatter: (series, x, y) a run."""

    title: str
    points: Sequence[tuple[int, float, float]]
    line: tuple[float, float] | None = None
    """Intercept and slope of the fitted line."""


def scatter(
    name: str, title: str, description: str, clouds: Sequence[Cloud], series: Mapping[str, int], axis: str
) -> Chart | None:
    """Small multiples: a run each, by a measure (horizontal) and what it forgot (vertical)."""
    columns = min(3, len(clouds))
    rows = -(-len(clouds) // columns)

    def draw(figure: Any, width: int) -> None:
        shape = (rows, columns) if width > NARROW else (len(clouds), 1)
        grid = figure.subplots(*shape, squeeze=False).ravel()
        for axes, cloud in zip(grid, clouds, strict=False):
            for index in dict.fromkeys(i for i, _, _ in cloud.points):
                own = [(x, y) for i, x, y in cloud.points if i == index]
                style = {"color": color(index), "marker": marker(index), "markeredgecolor": PAPER}
                axes.plot(*zip(*own, strict=True), linestyle="none", markersize=7, markeredgewidth=0.6, **style)
            if cloud.line:
                ends = [min(x for _, x, _ in cloud.points), max(x for _, x, _ in cloud.points)]
                axes.plot(ends, [cloud.line[0] + cloud.line[1] * x for x in ends], color=QUIET, linewidth=1.2)
            axes.set_title(cloud.title, loc="left", fontsize=12)
            axes.grid(axis="y")
            axes.locator_params(axis="x", nbins=4)
            axes.set_ylabel(axis)
        for axes in grid[len(clouds) :]:
            axes.set_visible(False)
        legend(figure, series, width)

    return chart(name, title, description, draw, (70 + 210 * rows, 80 + 190 * len(clouds)))
