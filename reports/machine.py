"""A report for programs: every table as CSV, the comparison's numbers in full as CSV and, with the rest, as JSON."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from reports.blocks import Block, Text, plain
from reports.listing import tables
from reports.text import clean

if TYPE_CHECKING:
    from evals.forgetting import Comparison, Effect
    from reports.data import ReportData

NUMBERS = (
    "spec", "method", "kind", "benchmark", "quantity", "value", "low", "high", "p", "items", "seeds", "note",
    "detectable", "p_worse"
)  # fmt: skip
"""The columns of numbers.csv: one row an estimate, as fractions, nothing rounded. `detectable`: of a difference, the
smallest true one that is found at 5% in four cases of five; `p_worse`: one-sided, of a loss of the margin or more."""


def json_of(title: str, facts: Sequence[str], blocks: Sequence[Block], reports: Sequence[ReportData]) -> dict[str, Any]:
    """Everything a program may want, as plain data: the numbers in full and the tables as they are shown."""
    return {
        "title": title,
        "facts": list(facts),
        "specs": [
            {
                "name": data.spec.name,
                "label": data.label,
                "model": data.spec.model,
                "run": data.runs[0]["id"] if data.runs else None,
                "spec_digest": data.runs[0]["spec_digest"] if data.runs else None,
                "versions": data.runs[0]["versions"] if data.runs else {},
                "baseline": data.comparison.baseline if data.comparison else None,
                "margin": data.comparison.margin if data.comparison else None,
                "steps": {step.name: {"fingerprint": step.fingerprint, "counts": step.counts} for step in data.steps},
                "checkpoints": {name: [row["fingerprint"] for row in rows] for name, rows in data.checkpoints.items()},
                "notes": data.notes,
            }
            for data in reports
        ],
        "numbers": [row for data in reports for row in numbers(data)],
        "tables": [
            {
                "name": each.name,
                "section": each.section,
                "title": each.title,
                "columns": [column.title for column in each.table.columns],
                "rows": [[_text(cell) for cell in row] for row in each.table.rows],
                "note": each.table.note,
            }
            for each in tables(blocks)
        ],
    }


def csv_files(blocks: Sequence[Block], reports: Sequence[ReportData]) -> dict[str, str]:
    """File name to its text: each table as it is shown, and numbers.csv."""
    files = {
        f"{each.name}.csv": _csv([c.title for c in each.table.columns], [map(_text, row) for row in each.table.rows])
        for each in tables(blocks)
    }
    found = [row for data in reports for row in numbers(data)]
    if found:
        files["numbers.csv"] = _csv(NUMBERS, [[row[key] for key in NUMBERS] for row in found])
    return files


def numbers(data: ReportData) -> Iterator[dict[str, Any]]:
    """Every estimate of the comparison; what cannot be estimated has None for a value, and a note."""
    comparison = data.comparison
    if comparison is None:
        return
    for name, kind, benchmark, effect in _effects(comparison):
        for field in fields(effect):
            estimate = getattr(effect, field.name)
            if not hasattr(estimate, "estimable"):
                continue
            yield {
                "spec": data.label,
                "method": name,
                "kind": kind,
                "benchmark": benchmark,
                "quantity": field.name,
                **{key: _known(getattr(estimate, key)) for key in ("value", "low", "high", "p")},
                "items": estimate.n_items,
                "seeds": estimate.n_seeds,
                "note": estimate.note,
                **{key: _known(getattr(estimate, key)) for key in ("detectable", "p_worse")},
            }


def _effects(comparison: Comparison) -> Iterator[tuple[str, str, str, Effect]]:
    """(method, kind, benchmark, effect); a mean's benchmark is called "mean", and "centred mean" where benchmarks are
    centred on chance."""
    for name, method in comparison.methods.items():
        for kind in ("domain", "general"):
            own: dict[str, Effect] = getattr(method, kind)
            mean: Effect | None = getattr(method, f"{kind}_mean")
            for benchmark, effect in {**own, **({"mean": mean} if mean else {})}.items():
                yield name, kind, benchmark, effect
        if method.general_centred is not None:
            yield name, "general", "centred mean", method.general_centred


def _known(value: float) -> float | None:
    return None if math.isnan(value) or math.isinf(value) else float(value)


def _text(cell: Text) -> str:
    return clean(plain(cell)).strip()


def _csv(head: Sequence[str], rows: Sequence[Any]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(map(_guarded, head))
    writer.writerows([_guarded(cell) for cell in row] for row in rows)
    return out.getvalue()


def _guarded(cell: Any) -> Any:
    """A spreadsheet runs what begins like a formula: such a text gets an apostrophe, a number does not."""
    if not isinstance(cell, str) or not cell:
        return "" if cell is None else cell
    runs = cell[0] in "=@\t\r" or (cell[0] in "+-" and not cell[1:2].isdigit())
    return f"'{cell}" if runs else cell
