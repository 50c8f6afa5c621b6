"""The charts about rows: the funnel, cosines at the gate, lengths before and after."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reports.blocks import Chart
from reports.marks import shown
from reports.svg import INK, KIND_COLOR, KIND_HATCH, KINDS, NARROW, PAPER, QUIET, chart

WORDS = {"kept": "kept", "changed": "changed", "created": "created", "fell_back": "fell back", "dropped": "dropped"}


@dataclass(frozen=True)
class Bar:
    """One step of the funnel: (action, reason, rows), in the order of KINDS."""

    label: str
    parts: Sequence[tuple[str, str, int]]


def funnel(name: str, title: str, description: str, bars: Sequence[Bar]) -> Chart | None:
    """A stacked bar per step, by action and, within it, by reason."""
    used = [kind for kind in KINDS if any(part[0] == kind for bar in bars for part in bar.parts)]

    def draw(figure: Any, width: int) -> None:
        axes = figure.subplots()
        most = max((sum(n for _, _, n in bar.parts) for bar in bars), default=1)
        pixels = (width - (130 if width > NARROW else 20)) / most
        for row, bar in enumerate(bars):
            left = 0
            for kind, reason, n in bar.parts:
                axes.barh(
                    row,
                    n,
                    left=left,
                    height=0.58,
                    color=KIND_COLOR[kind],
                    hatch=KIND_HATCH.get(kind),
                    edgecolor=PAPER,
                    linewidth=1.2,
                )
                _write(axes, left + n / 2, row, kind, reason, n, n * pixels)
                left += n
            if width <= NARROW:
                axes.text(0, row - 0.42, shown(bar.label), fontsize=11.5, va="center")
        axes.set_ylim(len(bars) - 0.5, -0.65 if width <= NARROW else -0.5)
        axes.set_yticks(range(len(bars)), [shown(b.label, 20) for b in bars] if width > NARROW else [""] * len(bars))
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlim(0, most)
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlabel("rows")
        _legend(figure, [(WORDS[k], KIND_COLOR[k], KIND_HATCH.get(k)) for k in used], 5 if width > NARROW else 3)

    return chart(name, title, description, draw, (75 + 44 * len(bars), 95 + 58 * len(bars)))


def _write(axes: Any, x: float, y: float, kind: str, reason: str, n: int, pixels: float) -> None:
    """The count, with the reason where there is room for both, on a plain patch of the bar's own colour."""
    words = [f"{n:,} {reason}"] if reason != "ok" else []
    for text in [*words, f"{n:,}"]:
        if len(text) * 6.6 + 8 < pixels:
            patch = {"facecolor": KIND_COLOR[kind], "edgecolor": "none", "pad": 1.5}
            axes.text(x, y, text, color=PAPER, ha="center", va="center", fontsize=11, bbox=patch, clip_on=True)
            return


def cosines(
    name: str, title: str, description: str, counts: Sequence[int], edges: Sequence[float], threshold: float
) -> Chart | None:
    """Histogram of each row's best cosine with the gate as a line: below it rows fell back, hatched."""

    def draw(figure: Any, width: int) -> None:
        axes = figure.subplots()
        for n, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
            kind = "changed" if (low + high) / 2 >= threshold else "fell_back"
            axes.bar(
                low,
                n,
                width=high - low,
                align="edge",
                color=KIND_COLOR[kind],
                hatch=KIND_HATCH.get(kind),
                edgecolor=PAPER,
                linewidth=0.8,
            )
        axes.axvline(threshold, color=INK, linewidth=1.6, linestyle="--")
        top = max(counts, default=1) * 1.16
        axes.set_ylim(0, top)
        right = threshold < (edges[0] + edges[-1]) / 2
        axes.annotate(
            f"threshold {threshold:g}",
            (threshold, top),
            (6 if right else -6, -2),
            textcoords="offset points",
            ha="left" if right else "right",
            va="top",
            fontsize=11.5,
        )
        axes.set_xlim(min(edges[0], threshold), max(edges[-1], threshold))
        axes.set_xlabel("cosine of the best rewrite with the reference")
        axes.set_ylabel("rows")
        parts = [("passed", KIND_COLOR["changed"], None), ("below", KIND_COLOR["fell_back"], KIND_HATCH["fell_back"])]
        _legend(figure, parts, 2)

    return chart(name, title, description, draw, (290, 280))


def lengths(
    name: str,
    title: str,
    description: str,
    raw: Sequence[int],
    refined: Sequence[int],
    edges: Sequence[float],
    unit: str,
) -> Chart | None:
    """Two histograms over each other: the raw answers as a dashed outline, the refined responses filled."""

    def draw(figure: Any, width: int) -> None:
        axes = figure.subplots()
        axes.stairs(refined, edges, fill=True, color=KIND_COLOR["changed"], alpha=0.45, linewidth=0)
        axes.stairs(refined, edges, color=KIND_COLOR["changed"], linewidth=1.4)
        axes.stairs(raw, edges, color=INK, linewidth=1.6, linestyle="--")
        axes.set_xlabel(f"length of the supervision, {unit}")
        axes.set_ylabel("rows")
        axes.set_xlim(edges[0], edges[-1])
        axes.grid(axis="y")
        _length_legend(figure)

    return chart(name, title, description, draw, (280, 270))


def _length_legend(figure: Any) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles = [Line2D([], [], color=INK, linestyle="--", linewidth=1.6), Patch(color=KIND_COLOR["changed"], alpha=0.6)]
    figure.legend(handles, ["raw answers", "refined responses"], loc="outside upper left", ncols=2)


def _legend(figure: Any, parts: Sequence[tuple[str, str, str | None]], columns: int) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(facecolor=color, hatch=hatch, edgecolor=PAPER) for _, color, hatch in parts]
    figure.legend(
        handles,
        [label for label, _, _ in parts],
        loc="outside upper left",
        ncols=columns,
        labelcolor=QUIET,
        handlelength=1.6,
        columnspacing=1.4,
    )
