"""Move rows to the validation or the test split, so that later steps and training leave them alone.

Groups of rows stand in the order of a digest of the seed and their value and fill train, validation and test one after
another (as the source's own `split`, refinery/sources.py): rows added later move few others.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from pydantic import Field, model_validator

from refinery.choosing import Column
from refinery.context import Context
from refinery.errors import RowError
from refinery.records import Outcome, digest
from refinery.sources import assign
from refinery.spec_models import SplitSpec
from refinery.tableops import Table, TableParams, changed, dropped, kept
from refinery.templates import render

VERSION = 1
VARIABLES: tuple[str, ...] = ()
READS = (1, 1)


class Params(TableParams):
    validation: float = Field(0.0, ge=0, lt=1)
    """Share of the rows."""
    test: float = Field(0.0, ge=0, lt=1)
    """Shares of the rows; the rest stays in train."""
    by: Column | None = None
    """A column or template: rows of one value stay together, those without a value together too."""
    seed: int | None = None
    """The spec's seed where it is left out."""

    @model_validator(mode="after")
    def _moves_some(self) -> "Params":
        if not 0 < self.validation + self.test < 1:
            raise ValueError("validation and test together must lie between 0 and 1, both excluded")
        return self


async def apply_all(tables: Sequence[Table], params: Params, ctx: Context) -> Iterable[Outcome]:
    """scores: `split` and, with `by`, `group`. Reasons: ok (stays in train), moved_to_validation, moved_to_test, and
    template_error (dropped) where `by` fails."""
    (table,) = tables
    groups: dict[str, str] = {}
    failures: dict[str, RowError] = {}
    for example in table:
        try:
            groups[example.id] = render(params.by, example.fields()) if params.by else example.id
        except RowError as error:
            failures[example.id] = error
    seed = ctx.seed if params.seed is None else params.seed
    shares = SplitSpec(validation=params.validation, test=params.test, seed=seed)
    names = assign(list(groups.values()), shares)

    def outcomes() -> Iterable[Outcome]:
        for example in table:
            if failure := failures.get(example.id):
                yield dropped(example, failure.reason, detail=failure.detail)
                continue
            name = names[digest(groups[example.id])]
            scores = {"split": name, **({"group": groups[example.id]} if params.by else {})}
            if name == example.split:
                yield kept(example, scores=scores)
            else:
                yield changed(replace(example, split=name), f"moved_to_{name}", scores)

    return outcomes()
