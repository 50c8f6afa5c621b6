"""Every table of a report, with a name of its own: for formats that hold tables alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from reports.blocks import Block, Details, Explorer, Figure, Heading, Table, plain
from reports.text import slug

LONGEST = 64
"""Characters of a table's name."""


@dataclass(frozen=True)
class Named:
    """A table, where it stands and what it is called."""

    name: str
    """Lower-case letters, digits and hyphens; no two tables of a report share one."""
    section: str
    title: str
    table: Table


def tables(blocks: Sequence[Block]) -> list[Named]:
    """Every table that has rows, those of figures and of closed details too, in their order."""
    taken: set[str] = set()
    found = []
    for section, near, table in _walk(blocks, "", ""):
        title = table.caption or near
        base = table.name or "-".join(filter(None, (slug(section), slug(title) if title != section else "")))
        number = 1
        if len(base) > LONGEST:  # a caption that is a sentence: the section and a number
            base = slug(section)[: LONGEST - 3]
            name = f"{base}-1"
        else:
            name = base
        while name in taken:
            number += 1
            name = f"{base}-{number}"
        taken.add(name)
        found.append(Named(name, section, title, table))
    return found


def _walk(blocks: Sequence[Block], section: str, near: str) -> Iterator[tuple[str, str, Table]]:
    """(section, the nearest title above it, table)."""
    for block in blocks:
        match block:
            case Heading():
                section, near = (block.text if block.level == 2 else section), block.text
            case Table() if block.rows:
                yield section, near, block
            case Explorer() if block.counts.rows:
                yield section, near, block.counts
            case Figure() if block.data.rows:
                yield section, block.title, block.data
            case Details():
                yield from _walk(block.blocks, section, plain(block.summary))
