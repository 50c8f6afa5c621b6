"""Rows side by side, and what forgetting looks like in single items."""

import json

from evals.panels import BASE
from reports import table
from reports.blocks import Block, Code, Details, Heading, Mono, Paragraph, Side
from reports.data import ItemShown, ReportData, RowShown
from reports.text import shorten


def render(data: ReportData) -> list[Block]:
    if data.spec.source is None and not data.items:
        return []
    blocks: list[Block] = [Heading("Examples")]
    if not data.rows and not data.items:
        return [*blocks, Paragraph("There are no refined rows to show.")]
    blocks.append(Paragraph("Nobody chose these: they come first by the digest of their ids.", "note"))
    if data.rows:
        blocks += [Heading("Rows, from raw answer to supervision", 3), *(b for row in data.rows for b in _row(row))]
    if data.items:
        blocks += _forgotten(data.items)
    return blocks


def _row(row: RowShown) -> list[Block]:
    texts = [("Question", row.question), ("Raw answer", row.answer)]
    texts += [("Refused", row.rejected)] if row.rejected else []
    texts += [("Supervision", row.response)] if row.response else []
    blocks: list[Block] = [
        Paragraph([Mono(row.id[:12]), " ", row.what]),
        Side([(label, *_shown(text)) for label, text in texts]),
    ]
    if row.scores:
        text = "\n".join(f"{step}: {json.dumps(scores, ensure_ascii=False)}" for step, scores in row.scores.items())
        blocks.append(Details("The scores that decided", [Code(shorten(text)[0], "json")]))
    return blocks


def _forgotten(items: list[ItemShown]) -> list[Block]:
    first = items[0]
    others = [name for name in first.answers if name not in (BASE, first.baseline)]
    words = f"Items of {first.benchmark} that the base answered right and {first.baseline} (first seed) answered wrong"
    words += f", with what {others[0]} answered, which lost least in general skill." if others else "."
    blocks: list[Block] = [Heading("What was forgotten", 3), Paragraph(words)]
    for item in items:
        texts = [("Prompt", item.prompt), ("Expected", item.target), *item.answers.items()]
        blocks.append(Side([(label, *_shown(text)) for label, text in texts]))
    return blocks


def _shown(text: str) -> tuple[str, str]:
    """The text, cut where it is very long, with a remark on its length."""
    short, left = shorten(text)
    remark = table.counted(len(text.split()), "word")
    return (
        (short + " […]", f"{remark}; the last {table.count(left)} characters are not shown") if left else (text, remark)
    )
