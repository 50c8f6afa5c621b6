"""From a matplotlib figure to an SVG element that lives inside the page: its colours, its font and its safety.

Charts are drawn in the stand-in colours below, which no one sees: here they become CSS variables, so that one drawing
is legible in light, in dark and on paper. Text stays text in the page's own font. Ids are prefixed with the chart's,
because several drawings share one document.
"""

import io
import logging
import re
import warnings
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

from reports.blocks import Chart

INK, QUIET, RULE, PAPER, SHADE = "#010101", "#010102", "#010103", "#010104", "#010105"
"""Text; secondary text and axes; grid lines; the page behind; a region that means something."""

SERIES_COUNT = 8
SERIES = tuple(f"#0202{number:02x}" for number in range(SERIES_COUNT))
"""Told apart by every kind of colour vision (after Okabe and Ito); each also has its own marker in MARKERS."""

MARKERS = ("o", "s", "D", "^", "v", "P", "X", "p")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)), (0, (3, 3)))

KINDS = ("kept", "changed", "created", "fell_back", "dropped")
KIND_COLOR = {kind: f"#0303{number:02x}" for number, kind in enumerate(KINDS)}
"""What became of a row; the last two also have a hatching in KIND_HATCH."""
KIND_HATCH = {"fell_back": "//", "dropped": "xx"}

VARIABLES = {INK: "--ink", QUIET: "--quiet", RULE: "--rule", PAPER: "--paper", SHADE: "--shade"}
VARIABLES |= {color: f"--series-{number}" for number, color in enumerate(SERIES)}
VARIABLES |= {color: f"--kind-{kind.replace('_', '-')}" for kind, color in KIND_COLOR.items()}

WIDE, NARROW = 720, 340
"""Widths in CSS pixels: beside text on a page, and on a phone."""

STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be selected, searched and read aloud
    "text.parse_math": False,  # a "$" in a name is a "$"
    "axes.unicode_minus": True,
    "figure.dpi": 72,  # so that sizes in points are CSS pixels
    "font.family": "DejaVu Sans",  # only for measuring; the page's own font is narrower
    "font.size": 12,
    "axes.labelsize": 12,
    "axes.titlesize": 13,
    "xtick.labelsize": 11.5,
    "ytick.labelsize": 12,
    "text.color": INK,
    "axes.labelcolor": QUIET,
    "axes.edgecolor": QUIET,
    "axes.linewidth": 0.8,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "ytick.labelcolor": INK,
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "axes.grid": False,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "hatch.linewidth": 0.9,
    "hatch.color": PAPER,
    "legend.frameon": False,
    "lines.solid_capstyle": "round",
}

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"


def available() -> bool:
    """Whether charts can be drawn: matplotlib is an extra."""
    import importlib.util

    return importlib.util.find_spec("matplotlib") is not None


def chart(
    name: str, title: str, description: str, draw: Callable[[Any, int], None], heights: tuple[int, int]
) -> Chart | None:
    """Let `draw(figure, width)` draw on an empty figure at both widths; `heights` are theirs, in pixels.

    `name` is unique on the page. None without matplotlib.
    """
    if not available():
        return None
    wide, narrow = (
        _drawing(f"{name}-{kind}", title, description, draw, width, height)
        for kind, width, height in (("wide", WIDE, heights[0]), ("narrow", NARROW, heights[1]))
    )
    return Chart(wide, narrow)


def _drawing(name: str, title: str, description: str, draw: Callable[[Any, int], None], width: int, height: int) -> str:
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    buffer = io.StringIO()
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    style: dict[Any, Any] = {**STYLE, "svg.hashsalt": name}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # names may be in any script
        layout = ConstrainedLayoutEngine(w_pad=4 / 72, h_pad=4 / 72)
        figure = Figure(figsize=(width / 72, height / 72), layout=layout)
        draw(figure, width)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return inline(buffer.getvalue(), name, title, description)


def inline(svg: str, name: str, title: str, description: str) -> str:
    """The `<svg>` element of a matplotlib file, for use inside HTML."""
    ElementTree.register_namespace("", _SVG)
    root = ElementTree.fromstring(svg)  # comments, which repeat every text, are left behind
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', svg))
    _drop(root)
    for element in root.iter():
        if element.get("id") not in used:
            element.attrib.pop("id", None)
        for key, value in list(element.attrib.items()):
            del element.attrib[key]
            key = key.split("}")[-1]
            if not (key == "transform" and value.startswith("rotate(-0 ")):
                element.set("style" if key in ("fill", "stroke") else key, _attribute(key, value, name))
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.set("class", f"chart {name.rsplit('-', 1)[-1]}")
    root.set("role", "img")
    root.set("aria-labelledby", f"{name}-title {name}-desc")
    for position, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(f"{{{_SVG}}}{tag}", {"id": f"{name}-{tag}"})
        element.text = text
        root.insert(position, element)
    text = ElementTree.tostring(root, encoding="unicode").replace(f' xmlns="{_SVG}"', "", 1)
    return re.sub(r">\s+<", "><", text)


def _drop(root: ElementTree.Element) -> None:
    """Leave out the file's own metadata and its style sheet, which would reach the whole page from inside it."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.split("}")[-1] in ("metadata", "style"):
                parent.remove(child)


def _attribute(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return value.replace("#", f"#{name}-", 1)
    if key in ("fill", "stroke"):
        value = f"{key}: {value}"
    elif key not in ("style", "clip-path"):
        return value
    value = re.sub(r"url\(#", f"url(#{name}-", value)
    value = re.sub(r"#0[123]0[123][0-9a-f]{2}", lambda m: f"var({VARIABLES[m[0]]})", value)
    value = re.sub(r"font: (?:(\d+|bold) )?([\d.]+)px [^;]*", r"font-weight: \1; font-size: \2px", value)
    return re.sub(r"font-family: [^;]*;? ?|font-weight: ;? ?", "", value)
