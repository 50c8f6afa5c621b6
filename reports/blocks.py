"""What a section is made of: a few kinds of block, each of which both renderers (Markdown and HTML) know.

A block holds plain text only. Nothing in it is markup: row texts, names and prompts come from strangers, and escaping
is the renderers' work.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Strong:
    """Emphasised text."""

    text: str


@dataclass(frozen=True)
class Mono:
    """A name, a digest or a command, shown verbatim in a fixed-width face."""

    text: str


@dataclass(frozen=True)
class See:
    """Names a heading of the report, and leads to it where the format can."""

    text: str


Span = str | Strong | Mono | See
Text = Span | Sequence[Span]
"""A span, or several that follow each other without a space between them."""


def spans(text: Text) -> list[Span]:
    return [text] if isinstance(text, str | Strong | Mono | See) else list(text)


def plain(text: Text) -> str:
    """The text without its emphasis."""
    return "".join(span if isinstance(span, str) else span.text for span in spans(text))


@dataclass(frozen=True)
class Heading:
    """Level 2 opens a section and stands in the table of contents; levels 3 and 4 part it."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    text: Text
    kind: Literal["plain", "lead", "note", "warning"] = "plain"
    """lead: the finding, read first; note: how to read what is near it; warning: what would mislead if missed."""


@dataclass(frozen=True)
class Bullets:
    items: Sequence[Text]
    kind: Literal["plain", "lead"] = "plain"


@dataclass(frozen=True)
class Column:
    title: str
    align: Literal["left", "right"] = "left"


@dataclass(frozen=True)
class Table:
    """`rows` hold one cell for each column, formatted already; the first column names its row."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Text]]
    caption: str = ""
    note: str = ""
    name: str = ""
    """What its file and its label in LaTeX are called; made of the caption or the heading where it is left out."""


@dataclass(frozen=True)
class Chart:
    """The same drawing twice, for a page and for a phone: SVG elements made by reports/svg.py, to be put in as is."""

    wide: str
    narrow: str


@dataclass(frozen=True)
class Figure:
    """A chart with the numbers it is drawn from. Without anything to draw it `chart` is None."""

    title: str
    description: str
    """What the chart shows, for a reader who does not see it."""
    chart: Chart | None
    data: Table
    caption: str = ""


@dataclass(frozen=True)
class Code:
    """Verbatim text, whoever wrote it."""

    text: str
    language: str = ""
    copy: bool = False
    """The page offers a button that copies it."""


@dataclass(frozen=True)
class Side:
    """Texts next to each other, each under its label: (label, text, remark)."""

    columns: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Item:
    """One benchmark item, with what each arm made of it; `values` and `answers` stand in the order of the arms."""

    id: str
    prompt: str
    target: str
    answers: Sequence[str]
    values: Sequence[float]
    """1 is right and 0 wrong, or anything between; the first arm is the base."""


@dataclass(frozen=True)
class ItemSet:
    """Items of one benchmark whose score some arm changed."""

    name: str
    kind: str
    total: int
    """Items of the benchmark."""
    changed: int
    """Items that any arm lost or gained; `items` holds some of them."""
    items: Sequence[Item]


@dataclass(frozen=True)
class Explorer:
    """Items to look through: on the page side by side for any two arms, elsewhere as counts."""

    arms: Sequence[str]
    """The base first."""
    sets: Sequence[ItemSet]
    counts: "Table"
    """How many items each arm lost and gained, and how many of them are in `sets`."""


@dataclass(frozen=True)
class Details:
    """Blocks that open on request."""

    summary: Text
    blocks: Sequence["Block"] = field(default_factory=list)
    open: bool = False


Block = Heading | Paragraph | Bullets | Table | Figure | Code | Side | Explorer | Details
