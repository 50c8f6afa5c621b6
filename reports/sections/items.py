"""Single benchmark items, base and methods side by side: what was lost and what was gained, to read."""

from reports.blocks import Block, Heading, Paragraph
from reports.data import ReportData


def render(data: ReportData) -> list[Block]:
    if data.explorer is None:
        return []
    words = (
        "Read what was lost before believing a number: an item may be lost to a changed format as well as to ignorance."
    )
    return [Heading("Lost and gained items"), Paragraph(words), data.explorer]
