"""Blocks to one HTML file that needs nothing else: no font, no image, no address is fetched.

Its own content security policy allows one script, named by its digest, and no request at all, so that even a mistake
in escaping could not make a row's text act. Without that script everything can be read; with it tables can be sorted
and filtered, items looked through, and colours chosen.
"""

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from html import escape as _escape
from importlib.resources import files

from reports import table as words
from reports.blocks import (
    Block,
    Bullets,
    Chart,
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
    plain,
    spans,
)
from reports.text import clean, slug

POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{}'; base-uri 'none'; form-action 'none'; "
    "frame-src 'none'; object-src 'none'"
)
WIDE = 6
"""Columns from which on a table may be wider than the text."""
_DARK = re.compile(r"@media screen and \(prefers-color-scheme: dark\) \{\s*:root \{(.*?)\}\s*\}", re.DOTALL)


def script() -> str:
    """The page's one script, as it stands between its tags."""
    return "\n" + files("reports").joinpath("page.js").read_text("utf-8")


def policy() -> str:
    """The content security policy: nothing but that script runs."""
    return POLICY.format(base64.b64encode(hashlib.sha256(script().encode()).digest()).decode())


def style() -> str:
    """The style sheet; its dark colours stand for both who prefers them and who chooses them on the page."""
    text = files("reports").joinpath("style.css").read_text("utf-8")
    dark = _DARK.search(text)
    assert dark is not None
    both = (
        f'@media screen and (prefers-color-scheme: dark) {{ :root:not([data-theme="light"]) {{{dark[1]}}} }}\n'
        f'@media screen {{ :root[data-theme="dark"] {{ color-scheme: dark; {dark[1]}}} }}'
    )
    return text[: dark.start()] + both + text[dark.end() :]


def escape(text: str) -> str:
    return _escape(clean(text), quote=True)


def inline(text: Text) -> str:
    return "".join(_span(span) for span in spans(text))


def _span(span: Span) -> str:
    if isinstance(span, str):
        return escape(span)
    if isinstance(span, See):
        return f'<a href="#{slug(span.text)}">{escape(span.text)}</a>'
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
<meta http-equiv="Content-Security-Policy" content="{escape(policy())}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>{escape(title)}</title>
<style>
{style()}</style>
</head>
<body>
<a class="skip" href="#content">Skip to the report</a>
<header><h1>{escape(title)}</h1><div class="facts">{facts}</div>
<button type="button" id="theme" hidden></button></header>
{page.contents()}
<main id="content">
{body}
</main>
<script>{script()}</script>
</body>
</html>
"""


class Page:
    """One document: hands out ids, so that each heading and chart can be linked to, and remembers them."""

    def __init__(self) -> None:
        self.headings: list[tuple[int, str, str]] = []
        self._taken: set[str] = {"content", "theme"}

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
                kind = ' class="copy"' if one.copy else ""
                return f'<pre{kind} dir="auto" tabindex="0"><code>{escape(one.text)}</code></pre>'
            case Side():
                return '<div class="side">' + "".join(_column(*column) for column in one.columns) + "</div>"
            case Explorer():
                return explorer(one)
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
    # beside the box that scrolls, so that it neither scrolls away nor is cut
    caption = f'<p class="caption" aria-hidden="true">{escape(one.caption)}</p>' if one.caption else ""
    label = f' aria-label="{escape(one.caption)}"' if one.caption else ""
    wide = " wide" if len(one.columns) >= WIDE else ""
    head = "".join(f'<th scope="col" role="columnheader" class="{c.align}">{escape(c.title)}</th>' for c in one.columns)
    whole = len(one.rows) > 2 and all(plain(row[0]).strip() for row in one.rows)  # else rows belong to those above
    kind = ' class="sortable"' if whole else ""
    rows = "".join(_row(one, row) for row in one.rows)
    note = f'<p class="note">{escape(one.note)}</p>' if one.note else ""
    return (
        f'{caption}<div class="table{wide}"><table role="table"{label}{kind}>'
        f'<thead role="rowgroup"><tr role="row">{head}</tr></thead>'
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


_CHANGES = {
    "lost": "A lost what the base had right",
    "gained": "A gained what the base had wrong",
    "rescued": "A lost it, B did not",
    "both": "A and B lost it",
    "any": "any change by any method",
}


def explorer(one: Explorer) -> str:
    """Controls, an empty place for what they find, and the items as data. The script fills it; without it the counts
    stand alone."""
    choices = "".join(f'<option value="{key}">{escape(text)}</option>' for key, text in _CHANGES.items())
    selects = "".join(
        f'<label>{label} <select name="{name}">{inside}</select></label>'
        for label, name, inside in (("Benchmark", "benchmark", ""), ("A", "a", ""), ("B", "b", ""),
                                    ("Show", "change", choices))
    )  # fmt: skip
    return (
        f'{table(one.counts)}<div class="explorer"><div class="tool" hidden><div class="controls">{selects}'
        '<label>Search <input type="search" name="search" placeholder="in prompts and answers"></label></div>'
        '<p class="count note" role="status"></p><div class="pair"><ol class="found" aria-label="Items"></ol>'
        '<div class="item" aria-live="polite"></div></div>'
        '<p class="note">Keys: arrows or j and k walk through the list, / goes to the search.</p></div>'
        f'<div class="data" hidden>{escape(_items(one))}</div></div>'
        '<noscript><p class="note">Looking through single items needs the page’s script.</p></noscript>'
    )


def _items(one: Explorer) -> str:
    """The items as JSON on one line; NaN, for an arm that was not measured, is null."""
    sets = [
        {
            "name": each.name,
            "changed": each.changed,
            "items": [
                {
                    "id": item.id,
                    "prompt": clean(item.prompt),
                    "target": clean(item.target),
                    "answers": [clean(answer) for answer in item.answers],
                    "values": [value if words.known(value) else None for value in item.values],
                    "marks": [words.mark(value) for value in item.values],
                }
                for item in each.items
            ],
        }
        for each in one.sets
    ]
    return json.dumps({"arms": list(one.arms), "sets": sets}, ensure_ascii=False, separators=(",", ":"))
