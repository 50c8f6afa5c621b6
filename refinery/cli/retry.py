"""`refinery retry`: the rows that failed, asked again, and then what later steps made of them; nothing else."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from refinery.cli.interrupt import prompt_exit
from refinery.cli.printing import counted_rows
from refinery.cli.progress import Progress
from refinery.cli.run import going_on, spec_text, versions
from refinery.errors import UserError, did_you_mean
from refinery.graph import run_graph
from refinery.records import digest
from refinery.spec import Spec
from refinery.steps import Step, is_complete, resolve, source_fingerprints
from refinery.store import Store


def retry_rows(spec: Spec, path: Path, reasons: Sequence[str], overrides: Sequence[str]) -> None:
    """Steps that are not complete under this spec, and what reads them, are left to `refinery run`."""
    console = Console(stderr=True, highlight=False)
    store = Store(spec.store_path, read_only=not spec.store_path.exists())
    with store.run_lock():
        steps, unfinished = _complete(spec, store)
        _mark(store, steps, reasons)
        failed = {step.name: _waiting(store, step) for step in steps}
        if unfinished:
            console.print(f"left to `refinery run`, not complete under this spec: {', '.join(unfinished)}")
        if not any(failed.values()):
            return console.print("no row failed for a reason that may pass: nothing to retry")
        for name, ids in failed.items():
            if ids:
                console.print(f"{name}: {counted_rows(len(ids))} are asked again")
        names = {step.name for step in steps}
        part = spec.model_copy(update={"graph": {n: s for n, s in spec.graph.items() if n in names}})
        run_id = store.start_run(spec.name, spec_text(path, overrides), digest(spec.public()), versions())
        with prompt_exit(going_on(path), lambda: store.finish_run(run_id, "interrupted")), store.finishing(run_id):
            with Progress(console, "retry") as progress:
                results = run_graph(part, store, run_id=run_id, progress=progress.step)
        for step in steps:
            if failed[step.name]:
                console.print(f"{step.name}: {_fates(store, step, failed[step.name])}")
            elif results[step.name].ran:
                console.print(f"{step.name}: {counted_rows(results[step.name].ran)} done again behind them")


def _complete(spec: Spec, store: Store) -> tuple[list[Step], list[str]]:
    """The steps that are complete and read only such, and the names of the others."""
    sources = source_fingerprints(spec, store)
    done = {name for name, fingerprint in sources.items() if is_complete(store, fingerprint)}
    found, others = [], []
    for step in resolve(spec, sources):
        if done.issuperset(step.upstream) and is_complete(store, step.fingerprint):
            done.add(step.name)
            found.append(step)
        else:
            others.append(step.name)
    return found, others


def _waiting(store: Store, step: Step) -> list[str]:
    sql = "SELECT example_id FROM outcomes WHERE step = ? AND transient ORDER BY position"
    return [row["example_id"] for row in store.query(sql, [step.fingerprint])]


def _mark(store: Store, steps: Sequence[Step], reasons: Sequence[str]) -> None:
    """Rows that gave up for one of `reasons` are to be asked again. UserError for a reason that no row has."""
    sql = "SELECT DISTINCT reason FROM outcomes WHERE step = ? AND action IN ('fell_back', 'dropped')"
    known = {step.name: {row["reason"] for row in store.query(sql, [step.fingerprint])} for step in steps}
    rows = [step for step in steps if not step.is_table]
    there = sorted({reason for step in rows for reason in known[step.name]})
    for reason in reasons:
        if reason not in there:
            listed = f" (there are: {', '.join(there)})" if there else ""
            raise UserError(f'no row failed with the reason "{reason}"{did_you_mean(reason, there) or listed}')
    sql = """SELECT * FROM outcomes WHERE step = ? AND NOT transient AND action IN ('fell_back', 'dropped')
             AND list_contains(?::VARCHAR[], reason)"""
    for step in rows if reasons else ():
        found = store.query(sql, [step.fingerprint, list(reasons)])
        store.replace("outcomes", [{**row, "transient": True} for row in found], ["step", "example_id"])


def _fates(store: Store, step: Step, ids: list[str]) -> str:
    """What became of the rows that were asked again: "10 changed, 2 fell back (server_error)"."""
    sql = """SELECT action, reason, count(*) AS n FROM outcomes
             WHERE step = ? AND list_contains(?::VARCHAR[], example_id) GROUP BY ALL ORDER BY n DESC"""
    counts: Counter[str] = Counter()
    for row in store.query(sql, [step.fingerprint, ids]):
        why = "" if row["reason"] == "ok" else f" ({row['reason']})"
        counts[f"{row['action'].replace('_', ' ')}{why}"] += row["n"]
    return ", ".join(f"{n:,} {words}" for words, n in counts.items()) or "none of them is given to it any more"
