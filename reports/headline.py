"""What the headline of RAFT means: its "relative improvements" as each of the four things that the words allow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from reports import table
from reports.blocks import Block, Column, Heading, Table, Text
from reports.published import RAFT_1

if TYPE_CHECKING:
    from evals.forgetting import Effect


def four_versions(column: str) -> dict[str, float | None]:
    """Of the paper's Table 1, in percent: RAFT against SFT, as each of the four things that "improvement" may mean."""
    backbones = list(dict.fromkeys(group for group, _ in RAFT_1.rows))
    of = [[RAFT_1.rows[b, row][column] or 0.0 for row in ("Base", "SFT", "RAFT")] for b in backbones]
    n = len(of)
    recovered = [100 * (raft - sft) / (base - sft) for base, sft, raft in of if base > sft]
    return {
        "relative": sum(100 * (raft - sft) / sft for _, sft, raft in of) / n,
        "recovered": sum(recovered) / n if len(recovered) == n else None,
        "points": sum(raft - sft for _, sft, raft in of) / n,
        "pooled": 100 * (sum(raft for *_, raft in of) / sum(sft for _, sft, _ in of) - 1),
    }


def shown(effect: Effect) -> list[str]:
    """The same four of a run of ours, with intervals."""
    gain, recovered, pooled = (
        table.ratio_interval(each) if each.estimable else table.NOT_ESTIMABLE
        for each in (effect.relative_gain, effect.damage_recovered, effect.pooled_gain)
    )
    return [gain, recovered, table.points_interval(effect.vs_baseline), pooled]


def blocks(rows: Sequence[Sequence[Text]]) -> list[Block]:
    titles = ("Abstract", "Mean relative gain", "Damage recovered", "Points", "Pooled gain")
    columns = [Column("Score"), *(Column(title, "right") for title in titles)]
    return [Heading("What the headline of RAFT means", 3), Table(columns, rows, note=_NOTE, name="raft-headline")]


_NOTE = (
    "RAFT against SFT. The paper's four are computed from its Table 1, as unweighted means over its backbones (damage "
    "recovered where SFT did any; of D-Acc it has no meaning): the abstract's “recovering” is a mean relative gain of "
    "the score, not a share of the damage."
)
