"""From the spec's `source` to Outcome rows: read, understood, identified and split, or dropped with a reason."""

import datetime
import decimal
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from refinery import readers, shapes
from refinery.errors import RowError, UserError, did_you_mean
from refinery.readers import Raw
from refinery.records import Example, Outcome, digest
from refinery.shapes import CHAT_COLUMNS
from refinery.spec import Spec
from refinery.spec_models import SourceSpec, SplitSpec

LAB_COLUMNS = ("question", "answer", "key", "case", "domain")
SHOWN = 5
"""Bad rows named in a refusal."""

unreadable_columns = shapes.unreadable


def load(spec: Spec) -> list[Outcome]:
    """Read every row: one outcome each, in order, "kept" with its Example, or "dropped" with its reason and place.

    The same content gives the same rows, ids and splits, wherever it stands. UserError where nothing can be read, where
    no row is left, and, under on_bad_row: refuse, where any row is bad.
    """
    return read_source(spec.source)


def read_source(source: SourceSpec) -> list[Outcome]:
    """See `load`."""
    raws = list(islice(_raw_rows(source), source.limit))
    columns = list(dict.fromkeys(name for raw in raws for name in raw.values or ()))
    if columns and (message := unreadable_columns(source, columns)):
        raise UserError(f"source: {message}")
    seen: Counter[str] = Counter()
    outcomes = [_outcome(source, columns, raw, seen) for raw in raws]
    bad = [outcome for outcome in outcomes if outcome.example is None]
    if bad and source.on_bad_row == "refuse":
        raise UserError(_refusal(bad, len(outcomes)))
    if len(bad) == len(outcomes):
        raise UserError("source: no rows" if not bad else f"source: all {len(bad)} rows are bad: {_shown(bad)}")
    return _with_splits(outcomes, source.split)


def peek(source: SourceSpec) -> tuple[list[str] | None, list[tuple[tuple[str, ...], str]]]:
    """(columns, mistakes) as far as they show without reading the whole source; columns are None where unknown.

    A mistake is (path below `source`, message).
    """
    if source.lab is not None:
        from refinery.lab import CALIBRATION, DOMAINS

        known = [*DOMAINS, *CALIBRATION]
        hint = did_you_mean(source.lab, known) or f" (there are: {', '.join(known)})"
        if source.lab in known:
            return list(LAB_COLUMNS), []
        return list(LAB_COLUMNS), [(("lab",), f'the lab has no domain "{source.lab}"{hint}')]
    if source.path is not None:
        if message := readers.unreadable(Path(source.path)):
            return None, [(("path",), message)]
        try:
            return readers.columns(Path(source.path)) or None, []
        except UserError as error:
            return None, [(("path",), str(error))]
    if source.sql is not None:
        tables = source.sql.tables
        found = [(("sql", "tables", name), readers.unreadable(Path(file))) for name, file in tables.items()]
        return None, [(path, message) for path, message in found if message]
    return None, []


def _raw_rows(source: SourceSpec) -> Iterator[Raw]:
    if source.path is not None:
        yield from readers.read_path(Path(source.path))
    elif source.hub is not None:
        hub = source.hub
        yield from readers.read_hub(hub.id, hub.config, hub.split, hub.revision)
    elif source.sql is not None:
        from refinery import sql

        tables = {name: Path(file) for name, file in source.sql.tables.items()}
        for number, values in enumerate(sql.query(source.sql.query, tables), 1):
            yield Raw(f"sql, row {number}", values)
    elif source.lab is not None:
        from refinery.lab import source_rows

        for number, values in enumerate(source_rows(source.lab), 1):
            yield Raw(f"lab {source.lab}, row {number}", values)


# -- rows -------------------------------------------------------------------------------------------------------------


def _outcome(source: SourceSpec, columns: Sequence[str], raw: Raw, seen: Counter[str]) -> Outcome:
    """The row as an Example, still without its split. Its id: prompt, answer, and how many equal ones came before."""
    try:
        if raw.values is None:
            raise RowError(raw.reason, raw.detail)
        values = {name: plain(value) for name, value in raw.values.items()}
        by = source.split.by
        if by is not None and values.get(by) is None:
            raise RowError("missing_column", by)
        prompt, answer = shapes.convert(source, columns, values)
    except RowError as error:
        detail = f"{raw.place}: {error.detail}" if error.detail else raw.place
        id_ = _id(["bad", raw.values if raw.values is not None else raw.detail], seen)
        return Outcome(id_, "dropped", error.reason, None, {}, detail.encode("utf-8", "replace").decode("utf-8"))
    meta = {name: value for name, value in values.items() if name not in CHAT_COLUMNS}
    example = Example(id=_id([prompt, answer], seen), prompt=prompt, answer=answer, response=answer, meta=meta)
    return Outcome(example.id, "kept", "ok", example)


def _id(content: Any, seen: Counter[str]) -> str:
    """Appending, deleting or editing other rows leaves an id alone."""
    key = digest(content)
    seen[key] += 1
    return digest([key, seen[key]], 20)


def plain(value: Any) -> Any:
    """A value as JSON has it: dates as text, decimals as numbers, bytes refused with RowError("wrong_type")."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, decimal.Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, bytes | bytearray):
        raise RowError("wrong_type", "a column holds bytes")
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value if isinstance(value, str | int | float | None) else str(value)


def _refusal(bad: list[Outcome], total: int) -> str:
    rest = f"; and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
    cure = "mend them, or leave them out with on_bad_row: drop"
    return f"source: {len(bad)} of {total} rows are bad: {_shown(bad)}{rest} ({cure})"


def _shown(bad: list[Outcome]) -> str:
    return "; ".join(f"{outcome.reason} at {outcome.detail}" for outcome in bad[:SHOWN])


# -- splits -----------------------------------------------------------------------------------------------------------


def _with_splits(outcomes: list[Outcome], split: SplitSpec) -> list[Outcome]:
    groups = [(o.example.meta[split.by] if split.by else o.example.id) if o.example else None for o in outcomes]
    names = assign([group for group in groups if group is not None], split)
    placed = []
    for outcome, group in zip(outcomes, groups, strict=True):
        if outcome.example is not None:
            outcome = replace(outcome, example=replace(outcome.example, split=names[digest(group)]))
        placed.append(outcome)
    return placed


def assign(groups: Sequence[Any], split: SplitSpec) -> dict[str, str]:
    """Digest of each group's value to its split.

    Groups stand in the order of a hash of (seed, value) and fill train, validation and test one after another; a group
    goes where its middle falls, so the shares are exact to half a group at each of the two cuts.
    """
    sizes = Counter(digest(group) for group in groups)
    train, validation = split.train or 0.0, split.validation or 0.0
    result: dict[str, str] = {}
    before = 0
    for key in sorted(sizes, key=lambda key: digest([split.seed or 0, key])):
        middle = (before + sizes[key] / 2) / len(groups)
        result[key] = "train" if middle < train else "validation" if middle < train + validation else "test"
        before += sizes[key]
    return result
