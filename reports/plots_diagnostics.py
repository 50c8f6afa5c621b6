"""The charts about two sets of answers: histograms, dots with intervals, a map, how many rows a threshold lets through.

The raw side is drawn open or dashed in the ink's colour, the refined side filled, so that colour is never all that
tells them apart.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reports.blocks import Chart
from reports.marks import shown
from reports.svg import INK, KIND_COLOR, NARROW, PAPER, QUIET, SHADE, chart

REFINED = KIND_COLOR["changed"]


@dataclass(frozen=True)
class Dot:
    """A value with its 95% interval; NaN ends are not drawn."""

    value: float
    low: float = math.nan
    high: float = math.nan
    goes_on: str = ""
    """ "<", ">" or both: sides on which the interval reaches further than `low` or `high`, drawn as arrow heads."""


@dataclass(frozen=True)
class Line:
    """One row of a dot plot; either side may be missing."""

    label: str
    raw: Dot | None = None
    refined: Dot | None = None


def dots(
    name: str, title: str, description: str, lines: Sequence[Line], axis: str, reference: float | None = None
) -> Chart | None:
    """A row each, raw as an open diamond and refined as a filled circle, with intervals, joined where both are known;
    a dashed line stands at `reference` (what chance or no change would give)."""

    def draw(figure: Any, width: int) -> None:
        axes, narrow = figure.subplots(), width <= NARROW
        if reference is not None:
            axes.axvline(reference, color=QUIET, linewidth=1, linestyle="--")
        for place, line in enumerate(lines):
            if line.raw and line.refined:
                axes.plot([line.raw.value, line.refined.value], [place, place], color=SHADE, linewidth=3, alpha=0.35)
            for dot, raw in ((line.raw, True), (line.refined, False)):
                if dot:
                    _dot(axes, dot, place, raw)
            if narrow:
                across = axes.get_yaxis_transform()
                axes.text(0, place - 0.36, shown(line.label, 46), transform=across, fontsize=11.5, va="center")
        axes.set_ylim(len(lines) - 0.5, -0.75 if narrow else -0.5)
        axes.set_yticks(range(len(lines)), ["" if narrow else shown(line.label, 46) for line in lines])
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlabel(axis)
        axes.margins(x=0.06)
        if any(line.raw for line in lines):
            _legend(figure)

    return chart(name, title, description, draw, (90 + 27 * len(lines), 100 + 40 * len(lines)))


def _dot(axes: Any, dot: Dot, place: float, raw: bool) -> None:
    if not math.isnan(dot.low):
        axes.plot([dot.low, dot.high], [place, place], color=INK if raw else REFINED, linewidth=1.5)
    for sign, end in (("<", dot.low), (">", dot.high)):
        if sign in dot.goes_on:
            axes.plot(end, place, marker=sign, markersize=7, color=INK if raw else REFINED, linestyle="none")
    style = {"marker": "D" if raw else "o", "markersize": 6.5 if raw else 8, "linestyle": "none"}
    colors = {"markerfacecolor": PAPER if raw else REFINED, "markeredgecolor": INK if raw else PAPER}
    axes.plot(dot.value, place, markeredgewidth=1.3 if raw else 0.7, **style, **colors)


def histograms(
    name: str, title: str, description: str, sides: dict[str, Sequence[int]], edges: Sequence[float], axis: str
) -> Chart | None:
    """Counts of raw (dashed outline) and refined (filled), or of one of them, over shared bins."""

    def draw(figure: Any, width: int) -> None:
        axes = figure.subplots()
        if "refined" in sides:
            axes.stairs(sides["refined"], edges, fill=True, color=REFINED, alpha=0.45, linewidth=0)
            axes.stairs(sides["refined"], edges, color=REFINED, linewidth=1.4)
        if "raw" in sides:
            axes.stairs(sides["raw"], edges, color=INK, linewidth=1.6, linestyle="--")
        axes.set_xlabel(axis)
        axes.set_ylabel("rows")
        axes.set_xlim(edges[0], edges[-1])
        axes.grid(axis="y")
        if len(sides) > 1:
            _legend(figure, histogram=True)

    return chart(name, title, description, draw, (270, 260))


def points(name: str, title: str, description: str, places: Sequence[Sequence[float]]) -> Chart | None:
    """Both sets in one plane ([raw x, raw y, refined x, refined y] each), every pair joined by a thin line."""

    def draw(figure: Any, width: int) -> None:
        from matplotlib.collections import LineCollection

        axes = figure.subplots()
        segments = [[(a, b), (c, d)] for a, b, c, d in places]
        axes.add_collection(LineCollection(segments, colors=SHADE, linewidths=0.7, alpha=0.35))
        raw, refined = (
            ([p[0] for p in places], [p[1] for p in places]),
            ([p[2] for p in places], [p[3] for p in places]),
        )
        axes.plot(*raw, "D", markersize=4.5, markerfacecolor="none", markeredgecolor=INK, markeredgewidth=0.9)
        axes.plot(*refined, "o", markersize=5, color=REFINED, markeredgecolor=PAPER, markeredgewidth=0.4)
        axes.set_xlabel("first principal axis")
        axes.set_ylabel("second principal axis")
        axes.set_aspect("equal", adjustable="datalim")
        axes.margins(0.06)
        _legend(figure)

    return chart(name, title, description, draw, (470, 360))


def sweep(
    name: str, title: str, description: str, curve: Sequence[tuple[float, float]], threshold: float, axis: str
) -> Chart | None:
    """Share of rows that pass (percent) against the threshold; the one in force is marked."""

    def draw(figure: Any, width: int) -> None:
        axes = figure.subplots()
        axes.plot([x for x, _ in curve], [y for _, y in curve], color=REFINED, linewidth=1.9)
        axes.axvline(threshold, color=INK, linewidth=1.4, linestyle="--")
        kept = next((y for x, y in curve if x == threshold), math.nan)
        axes.plot(threshold, kept, marker="o", markersize=8, color=REFINED, markeredgecolor=PAPER)
        axes.annotate(
            f"{threshold:g}: {kept:.0f}%", (threshold, kept), (8, 6), textcoords="offset points", fontsize=11.5
        )
        axes.set_ylim(0, 104)
        axes.set_xlabel(axis)
        axes.set_ylabel("rows that pass, %")
        axes.grid(axis="y")

    return chart(name, title, description, draw, (280, 270))


def _legend(figure: Any, histogram: bool = False) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    if histogram:
        handles: list[Any] = [
            Line2D([], [], color=INK, linestyle="--", linewidth=1.6),
            Patch(color=REFINED, alpha=0.6),
        ]
    else:
        raw: dict[str, Any] = {"markerfacecolor": "none", "markeredgecolor": INK}
        handles = [
            Line2D([], [], marker="D", linestyle="none", markersize=6.5, **raw),
            Line2D([], [], marker="o", linestyle="none", markersize=8, color=REFINED),
        ]
    figure.legend(handles, ["raw", "refined"], loc="outside upper left", ncols=2, handletextpad=0.4)
