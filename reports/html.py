"""Blocks to one HTML file that needs nothing else: no script, no font, no image, no address is fetched.

The page forbids itself scripts and requests by its own content security policy, so that even a mistake in escaping
could not make a row's text act.
"""

from collections.abc import Sequence
from html import escape as _escape
from importlib.resources import files

from reports.blocks import (
    Block,
    Bullets,
    Chart,
    Code,
    Details,
    Figure,
    Heading,
    Mono,
    Paragraph,
    Side,
    Strong,
    Table,
    Text,
    plain,
    spans,
)
from reports.text import clean, slug

POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def escape(text: str) -> str:
    return _escape(clean(text), quote=True)


def inline(text: Text) -> str:
    return "".join(_span(span) for span in spans(text))


def _span(span: str | Strong | Mono) -> str:
    if isinstance(span, str):
        return escape(span)
    if isinstance(span, Strong):
        return f"<strong>{escape(span.text)}</strong>"
    return f"<code><bdi>{escape(span.text)}</bdi></code>"


def render(title: str, lines: Sequence[str], blocks: Sequence[Block]) -> str:
    """The page: title, lines of facts under it, table of contents, blocks in sections."""
    page = Page()
    body = page.sections(blocks)
    facts = "".join(f"<p>{escape(line)}</p>" for line in lines)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>{escape(title)}</title>
<style>
{files("reports").joinpath("style.css").read_text("utf-8")}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the report</a>
<header><h1>{escape(title)}</h1><div class="facts">{facts}</div></header>
{page.contents()}
<main id="content">
{body}
</main>
</body>
</html>
"""


class Page:
    """One document: hands out ids, so that each heading and chart can be linked to, and remembers them."""

    def __init__(self) -> None:
        self.headings: list[tuple[int, str, str]] = []
        self._taken: set[str] = {"content"}

    def contents(self) -> str:
        """The table of contents, from the headings met so far."""
        tops = [(anchor, text) for level, anchor, text in self.headings if level == 2]
        items = "".join(f'<li><a href="#{anchor}">{escape(text)}</a></li>' for anchor, text in tops)
        return f'<nav aria-label="Contents"><ol>{items}</ol></nav>'

    def sections(self, blocks: Sequence[Block]) -> str:
        """Each heading of level 2 opens a `<section>` that is named by it."""
        parts, is_open = [], False
        for one in blocks:
            text = self.block(one)
            if isinstance(one, Heading) and one.level == 2:
                anchor = self.headings[-1][1]
                parts.append(("</section>\n" if is_open else "") + f'<section aria-labelledby="{anchor}">')
                is_open = True
            parts.append(text)
        return "\n".join([*parts, "</section>" if is_open else ""])

    def block(self, one: Block) -> str:
        match one:
            case Heading():
                return self._heading(one)
            case Paragraph():
                return f'<p class="{one.kind}">{inline(one.text)}</p>'
            case Bullets():
                return f'<ul class="{one.kind}">' + "".join(f"<li>{inline(i)}</li>" for i in one.items) + "</ul>"
            case Table():
                return table(one)
            case Figure():
                return self._figure(one)
            case Code():
                return f'<pre dir="auto" tabindex="0"><code>{escape(one.text)}</code></pre>'
            case Side():
                return '<div class="side">' + "".join(_column(*column) for column in one.columns) + "</div>"
            case Details():
                inside = "\n".join(self.block(b) for b in one.blocks)
                state = " open" if one.open else ""
                return f"<details{state}><summary>{inline(one.summary)}</summary>\n{inside}\n</details>"

    def _anchor(self, text: str) -> str:
        base = anchor = slug(text)
        number = 1
        while anchor in self._taken:
            number += 1
            anchor = f"{base}-{number}"
        self._taken.add(anchor)
        return anchor

    def _heading(self, one: Heading) -> str:
        anchor = self._anchor(one.text)
        self.headings.append((one.level, anchor, one.text))
        link = f'<a class="anchor" href="#{anchor}" aria-label="Link to {escape(one.text)}">#</a>'
        return f'<h{one.level} id="{anchor}">{escape(one.text)} {link}</h{one.level}>'

    def _figure(self, one: Figure) -> str:
        anchor = self._anchor(f"figure {one.title}")
        caption = f"<strong>{escape(one.title)}</strong> {escape(one.caption)}".rstrip()
        if one.chart is None:
            why = '<p class="note">The chart needs matplotlib, which is not installed here; these are its numbers.</p>'
            return f'<figure id="{anchor}"><figcaption>{caption}</figcaption>{why}{table(one.data)}</figure>'
        return (
            f'<figure id="{anchor}"><figcaption>{caption}</figcaption>{_chart(one.chart)}'
            f"<details><summary>The numbers of this chart</summary>{table(one.data)}</details></figure>"
        )


def _chart(chart: Chart) -> str:
    return chart.wide + chart.narrow


def _column(label: str, text: str, remark: str) -> str:
    note = f' <span class="remark">{escape(remark)}</span>' if remark else ""
    return f'<div><h4>{escape(label)}{note}</h4><pre dir="auto" tabindex="0">{escape(text)}</pre></div>'


def table(one: Table) -> str:
    """A table that becomes a list of cards on a phone; roles are spelled out because that undoes the element's own."""
    if not one.rows:
        return f'<p class="note">{escape(one.note)}</p>' if one.note else ""
    caption = f"<caption>{escape(one.caption)}</caption>" if one.caption else ""
    head = "".join(f'<th scope="col" role="columnheader" class="{c.align}">{escape(c.title)}</th>' for c in one.columns)
    rows = "".join(_row(one, row) for row in one.rows)
    note = f'<p class="note">{escape(one.note)}</p>' if one.note else ""
    return (
        f'<div class="table"><table role="table">{caption}<thead role="rowgroup"><tr role="row">{head}</tr></thead>'
        f'<tbody role="rowgroup">{rows}</tbody></table></div>{note}'
    )


def _row(one: Table, row: Sequence[Text]) -> str:
    cells = []
    for number, (column, cell) in enumerate(zip(one.columns, row, strict=True)):
        tag, role = ('th scope="row"', "rowheader") if number == 0 else ("td", "cell")
        text = plain(cell).strip()
        state = " empty" if not text else " short" if len(text) <= 28 else ""
        cells.append(
            f'<{tag} role="{role}" class="{column.align}{state}" data-label="{escape(column.title)}">'
            f"<span>{inline(cell)}</span></{tag.split()[0]}>"
        )
    return f'<tr role="row">{"".join(cells)}</tr>'
