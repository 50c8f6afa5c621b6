"""What several charts share: a series' colour and marker, legends, labels that avoid each other, signed ticks."""

from collections.abc import Mapping, Sequence
from typing import Any

from reports.svg import DASHES, INK, MARKERS, SERIES

Box = tuple[float, float, float, float]
"""Left, bottom, right, top, in pixels."""


def color(series: int) -> str:
    return SERIES[series % len(SERIES)]


def marker(series: int) -> str:
    """A colour that comes again has another marker, and another dash."""
    return MARKERS[(series + series // len(SERIES)) % len(MARKERS)]


def dash(series: int) -> Any:
    return DASHES[(series + series // len(SERIES)) % len(DASHES)]


def crowded(series: Mapping[str, int]) -> bool:
    """More methods than a reader tells apart by colour and marker: their names stand beside what they did."""
    return len(series) > len(SERIES)


def shown(name: str, limit: int = 32) -> str:
    """A name short enough for a chart; of a path the end says most."""
    if len(name) <= limit:
        return name
    return "…" + name[1 - limit :] if "/" in name else name[: limit - 1] + "…"


def legend(figure: Any, series: Mapping[str, int], width: int, lines: bool = False) -> None:
    """Names beside their markers (or dashes), above the chart."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=color(i), linestyle=dash(i), linewidth=1.9)
        if lines
        else Line2D([], [], color=color(i), marker=marker(i), linestyle="none", markersize=8)
        for i in series.values()
    ]
    names = [shown(name) for name in series]
    columns = max(1, min(len(names), (width - 20) // (45 + 8 * max(map(len, names), default=1))))
    style = {"handletextpad": 0.5, "columnspacing": 1.4, "handlelength": 2.6 if lines else 1.2}
    figure.legend(handles, names, loc="outside upper left", ncols=columns, **style)


def signed(axis: Any) -> None:
    """Tick labels with a plus or a minus sign."""
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+g}".replace("-", "−") if value else "0"))


def logarithmic(axes: Any) -> None:
    """A logarithmic vertical axis whose ticks are plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=6))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def place_labels(
    figure: Any,
    axes: Any,
    labels: Sequence[tuple[float, float, str]],
    others: Sequence[tuple[float, float]] = (),
    size: float = 12,
) -> None:
    """Write each (x, y, text) beside its point, where it covers neither a label nor any point; `others` are points
    that have no label."""
    figure.draw_without_rendering()
    frame = axes.get_window_extent()
    spots = [axes.transData.transform((x, y)) for x, y, _ in labels]
    taken: list[Box] = [(x - 6, y - 6, x + 6, y + 6) for x, y in spots]
    taken += [(x - 3, y - 3, x + 3, y + 3) for x, y in map(axes.transData.transform, others)]
    for (x, y), (data_x, data_y, text) in zip(spots, labels, strict=True):
        text = shown(text, 24)
        width, height = 0.62 * size * len(text), 1.25 * size
        best = min(_places(x, y, width, height), key=lambda box: _cost(box, taken, frame))
        taken.append(best)
        offset = ((best[0] + best[2]) / 2 - x, (best[1] + best[3]) / 2 - y)
        style = {"ha": "center", "va": "center", "fontsize": size, "color": INK, "in_layout": False}
        axes.annotate(text, (data_x, data_y), offset, textcoords="offset points", **style)


def _places(x: float, y: float, width: float, height: float) -> list[Box]:
    """Candidate boxes around a point, the preferred ones first."""
    near, far = 9.0, 20.0
    right, left, side = near + width / 2, -near - width / 2, height * 0.55
    above, higher = near + height / 2, far + height / 2
    centres = [(right, side), (right, -side), (left, side), (left, -side), (0.0, above), (0.0, -above)]
    centres += [(right, higher), (right, -higher), (left, higher), (left, -higher), (0.0, higher), (0.0, -higher)]
    return [(x + dx - width / 2, y + dy - height / 2, x + dx + width / 2, y + dy + height / 2) for dx, dy in centres]


def _cost(box: Box, taken: Sequence[Box], frame: Any) -> float:
    """Area in common with what is there already, and far more for what would stand outside the frame."""

    def common(a: Box, b: Box) -> float:
        return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))

    inside = common(box, (frame.x0, frame.y0, frame.x1, frame.y1))
    outside = (box[2] - box[0]) * (box[3] - box[1]) - inside
    return sum(common(box, other) for other in taken) + 10 * outside
