"""Base and methods in one small table, for the terminal at the end of a run and for the top of the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reports import table
from reports.blocks import Column, Mono, Table, Text, plain

if TYPE_CHECKING:
    from rich.table import Table as RichTable

    from evals.forgetting import Comparison, Effect
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


NOTE = (
    "Brackets hold 95% intervals, over seeds and items together. Damage recovered: the share of what the baseline lost "
    "in general skill that a method did not lose. Items: domain / general."
)


def terminal_table(comparison: Comparison) -> RichTable:
    """The same for a terminal."""
    from rich.table import Table as RichTable
    from rich.text import Text as RichText

    made = comparison_table(comparison)
    drawn = RichTable(caption=made.note, caption_justify="left", header_style="bold", show_lines=False)
    for column in made.columns:
        drawn.add_column(column.title, justify=column.align, overflow="fold")
    for row in made.rows:
        drawn.add_row(*(RichText(plain(cell)) for cell in row))
    return drawn


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
