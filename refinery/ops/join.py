"""Branches of one graph together again, row by row: every row's versions side by side.

Rows meet by their id, which row steps never change. One branch gives the response; all of them give candidates, so that
`select` or `fuse` can choose behind this step. A branch in which a row fell back has nothing of its own to offer: it
gives no candidate, and its response only where every branch fell back.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from refinery.context import Context
from refinery.errors import RowError, UserError, did_you_mean
from refinery.records import Example, Outcome
from refinery.spec_types import Template
from refinery.tableops import Table, TableParams, changed, dropped, kept
from refinery.templates import render

VERSION = 1
VARIABLES = ("branches",)
"""`branches` maps each step's name to that branch's fields: `{{ branches.close.response }}`, or
`{{ branches["close-2"].response }}` for a name with a dash; None where an outer join found no row."""
READS = (2, None)
PAGE = 2000
"""Rows whose texts are held at a time."""


class Params(TableParams):
    how: Literal["inner", "outer"] = "inner"
    """Rows that every branch has, or rows that any branch has."""
    take: str | None = None
    """The branch that gives response, answer and prompt; the first where it is left out."""
    response: Template | None = None
    """Writes the response out of the branches instead."""
    candidates: tuple[str, ...] | None = None
    """The branches that give candidates: each its candidates, or its response where it has none. All of them where it
    is left out, none for an empty list."""
    columns: dict[str, Template] = Field(default_factory=dict)
    """Further columns of the row, each by a template: {first_try: "{{ branches.close.response }}"}."""


async def apply_all(tables: Sequence[Table], params: Params, ctx: Context) -> Iterable[Outcome]:
    """Rows stand in the order of the first branch, those that only others have behind them.

    scores: `branches` (that have the row), `response_from`, `candidates_from` (the branch of each candidate, equal
    texts counted once), `fell_back_in`. Reasons: ok, missing_branch (dropped by an inner join), template_error.
    """
    names = [table.name for table in tables]
    for name in [*([params.take] if params.take else []), *(params.candidates or ())]:
        if name not in names:
            raise UserError(
                f'join: there is no branch "{name}"{did_you_mean(name, names)}; it reads {", ".join(names)}'
            )
    first = params.take or names[0]
    order = [first, *(name for name in names if name != first)]
    givers = [name for name in order if params.candidates is None or name in params.candidates]

    def outcomes() -> Iterable[Outcome]:
        for example_id, versions in _rows(tables):
            if params.how == "inner" and len(versions) < len(tables):
                missing = [name for name in names if name not in versions]
                scores = {"branches": list(versions)}
                yield dropped(example_id, "missing_branch", scores, f"not in {', '.join(missing)}")
                continue
            try:
                yield _joined(versions, names, order, givers, params)
            except RowError as error:
                yield dropped(example_id, error.reason, detail=error.detail)

    return outcomes()


def _rows(tables: Sequence[Table]) -> Iterator[tuple[str, dict[str, Example]]]:
    """(id, branch name to the row's version), every id once, a page of texts at a time."""
    ids = list(dict.fromkeys(example_id for table in tables for example_id in table.ids))
    streams = {table.name: iter(table) for table in tables}
    ahead: dict[str, dict[str, Example]] = {table.name: {} for table in tables}
    has = {table.name: set(table.ids) for table in tables}
    for start in range(0, len(ids), PAGE):
        page = ids[start : start + PAGE]
        for name, stream in streams.items():
            wanted = {example_id for example_id in page if example_id in has[name]} - ahead[name].keys()
            while wanted:
                example = next(stream)
                ahead[name][example.id] = example
                wanted.discard(example.id)
        for example_id in page:
            yield example_id, {name: rows.pop(example_id) for name, rows in ahead.items() if example_id in rows}


def _joined(
    versions: Mapping[str, Example], names: list[str], order: list[str], givers: list[str], params: Params
) -> Outcome:
    there = [name for name in order if name in versions]
    fell_back = [name for name in there if versions[name].fell_back]
    live = [name for name in there if name not in fell_back]
    source = (live or there)[0]
    base = versions[source]
    texts: dict[str, str] = {}
    for name in (name for name in live if name in givers):
        for text in versions[name].candidates or (versions[name].response,):
            texts.setdefault(text, name)
    branches = {name: versions[name].fields() if name in versions else None for name in names}
    fields = {**base.fields(), "branches": branches}
    meta: dict[str, Any] = {}
    for name in reversed(there):
        meta |= versions[name].meta
    meta |= base.meta
    meta |= {column: render(template, fields) for column, template in params.columns.items()}
    response = render(params.response, fields) if params.response else base.response
    row = replace(base, response=response, candidates=tuple(texts), meta=meta)
    scores = {"branches": [name for name in names if name in versions], "response_from": source}
    scores |= {"candidates_from": list(texts.values()), "fell_back_in": fell_back}
    if params.response:
        scores["response_from"] = "template"
    own = versions.get(order[0])
    return kept(row, scores=scores) if own is not None and row == own else changed(row, scores=scores)


def columns(params: Params) -> list[str]:
    """What the step adds to a row's columns."""
    return list(params.columns)
