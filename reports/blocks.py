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


Span = str | Strong | Mono
Text = Span | Sequence[Span]
"""A span, or several that follow each other without a space between them."""


def spans(text: Text) -> list[Span]:
    return [text] if isinstance(text, str | Strong | Mono) else list(text)


def plain(text: Text) -> str:
    """The text without its emphasis."""
    return "".join(span if isinstance(span, str) else span.text for span in spans(text))


@dataclass(frozen=True)
class Heading:
    """Level 2 opens a section and stands in the table of contents; level 3 parts it."""

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


@dataclass(frozen=True)
class Side:
    """Texts next to each other, each under its label: (label, text, remark)."""

    columns: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Details:
    """Blocks that open on request."""

    summary: Text
    blocks: Sequence["Block"] = field(default_factory=list)
    open: bool = False


Block = Heading | Paragraph | Bullets | Table | Figure | Code | Side | Details
