"""Rows of several steps together, in proportions: replay of general data beside a domain's (share 0.2 is usual).

All rows of the first step stay. From the others so many are taken that they make up `share` of the result; which ones,
a digest of the seed and the row's id says, so rows added later change few choices. Nothing is taken twice unless
`replacement` says so.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from refinery.choosing import in_proportion, uniform
from refinery.context import Context
from refinery.errors import UserError, did_you_mean
from refinery.records import Outcome
from refinery.spec_types import ModelName
from refinery.tableops import Table, TableParams, created, derived, dropped, kept

VERSION = 1
VARIABLES: tuple[str, ...] = ()
READS = (2, None)
PAGE = 1000
"""Rows counted together."""

Part = Annotated[float, Field(ge=0, lt=1)]


class Params(TableParams):
    share: Part | dict[str, Part] | None = None
    """What part of the result the other steps make up: all of them together (each in proportion to its size), or each
    on its own, {general: 0.15, code: 0.05}. Left out, all rows of all steps are taken."""
    unit: Literal["rows", "words", "tokens"] = "rows"
    """What `share` counts. Words are what stands between spaces, in prompt and response."""
    model: ModelName | None = None
    """With unit tokens: the model whose tokenizer counts."""
    replacement: bool = False
    """Take rows again where a step has too few; the copies are made rows that name their original."""
    short: Literal["refuse", "take_all"] = "refuse"
    """Without replacement, where a step has too few: stop, or take what there is."""

    @model_validator(mode="after")
    def _consistent(self) -> "Params":
        if (self.unit == "tokens") != (self.model is not None):
            raise ValueError("unit: tokens and model, whose tokens they are, go together")
        if isinstance(self.share, dict) and sum(self.share.values()) >= 1:
            raise ValueError("the shares leave nothing for the first step")
        return self


async def apply_all(tables: Sequence[Table], params: Params, ctx: Context) -> Iterable[Outcome]:
    """The first step's rows in their order, then the others', step by step.

    A row that several steps hand on under one id is kept as the first of them has it; the others' versions, where they
    are taken too, are made rows. scores: `from` (the step), `size` in `unit`, and of a step that is drawn from `rank`
    (the smallest are taken), `wanted` and `reached` (shares of the result). Reasons: ok, repeated (a copy or a second
    version), not_taken.
    """
    _check(tables, params)
    sizes = [await _sizes(table, params, ctx) for table in tables]
    drawn, counts = _draw(tables, sizes, params, ctx.seed)
    whole = sum(sizes[number][each] * times for number, taken in enumerate(counts) for each, times in taken.items())
    reached = [
        sum(sizes[number][each] * times for each, times in taken.items()) / whole if whole else 0.0
        for number, taken in enumerate(counts)
    ]
    taken_at_all = {example_id for taken in counts for example_id in taken}

    def outcomes() -> Iterable[Outcome]:
        done: set[str] = set()
        for number, table in enumerate(tables):
            for example in table:
                scores: dict[str, Any] = {"from": table.name, "size": sizes[number][example.id], "unit": params.unit}
                if number and params.share is not None:
                    wanted = _wanted(table.name, params)
                    scores |= {"rank": uniform(ctx.seed, example.id), "reached": reached[number]}
                    scores |= {"wanted": drawn if wanted is None else wanted}
                for copy in range(counts[number].get(example.id, 0)):
                    if example.id not in done:
                        done.add(example.id)
                        yield kept(example, scores=scores)
                    else:
                        yield created(derived(example, "mix", number, copy), "repeated", scores)
                if example.id not in taken_at_all and example.id not in done:
                    done.add(example.id)
                    yield dropped(example, "not_taken", scores)

    return outcomes()


def _check(tables: Sequence[Table], params: Params) -> None:
    names = [table.name for table in tables[1:]]
    for name in params.share if isinstance(params.share, dict) else ():
        if name not in names:
            raise UserError(f'mix: share names "{name}"{did_you_mean(name, names)}; drawn from are {", ".join(names)}')


def _wanted(name: str, params: Params) -> float | None:
    """The step's own share; None where one share is for all together."""
    return params.share.get(name, 0.0) if isinstance(params.share, dict) else None


def shortfall(names: Sequence[str], rows: Sequence[int], params: Params) -> str:
    """Where a step has too few rows for its share: what a run would stop with, given how many rows the steps of these
    names hand on, the first and those drawn from. Empty where there are enough, or where rows do not tell."""
    if params.unit != "rows" or params.share is None:
        return ""
    totals = [float(each) for each in rows]
    _, targets = _targets(list(names), totals, params)
    pairs = zip(names[1:], totals[1:], targets, strict=True)
    return next((said for name, available, target in pairs if (said := _too_few(name, available, target, params))), "")


def _draw(
    tables: Sequence[Table], sizes: list[dict[str, float]], params: Params, seed: int
) -> tuple[float | None, list[dict[str, int]]]:
    """(the share for all together, how often each row of each table is taken)."""
    if params.share is None:
        return None, [dict.fromkeys(each, 1) for each in sizes]
    names = [table.name for table in tables]
    together, targets = _targets(names, [sum(each.values()) for each in sizes], params)
    counts = [dict.fromkeys(sizes[0], 1)]
    for name, each, target in zip(names[1:], sizes[1:], targets, strict=True):
        counts.append(_take(name, each, target, params, seed))
    return together, counts


def _targets(names: Sequence[str], totals: Sequence[float], params: Params) -> tuple[float, list[float]]:
    """(the share for all together, how much is wanted of each step but the first), given how much each has."""
    if isinstance(params.share, dict):
        together = sum(params.share.values())
        targets = [totals[0] / (1 - together) * (_wanted(name, params) or 0.0) for name in names[1:]]
    else:
        together = params.share or 0.0
        target = totals[0] / (1 - together) * together
        scale = 1_000_000
        pools = {number: round(total * scale) for number, total in enumerate(totals[1:])}
        if sum(pools.values()) >= round(target * scale):
            parts = in_proportion(round(target * scale), pools)
            targets = [parts[number] / scale for number in pools]
        else:
            whole = sum(pools.values())
            targets = [target * pool / whole if whole else target for pool in pools.values()]
    return together, _whole(targets) if params.unit == "rows" else targets


def _too_few(name: str, available: float, target: float, params: Params) -> str:
    if available >= target or params.replacement or params.short != "refuse":
        return ""
    return (
        f"mix: {name} has {available:g} {params.unit} and {target:g} are needed for the share: lower it, "
        "or set short: take_all or replacement: true"
    )


def _whole(targets: list[float]) -> list[float]:
    """Whole numbers whose sum is the rounded sum."""
    floors = [int(target) for target in targets]
    order = sorted(range(len(targets)), key=lambda i: floors[i] - targets[i])
    for i in order[: round(sum(targets)) - sum(floors)]:
        floors[i] += 1
    return [float(each) for each in floors]


def _take(name: str, sizes: dict[str, float], target: float, params: Params, seed: int) -> dict[str, int]:
    """How often each row is taken: in the order of their ranks until the sum is nearest to the target."""
    order = sorted(sizes, key=lambda each: (uniform(seed, each), each))
    available = sum(sizes.values())
    if message := _too_few(name, available, target, params):
        raise UserError(message)
    counts: dict[str, int] = {}
    total = 0.0
    for example_id in itertools.cycle(order) if params.replacement and available > 0 else order:
        if total + sizes[example_id] / 2 > target:
            break
        counts[example_id] = counts.get(example_id, 0) + 1
        total += sizes[example_id]
    return counts


async def _sizes(table: Table, params: Params, ctx: Context) -> dict[str, float]:
    """Id to how much the row counts."""
    if params.unit == "rows":
        return dict.fromkeys(table.ids, 1.0)
    sizes: dict[str, float] = {}
    rows = iter(table)
    while page := list(itertools.islice(rows, PAGE)):
        texts = [[*(turn["content"] for turn in example.prompt), example.response] for example in page]
        if params.model is None:
            counts = iter([len(text.split()) for parts in texts for text in parts])
        else:
            counts = iter(await ctx.count_tokens(params.model, [text for parts in texts for text in parts]))
        for example, parts in zip(page, texts, strict=True):
            sizes[example.id] = float(sum(itertools.islice(counts, len(parts))))
    return sizes
