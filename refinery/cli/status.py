"""`refinery status` and `refinery runs`: what the last run did, whether one goes on, and what it left."""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from rich.console import Console

from refinery.cli.printing import add, console, moment, number, opened, print_json, since, step_names, table
from refinery.errors import UserError
from refinery.fates import fates
from refinery.looking import latest
from refinery.rows import Row
from refinery.runs import Status, runs_of, status_of, stores
from refinery.store import Store

COLUMNS = 4
"""Checkpoints side by side, so that a table of scores fits 80 columns."""


def status(path: Path, as_json: bool, overrides: Sequence[str] = ()) -> None:
    store, spec = opened(path, overrides)
    names = step_names(spec)
    found = status_of(store, names)
    data = fates(store, spec, latest(store, names)) if spec else []
    if as_json:
        steps = [{"name": s.name, "op": s.op, "status": s.status, "rows": s.rows} | s.actions for s in found.steps]
        retry = {s.name: s.retry for s in found.steps}
        steps = [{**step, "to_retry": retry[str(step["name"])]} for step in steps]
        about = {"store": found.store, "bytes": found.bytes, "run": found.run, "running": found.running}
        return print_json(
            about | {"steps": steps, "data": data, "checkpoints": found.checkpoints, "scores": found.scores}
        )
    out = console()
    _head(out, found)
    _steps(out, found)
    for each in data:
        out.print(f"{each.step}: {each.words()}", markup=False)
    _models(out, found)
    if found.running:
        return
    if found.run and found.run["status"] in ("killed", "interrupted", "failed"):
        out.print(f"\n`refinery run {path}` goes on where it stopped")
    elif waiting := sum(step.retry for step in found.steps):
        out.print(f"\n{waiting:,} rows failed for a reason that may pass: `refinery retry {path}` asks them again")


def _head(out: Console, found: Status) -> None:
    run = found.run
    if run is None:
        out.print("no run yet (a preview may have filled the request cache)")
    elif found.running:
        out.print(f"{run['name']}: running for {since(run['started_at'], None)} (process {found.running['pid']})")
    else:
        took = f", took {since(run['started_at'], run['finished_at'])}" if run["finished_at"] else ""
        out.print(f"{run['name']}: {run['status']}, started {moment(run['started_at'])}{took}")
    out.print(f"store {_near(Path(found.store))} ({found.bytes / 1e6:.1f} MB)", soft_wrap=True)


def _steps(out: Console, found: Status) -> None:
    if not found.steps:
        return
    numbers = ("rows", "kept", "changed", "fell back", "dropped", "made", "to retry")
    wide = any(step.actions["created"] for step in found.steps)
    shown = [name for name in numbers if wide or name != "made"]
    steps = table("step", *shown, "state", right=numbers)
    for step in found.steps:
        state = step.status if step.status == "complete" or found.running else "unfinished"
        counts = [number(step.actions[a]) for a in ("kept", "changed", "fell_back", "dropped")]
        counts += [number(step.actions["created"])] if wide else []
        add(steps, step.name, number(step.rows) or "0", *counts, number(step.retry), state)
    out.print()
    out.print(steps)


def _models(out: Console, found: Status) -> None:
    """Checkpoints by name, then mean scores over their seeds."""
    if found.checkpoints:
        by_name: dict[tuple[str, str], list[Row]] = {}
        for row in found.checkpoints:
            by_name.setdefault((row["name"], row["role"]), []).append(row)
        made = table("checkpoint", "role", "method", "seeds", "state")
        for (name, role), rows in by_name.items():
            done = sum(row["status"] == "complete" for row in rows)
            state = "complete" if done == len(rows) else f"{done} of {len(rows)} complete"
            seeds = ", ".join(str(seed) for seed in dict.fromkeys(row["seed"] for row in rows))
            add(made, name, role, rows[0]["method"], seeds if role != "base" else "", state)
        out.print()
        out.print(made)
    names = list(dict.fromkeys((row["role"] != "base", row["name"]) for row in found.scores))
    ordered = [name for _, name in sorted(names, key=lambda pair: pair[0])]
    for start in range(0, len(ordered), COLUMNS):
        some = ordered[start : start + COLUMNS]
        scores = table("benchmark", "metric", *some, right=some)
        for benchmark, metric, settings in dict.fromkeys(_measured(row) for row in found.scores):
            cells = []
            for name in some:
                same = ("benchmark", benchmark), ("metric", metric), ("fingerprint", settings), ("name", name)
                values = [row["value"] for row in found.scores if all(row[key] == value for key, value in same)]
                cells.append(f"{fmean(values):.3f}" if values else "")
            add(scores, benchmark, metric, *cells)
        out.print()
        out.print(scores)


def _measured(row: Row) -> tuple[str, str, str]:
    """Scores measured under other settings are not averaged: they are a line of their own."""
    return row["benchmark"], row["metric"], row["fingerprint"]


def runs(path: Path, as_json: bool, overrides: Sequence[str] = ()) -> None:
    """The runs of one store, or of every store in a folder."""
    if path.is_dir():
        if overrides:
            raise UserError(f"--set overrides a key of a spec, and {path} is a folder")
        there = [Store(each, read_only=True) for each in stores(path)]
    elif not path.exists():
        raise UserError(f"{path}: no such folder, spec or store")
    else:
        there = [opened(path, overrides)[0]]
    found = [{**run, "store": str(_near(store.path))} for store in there for run in runs_of(store)]
    found.sort(key=lambda run: run["started_at"], reverse=True)
    if as_json:
        return print_json({"runs": found})
    listed = table("run", "status", "started", "took", "store")
    for run in found:
        took = since(run["started_at"], run["finished_at"]) if run["finished_at"] else ""
        add(listed, run["name"], run["status"], moment(run["started_at"]), took, run["store"])
    out = console()
    out.print(listed if found else f"no runs in {path}")


def _near(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
