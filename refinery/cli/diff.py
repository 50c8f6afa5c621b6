"""`refinery diff`: two specs, or a spec and the last run of its store; what that makes run again."""

import json
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.padding import Padding
from rich.text import Text

from refinery import looking
from refinery.cli.printing import add, console, print_json, table
from refinery.cli.run_specs import stored_spec
from refinery.differing import Change, Difference, Effect, difference, prints
from refinery.errors import UserError
from refinery.rows import Row
from refinery.spec import Spec, load_spec
from refinery.steps import source_fingerprints, stands
from refinery.store import Store

WIDE = 34
"""Characters to which an old or new value is cut."""


def show_diff(old_path: Path, new_path: Path | None, as_json: bool, overrides: Sequence[str] = ()) -> None:
    """Asks no model; a source that its store has not read is read. `overrides` are of the new spec."""
    new = load_spec(new_path or old_path, overrides)
    if new_path is None:
        old, stored = _last_run(new)
        old_prints = {name: row["fingerprint"] for name, row in stored.items()}
        unfinished = [name for name, row in stored.items() if row["status"] != "complete"]
        title = f"{old_path} against the last run"
    else:
        old, stored, unfinished = load_spec(old_path), {}, []
        with _store(old) as store:
            old_prints = prints(old, source_fingerprints(old, store))
        title = f"{old_path} -> {new_path}"
    with _store(new) as store:
        sources = source_fingerprints(new, store)
        found = difference(old, new, old_prints, sources, stored)
        made = {n for n, fingerprint in prints(new, sources).items() if new_path is None and stands(store, fingerprint)}
    found = replace(found, steps=[_as_stored(each, made, unfinished) for each in found.steps])
    if as_json:
        return print_json(found)
    _print(found, title)


def _as_stored(effect: Effect, made: Collection[str], unfinished: Collection[str]) -> Effect:
    """What the store knows better: the last run did not finish the step, or an earlier one has made it already."""
    if effect.what == "stands" and effect.name in unfinished:
        return replace(effect, what="runs", how="directly", why=["not finished"])
    if effect.what == "runs" and effect.name in made:
        return replace(effect, what="stands", how="", why=["made by an earlier run"])
    return effect


@contextmanager
def _store(spec: Spec) -> Iterator[Store]:
    """The spec's store, or an empty one, that nothing be made where there is none."""
    with tempfile.TemporaryDirectory() as empty:
        yield Store(spec.store_path if spec.store_path.exists() else Path(empty) / "empty.duckdb")


def _last_run(spec: Spec) -> tuple[Spec, dict[str, Row]]:
    """The spec of the newest run, and its steps by name as the store has them."""
    store = Store(spec.store_path, read_only=True)
    run = next(
        iter(store.query("SELECT name, spec FROM runs WHERE name = ? ORDER BY started_at DESC", [spec.name])), None
    )
    if run is None:
        raise UserError(f"{store.path} holds no run of {spec.name} yet")
    return stored_spec(run), {step["name"]: step for step in looking.latest(store)}


def _print(found: Difference, title: str) -> None:
    out = console()
    out.print(Text(title, style="bold"), soft_wrap=True)
    for change in found.changes:
        _print_change(out.print, change)
    if not found.changes:
        out.print("  nothing differs in what is written")
    out.print()
    effects = table("", "what", "why")
    for effect in [*found.steps, *found.methods]:
        what = f"runs again ({effect.how})" if effect.what == "runs" and effect.why != ["new"] else effect.what
        add(effects, effect.name, what, ", ".join(effect.why))
    out.print(effects)
    if any(effect.what == "runs" for effect in found.steps):
        out.print("Of a step that runs again, requests that did not change are answered from the store.", style="dim")


def _print_change(say: Any, change: Change) -> None:
    if change.lines:
        say(Text(f"  {change.key}:"))
        for line in change.lines:
            say(Padding(Text(line, style={"+": "green", "-": "red"}.get(line[:1], "dim")), (0, 0, 0, 4)))
    elif change.kind == "changed":
        say(Text(f"  {change.key}: {_short(change.old)} -> {_short(change.new)}"))
    else:
        value = _short(change.new if change.kind == "added" else change.old, 2 * WIDE)
        sign, style = ("+", "green") if change.kind == "added" else ("-", "red")
        say(Text(f"{sign} {change.key}: {value}", style=style))


def _short(value: Any, wide: int = WIDE) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = " ".join(text.split())
    return text if len(text) <= wide else text[: wide - 4] + " ..."
