"""Some of the rows: a number or a share of them, by chance, evenly over groups or by weight.

Chance is a digest of the seed and the row's own id, so the same rows are chosen in every run, and rows added later
change few choices. By weight, a row's rank is -ln(u) / w and the smallest ranks are taken: a weighted draw without
replacement (Efraimidis and Spirakis, 2006).
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from refinery.choosing import Column, in_equal_parts, in_proportion, number, uniform
from refinery.context import Context
from refinery.errors import RowError
from refinery.records import Outcome
from refinery.spec_types import Template
from refinery.tableops import Table, TableParams, dropped, kept
from refinery.templates import render

VERSION = 1
VARIABLES: tuple[str, ...] = ()
READS = (1, 1)


class Params(TableParams):
    n: int | None = Field(None, ge=0)
    """So many rows; all of them where there are fewer. Exactly one of n and share is given."""
    share: float | None = Field(None, ge=0, le=1)
    """So many of the rows, rounded to a whole number."""
    by: Column | None = None
    """A column or template: every group of equal values is sampled on its own."""
    groups: Literal["proportional", "equal"] = "proportional"
    """With `by`: groups keep their shares, or each gives the same number (as far as it has them)."""
    weight: Template | None = None
    """A number for each row, at least 0: a row of weight 2 is twice as likely to be taken first."""
    draw: int = Field(0, ge=0)
    """Another number is another draw: two steps with the same one take the same rows first."""

    @model_validator(mode="after")
    def _one_size(self) -> "Params":
        if (self.n is None) == (self.share is None):
            raise ValueError("give exactly one of n and share")
        return self


async def apply_all(tables: Sequence[Table], params: Params, ctx: Context) -> Iterable[Outcome]:
    """Kept rows stay in their order.

    scores: `rank` (the smallest are taken), `group`, `weight`, and of its group `taken`, `of` (rows) and `last` (the
    largest rank taken). Reasons of dropped rows: not_sampled, no_weight (0), not_a_number, negative_weight, and
    template_error.
    """
    (table,) = tables
    ranks: dict[str, float] = {}
    weights: dict[str, float] = {}
    groups: dict[str, str] = {}
    failures: dict[str, RowError] = {}
    for example in table:
        try:
            groups[example.id] = render(params.by, example.fields()) if params.by else ""
            weights[example.id] = number(params.weight, example) if params.weight else 1.0
            if weights[example.id] < 0:
                raise RowError("negative_weight", str(weights[example.id]))
        except RowError as error:
            failures[example.id] = error
            continue
        if weights[example.id] > 0:
            ranks[example.id] = -math.log(uniform(ctx.seed, example.id, params.draw)) / weights[example.id]
    members: dict[str, list[str]] = {}
    for example_id in sorted(ranks, key=lambda each: (ranks[each], each)):
        members.setdefault(groups[example_id], []).append(example_id)
    wanted = params.n if params.n is not None else round((params.share or 0) * len(table))
    allot = in_equal_parts if params.groups == "equal" else in_proportion
    sizes = allot(wanted, {group: len(ids) for group, ids in members.items()})
    taken = {example_id for group, ids in members.items() for example_id in ids[: sizes[group]]}

    def outcomes() -> Iterable[Outcome]:
        for example in table:
            if failure := failures.get(example.id):
                yield dropped(example, failure.reason, detail=failure.detail)
                continue
            group, ids = groups[example.id], members.get(groups[example.id], [])
            size = sizes.get(group, 0)
            last = ranks[ids[size - 1]] if size else None
            scores: dict[str, Any] = {"rank": ranks.get(example.id), "taken": size, "of": len(ids), "last": last}
            scores |= {"group": group} if params.by else {}
            scores |= {"weight": weights[example.id]} if params.weight else {}
            if example.id in taken:
                yield kept(example, scores=scores)
            else:
                yield dropped(example, "not_sampled" if example.id in ranks else "no_weight", scores)

    return outcomes()
