"""Blocks to Markdown (the GitHub kind). Charts become the tables they are drawn from."""

import re
from collections.abc import Sequence

from reports.blocks import (
    Block,
    Bullets,
    Code,
    Details,
    Explorer,
    Figure,
    Heading,
    Paragraph,
    See,
    Side,
    Span,
    Strong,
    Table,
    Text,
    spans,
)
from reports.text import clean, slug

_MARKUP = re.compile(r"[\\`*{}\[\]<>#|~$!@]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_INTERVAL = re.compile(r"(\[[−+\d., ∞]+\](?![(\[:]))")
"""Brackets around numbers, which no Markdown takes for a link."""
_URL = re.compile(r"(?i)\b(https?|ftp|www)([:.])")


def render(title: str, lines: Sequence[str], blocks: Sequence[Block]) -> str:
    """The document: a title, one line of facts each for `lines`, then the blocks."""
    parts = [f"# {escape(title)}", *(escape(line) for line in lines), *(block(b) for b in blocks)]
    return "\n\n".join(part for part in parts if part) + "\n"


def escape(text: str) -> str:
    """Plain text as Markdown that shows it: no markup, no HTML, no mention, no link, on one line."""
    parts = _INTERVAL.split(" ".join(clean(text).split()))
    text = "".join(part if number % 2 else _escaped(part) for number, part in enumerate(parts))
    return re.sub(r"^(\d+)([.)])(?=\s|$)|^([-+=])(?=\s|$|=|-)", lambda m: f"{m[1] or ''}\\{m[2] or m[3]}", text)


def _escaped(text: str) -> str:
    text = _MARKUP.sub(lambda m: _ENTITIES.get(m[0], f"\\{m[0]}"), text.replace("&", "&amp;"))
    return _URL.sub(lambda m: m[1] + ("&#58;" if m[2] == ":" else "&#46;"), text)


_ENTITIES = {"<": "&lt;", ">": "&gt;", "@": "&#64;"}


def inline(text: Text) -> str:
    return "".join(_span(span) for span in spans(text))


def _span(span: Span) -> str:
    if isinstance(span, See):
        return f"[{escape(span.text)}](#{slug(span.text)})"
    if isinstance(span, str):
        lead, tail = span[: len(span) - len(span.lstrip())], span[len(span.rstrip()) :]
        return (" " if lead else "") + escape(span) + (" " if tail and span.strip() else "")
    if isinstance(span, Strong):
        return f"**{escape(span.text)}**"
    return code_span(span.text)


def code_span(text: str) -> str:
    """Fixed-width text within a line, whatever backticks it holds; a bar is escaped for tables."""
    text = " ".join(clean(text).split()).replace("|", "\\|")
    ticks = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    pad = " " if text[:1] == "`" or text[-1:] == "`" or not text else ""
    return f"{ticks}{pad}{text}{pad}{ticks}"


def fence(text: str, language: str = "") -> str:
    """A code block that its own text cannot close."""
    text = clean(text)
    ticks = "`" * max(3, max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    return f"{ticks}{language}\n{text}\n{ticks}"


def block(one: Block) -> str:
    match one:
        case Heading():
            return f"{'#' * one.level} {escape(one.text)}"
        case Paragraph():
            return _paragraph(one)
        case Bullets():
            return "\n".join(f"- {inline(item)}" for item in one.items)
        case Table():
            return _table(one)
        case Figure():
            caption = f"\n\n{escape(one.caption)}" if one.caption else ""
            return f"**{escape(one.title)}**{caption}\n\n{_table(one.data)}"
        case Code():
            return fence(one.text, one.language)
        case Side():
            return "\n\n".join(_side(*column) for column in one.columns)
        case Explorer():
            return _table(one.counts)
        case Details():
            inside = "\n\n".join(block(b) for b in one.blocks)
            return f"**{inline(one.summary).replace('**', '')}**\n\n{inside}"


def _paragraph(one: Paragraph) -> str:
    if one.kind == "warning":
        return f"> **Note.** {inline(one.text)}"
    return f"*{inline(one.text)}*" if one.kind == "note" and isinstance(one.text, str) else inline(one.text)


def _table(table: Table) -> str:
    if not table.rows:
        return escape(table.note)
    head = "| " + " | ".join(escape(column.title) for column in table.columns) + " |"
    rule = "|" + "|".join("---:" if column.align == "right" else "---" for column in table.columns) + "|"
    rows = ["| " + " | ".join(inline(cell) for cell in row) + " |" for row in table.rows]
    note = f"\n\n*{escape(table.note)}*" if table.note else ""
    caption = f"{escape(table.caption)}\n\n" if table.caption else ""
    return caption + "\n".join([head, rule, *rows]) + note


def _side(label: str, text: str, remark: str) -> str:
    note = f" ({escape(remark)})" if remark else ""
    return f"{escape(label)}{note}:\n\n{fence(text)}"
