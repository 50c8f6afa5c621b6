"""Rows by a SELECT of the user's own, over the steps it reads as tables (refinery/sql.py walls it in).

A table has the columns id, question, answer, response, split, fell_back, and as JSON prompt, candidates and parents,
then the rows' own columns (those that hold lists or objects, or values of several kinds, as JSON). A row that comes
back with a known id is that row, with what the query changed in it; without an id, or with one that no step has, it is
made; a row that does not come back is dropped. Without ORDER BY rows come in DuckDB's order.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from refinery import sql
from refinery.context import Context
from refinery.errors import RowError, UserError
from refinery.records import Example, Message, Outcome, digest
from refinery.sources import plain
from refinery.tableops import Table, TableParams, changed, created, derived_id, dropped, kept

VERSION = 1
VARIABLES: tuple[str, ...] = ()
READS = (1, None)

OWN = {
    "id": "VARCHAR",
    "question": "VARCHAR",
    "answer": "VARCHAR",
    "response": "VARCHAR",
    "split": "VARCHAR",
    "fell_back": "BOOLEAN",
    "prompt": "JSON",
    "candidates": "JSON",
    "parents": "JSON",
}
"""Column to type. A row's own column of one of these names cannot be asked for."""
SPLITS = ("train", "validation", "test")


class Params(TableParams):
    query: str
    """One SELECT (or WITH ... SELECT) over tables named as the steps in `from`; a name with a dash, or one that is a
    word of SQL, stands in double quotes."""


async def apply_all(tables: Sequence[Table], params: Params, ctx: Context) -> Iterable[Outcome]:
    """The result's rows in the query's order, then the dropped ones.

    Of several rows under one known id the first is that row, the others are made from it. Columns besides the usual
    ones become the row's own. Reasons: ok, made, repeated, not_selected. UserError with DuckDB's words, or naming the
    row of the result that cannot be one.
    """
    found: dict[str, Example] = {}
    for table in tables:
        for example in table:
            found.setdefault(example.id, example)
    types = {table.name: _types(table) for table in tables}
    rows = {table.name: sql.Rows(_rows(table, types[table.name]), types[table.name]) for table in tables}
    try:
        result = await asyncio.to_thread(sql.query, params.query, rows)
    except UserError as error:
        near = next((name for name in rows if f'near "{name}"' in str(error)), None)
        hint = f" ({near} is a word of SQL, too: write it in double quotes, or rename the step)" if near else ""
        raise UserError(f"sql: step {ctx.step}: {str(error).removeprefix('sql: ')}{hint}") from None
    as_json = {name for each in types.values() for name, kind in each.items() if kind == "JSON"} - OWN.keys()
    return list(_outcomes(result, found, as_json))


def _types(table: Table) -> dict[str, str]:
    """Column to DuckDB type, by what its values are: told to DuckDB, which would read "2024-01-01" as a date."""
    kinds: dict[str, set[type]] = {}
    for example in table:
        for name, value in example.meta.items():
            kinds.setdefault(name, set()).add(dict if type(value) is int and abs(value) >= 2**63 else type(value))
    types = dict(OWN)
    for name, found in kinds.items():
        if name.lower() not in {known.lower() for known in types}:  # DuckDB's names know no case
            types[name] = _type(found)
    return types


def _type(found: set[type]) -> str:
    found = found - {type(None)}
    if found <= {str}:
        return "VARCHAR"
    if found == {bool}:
        return "BOOLEAN"
    if found <= {int, float}:
        return "BIGINT" if found == {int} else "DOUBLE"
    return "JSON"


def _rows(table: Table, types: dict[str, str]) -> Iterator[dict[str, Any]]:
    for example in table:
        own: dict[str, Any] = {"id": example.id, "question": example.question, "answer": example.answer}
        own |= {"response": example.response, "split": example.split, "fell_back": example.fell_back}
        own |= {"prompt": example.prompt, "candidates": list(example.candidates), "parents": list(example.parents)}
        yield {**{name: example.meta[name] for name in types if name in example.meta}, **own}


def _outcomes(result: list[dict[str, Any]], found: dict[str, Example], as_json: set[str]) -> Iterator[Outcome]:
    done: set[str] = set()
    copies: Counter[str] = Counter()
    for number, values in enumerate(result, 1):
        try:
            row = {name: plain(value) for name, value in values.items()}
            row_id = None if row.get("id") is None else str(row["id"])
            before = found.get(row_id) if row_id is not None else None
            after = _example(row, before, as_json)
        except (RowError, ValueError) as error:
            raise UserError(f"sql: row {number} of the result: {error}") from None
        if before is not None and before.id not in done:
            done.add(before.id)
            yield kept(before) if after == before else changed(after)
            continue
        content = digest([row_id, after.prompt, after.answer, after.response, after.meta])
        copies[content] += 1
        parents = (before.id,) if before is not None else after.parents
        made = replace(after, id=derived_id("sql", content, copies[content]), parents=parents)
        yield created(made, "repeated" if before is not None else "made")
    for example_id in found:
        if example_id not in done:
            yield dropped(example_id, "not_selected")


def _example(row: dict[str, Any], before: Example | None, as_json: set[str]) -> Example:
    """The row as the query has it; what the query does not name is as it was. ValueError for what no row can be."""
    base = before or Example("", [], "", "")
    meta = dict(base.meta)
    for name, value in row.items():
        if name not in OWN and (value is not None or name in meta):
            meta[name] = _decoded(value) if name in as_json else value
    prompt = _prompt(row, base)
    answer, response = (row[name] if name in row else None for name in ("answer", "response"))
    if before is None:
        answer, response = (response if answer is None else answer), (answer if response is None else response)
    else:
        answer = answer if "answer" in row else base.answer
        response = response if "response" in row else base.response
    if not isinstance(answer, str) or not isinstance(response, str):
        raise ValueError("it has neither an answer nor a response" if before is None else "answer or response is null")
    split = row.get("split", base.split) or base.split
    if split not in SPLITS:
        raise ValueError(f'there is no split "{split}" (there are: {", ".join(SPLITS)})')
    fell_back = row.get("fell_back", base.fell_back)
    candidates = _list(row, "candidates", base.candidates if before and response == base.response else ())
    return Example(
        id=base.id,
        prompt=prompt,
        answer=answer,
        response=response,
        candidates=candidates,
        fell_back=bool(fell_back),
        split=split,
        parents=_list(row, "parents", base.parents),
        meta=meta,
    )


def _decoded(value: Any) -> Any:
    """What a JSON column holds; text of the query's own, under the name of one, as it stands."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _prompt(row: dict[str, Any], base: Example) -> list[Message]:
    """The turns, with the last user turn as `question` has it where the query changed that."""
    turns: Any = row.get("prompt")
    turns = json.loads(turns) if isinstance(turns, str) else turns
    turns = [dict(turn) for turn in (base.prompt if turns is None else turns)]
    question = row.get("question")
    if question is not None and not isinstance(question, str):
        raise ValueError("question is not text")
    if question is not None and (not base.id or question != base.question):
        last = max((i for i, turn in enumerate(turns) if turn["role"] == "user"), default=len(turns))
        turns[last : last + 1] = [{"role": "user", "content": question}]
    if not any(turn.get("role") == "user" and str(turn.get("content", "")).strip() for turn in turns):
        raise ValueError("it has no question")
    return turns


def _list(row: dict[str, Any], name: str, otherwise: tuple[str, ...]) -> tuple[str, ...]:
    value = row.get(name)
    if value is None:
        return otherwise
    value = json.loads(value) if isinstance(value, str) else value
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ValueError(f"{name} is not a list of texts")
    return tuple(value)


def columns(params: Params) -> None:
    """What the step adds to a row's columns: only the database could say."""
