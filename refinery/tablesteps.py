"""Run one table step: all rows in, all outcomes out, and only what differs from before is redone further down."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from refinery.context import Context
from refinery.records import Outcome
from refinery.steps import Step, StoredTable, batches, forget_downstream, start
from refinery.store import Store

DRAFT = "+"
"""Put behind a step's fingerprint while its outcomes are being written: they take their place all at once."""


async def run_table(step: Step, store: Store, run_id: str, ctx: Context, progress: Callable[[int], None]) -> None:
    """Run `apply_all` and store its outcomes in their order.

    A row that is not what it was (or stands elsewhere) makes later row steps do it again; the others stand.
    RuntimeError, a bug in the op, where a row is answered for twice.
    """
    start(store, step, run_id)
    draft = step.fingerprint + DRAFT
    store.drop_outcomes(draft)
    tables = [StoredTable(name, store, reads) for name, reads in zip(step.upstream, step.reads, strict=True)]
    outcomes: Iterable[Outcome] = await step.module.apply_all(tables, step.params, ctx)
    for batch in batches(enumerate(_once(step, outcomes))):
        store.add_outcomes(draft, batch)
        progress(batch[-1][0] + 1)
    differing = store.query(f"{_DIFFERING} UNION {_NEW}", [step.fingerprint, draft, draft, step.fingerprint])
    forget_downstream(store, step.fingerprint, [row["example_id"] for row in differing])
    store.rename_outcomes(draft, step.fingerprint)


def without_writing(step: Step) -> Step:
    """The step as it is, or, where it writes files (an op with `missing`), one that passes its rows and writes none."""
    if not hasattr(step.module, "missing"):
        return step

    async def apply_all(tables: Sequence[StoredTable], params: Any, ctx: Context) -> list[Outcome]:
        rows = {example.id: example for table in tables for example in table}
        return [Outcome(example.id, "kept", "ok", example) for example in rows.values()]

    module: Any = SimpleNamespace(VERSION=step.module.VERSION, apply_all=apply_all)
    return replace(step, module=module)


_DIFFERING = """
    SELECT o.example_id FROM outcomes o WHERE o.step = ? AND NOT EXISTS (
        SELECT 1 FROM outcomes n WHERE n.step = ? AND n.example_id = o.example_id AND n.position = o.position
        AND n.body IS NOT DISTINCT FROM o.body AND n.response IS NOT DISTINCT FROM o.response
        AND n.candidates IS NOT DISTINCT FROM o.candidates AND n.fell_back IS NOT DISTINCT FROM o.fell_back)
"""
_NEW = """
    SELECT n.example_id FROM outcomes n WHERE n.step = ?
    AND n.example_id NOT IN (SELECT example_id FROM outcomes WHERE step = ?)
"""


def _once(step: Step, outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
    seen: set[str] = set()
    for outcome in outcomes:
        if outcome.example_id in seen:
            raise RuntimeError(f"step {step.name}: {step.op} answered twice for row {outcome.example_id}")
        seen.add(outcome.example_id)
        yield outcome
