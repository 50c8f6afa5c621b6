"""Base and methods in one small table, for the terminal at the end of a run and for the top of the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reports import table
from reports.blocks import Column, Mono, Table, Text, plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table as RichTable

    from evals.forgetting import Comparison, Effect, MethodResult
    from evals.paired import Estimate

BASE = "base"


def in_order(comparison: Comparison) -> list[str]:
    """The methods' names, baseline first."""
    return sorted(comparison.methods, key=lambda name: name != comparison.baseline)


def comparison_table(comparison: Comparison) -> Table:
    """Base first, then the baseline, then the others: domain, general, damage recovered, each with its interval."""
    columns = [
        Column("Model"),
        Column(_title(comparison, "domain"), "right"),
        Column(_title(comparison, "general"), "right"),
    ]
    columns += [Column("Damage recovered", "right"), Column("Items", "right"), Column("Seeds", "right")]
    effects = [(e.domain_mean, e.general_mean) for e in comparison.methods.values()]
    bases = [next((effect.base for effect in kind if effect), None) for kind in zip(*effects, strict=True)]
    rows: list[list[Text]] = [[BASE, *map(_score, bases), "", _items(*bases), "none"]]
    for name in in_order(comparison):
        method = comparison.methods[name]
        scores = [effect.score if effect else None for effect in (method.domain_mean, method.general_mean)]
        recovered = "the baseline" if name == comparison.baseline else _recovered(method.general_mean)
        rows.append([Mono(name), *map(_score, scores), recovered, _items(*scores), table.count(method.n_seeds)])
    return Table(columns, rows, note=NOTE)


RECOVERED = " Damage recovered: the share of what the baseline lost in general skill that a method did not lose."
NOTE = f"Brackets hold 95% intervals, over seeds and items together.{RECOVERED} Items: domain / general."
WORST = " Worst: the benchmark with the lowest change, in points."
WIDE = 80
"""Characters that the table in a terminal may take."""


def terminal_table(comparison: Comparison) -> RichTable:
    """The same for a terminal: without damage recovered where no method has a figure of it, and with each method's
    worst benchmark where that leaves the table narrow enough."""
    from rich.table import Table as RichTable
    from rich.text import Text as RichText

    made = comparison_table(comparison)
    titles = [column.title for column in made.columns]
    cells = [[plain(cell) for cell in row] for row in made.rows]
    note, damage = made.note, titles.index("Damage recovered")
    if not any(map(_has_recovered, comparison.methods.values())):
        note = note.replace(RECOVERED, "")
        titles, cells = _without(titles, damage), [_without(row, damage) for row in cells]
    worst = ["", *(_worst(comparison.methods[name]) for name in in_order(comparison))]
    wider = [[row[0], each, *row[1:]] for row, each in zip(cells, worst, strict=True)]
    if any(worst) and _width([titles[0], "Worst", *titles[1:]], wider) <= WIDE:
        titles, cells, note = [titles[0], "Worst", *titles[1:]], wider, note + WORST
    drawn = RichTable(caption=note, caption_justify="left", header_style="bold", show_lines=False)
    for title in titles:
        drawn.add_column(title, justify="left" if title == titles[0] else "right", overflow="fold")
    for row in cells:
        drawn.add_row(*map(RichText, row))
    return drawn


def _has_recovered(method: MethodResult) -> bool:
    return method.general_mean is not None and method.general_mean.damage_recovered.estimable


def _without(cells: Sequence[str], at: int) -> list[str]:
    return [*cells[:at], *cells[at + 1 :]]


def _worst(method: MethodResult) -> str:
    """The benchmark with the lowest change from the base, and that change."""
    changes = {name: effect.vs_base.value for name, effect in {**method.domain, **method.general}.items()}
    known = {name: value for name, value in changes.items() if table.known(value)}
    lowest = min(known, key=known.__getitem__, default="")
    return f"{lowest} {table.points(known[lowest])}" if lowest else ""


def _width(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """Of a table in whose cells no line breaks; titles break between words."""
    words = [max(map(len, title.split())) for title in titles]
    return sum(max(words[n], *(len(row[n]) for row in rows)) + 3 for n in range(len(titles))) + 1


def _title(comparison: Comparison, kind: str) -> str:
    names = {name for method in comparison.methods.values() for name in getattr(method, kind)}
    if kind == "domain":
        return "Domain accuracy" if len(names) < 2 else f"Domain mean of {len(names)}"
    return "General accuracy" if len(names) < 2 else f"General mean of {len(names)}"


def _score(estimate: Estimate | None) -> str:
    return table.score_interval(estimate) if estimate else table.ABSENT


def _recovered(general: Effect | None) -> str:
    if general is None:
        return table.ABSENT
    return table.ratio_interval(general.damage_recovered) if general.damage_recovered.estimable else table.NOT_ESTIMABLE


def _items(domain: Estimate | None, general: Estimate | None) -> str:
    return " / ".join(table.count(estimate.n_items) if estimate else "–" for estimate in (domain, general))
