"""`refinery show`: the funnel, a step's rows, and one row's whole lineage, read from the store alone."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from refinery.errors import UserError, did_you_mean
from refinery.records import Outcome
from refinery.store import Store


def store_of(path: Path) -> Store:
    """The store of a spec, or a .duckdb file itself. Reading works while a run goes on."""
    if path.suffix == ".duckdb":
        return Store(path, read_only=True)
    from refinery.spec import load_spec

    return Store(load_spec(path).store_path, read_only=True)


def show_funnel(store: Store) -> None:
    """Each step that the newest run knows, and how many rows were kept, changed, fell back or were dropped."""
    table = Table(box=None, pad_edge=False)
    for column in ("step", "rows", "kept", "changed", "fell back", "dropped", "reasons"):
        table.add_column(column, justify="left" if column in ("step", "reasons") else "right")
    for step in _steps(store).values():
        actions: Counter[str] = Counter()
        reasons = []
        for row in store.funnel(step["fingerprint"]):
            actions[row["action"]] += row["n"]
            if row["reason"] != "ok":
                reasons.append(f"{row['reason']} {row['n']}" + (" (to be asked again)" if row["transient"] else ""))
        counts = [str(actions[a] + (actions["created"] if a == "kept" else 0)) for a in ("kept", "changed")]
        counts += [str(actions[a]) for a in ("fell_back", "dropped")]
        table.add_row(step["name"], str(actions.total()), *counts, ", ".join(reasons))
    Console().print(table)


def show_rows(store: Store, name: str, limit: int, action: str) -> None:
    """Rows of a step: question, reference, response, and the scores that decided."""
    steps = _steps(store)
    if name not in steps:
        raise UserError(f'no step "{name}" in {store.path.name}{did_you_mean(name, steps)}')
    actions = ("kept", "changed", "fell_back", "dropped", "created")
    if action and action not in actions:
        raise UserError(f'no action "{action}"{did_you_mean(action, actions)}; there are: {", ".join(actions)}')
    found = [o for o in store.outcomes(steps[name]["fingerprint"]) if not action or o.action == action]
    console = Console()
    for outcome in found[:limit]:
        _print_outcome(console, name, outcome)
    console.print(f"{min(limit, len(found))} of {len(found)} rows", style="dim")


def show_lineage(store: Store, prefix: str) -> None:
    """What every step did to one row."""
    ids = store.query("SELECT DISTINCT example_id FROM outcomes WHERE starts_with(example_id, ?) LIMIT 3", [prefix])
    if not ids:
        raise UserError(f'no row whose id starts with "{prefix}" in {store.path.name}')
    if len(ids) > 1:
        raise UserError(f'several rows start with "{prefix}": {", ".join(r["example_id"] for r in ids)} ...')
    current = {step["fingerprint"] for step in _steps(store).values()}
    for step, outcome in store.lineage(ids[0]["example_id"]):
        if step["fingerprint"] in current:
            _print_outcome(Console(), step["name"], outcome)


def _steps(store: Store) -> dict[str, dict[str, Any]]:
    """The newest step of each name, in the order in which they were started."""
    rows = store.query("SELECT fingerprint, name, op, upstream FROM steps ORDER BY started_at")
    return {row["name"]: row for row in rows}


def _print_outcome(console: Console, step: str, outcome: Outcome) -> None:
    console.print(
        Text.assemble((step, "bold"), f"  {outcome.example_id}  ", (outcome.action, "bold"), f"  {outcome.reason}")
    )
    fields = Table.grid(padding=(0, 2))
    fields.add_column(style="dim", no_wrap=True)
    fields.add_column(overflow="fold")
    if outcome.example:
        fields.add_row("question", Text(outcome.example.question))
        fields.add_row("reference", Text(outcome.example.answer))
        fields.add_row("response", Text(outcome.example.response))
    if outcome.scores:
        fields.add_row("scores", Text(json.dumps(outcome.scores, ensure_ascii=False)))
    if outcome.detail:
        fields.add_row("detail", Text(outcome.detail))
    console.print(fields)
    console.print()
