"""The runs of a store: which there were, whether one goes on, and what they left. Reads only."""

import fcntl
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from refinery.errors import UserError
from refinery.looking import Funnel, funnel, latest
from refinery.rows import Row
from refinery.store import Store


@dataclass(frozen=True, slots=True)
class Status:
    """Where a project stands."""

    store: str
    bytes: int
    run: Row | None
    """The newest run: id, name, status, started_at, finished_at. `status` is killed where its process is gone."""
    running: Row | None
    """{"pid", "started"} of the process that holds the store's lock now."""
    steps: list[Funnel]
    checkpoints: list[Row] = field(default_factory=list)
    scores: list[Row] = field(default_factory=list)
    """One row for each checkpoint, benchmark, metric and settings: name, role, seed, benchmark, metric, value, low,
    high, n, fingerprint."""


def status_of(store: Store, names: Iterable[str] = ()) -> Status:
    running = holder(store)
    listed = runs_of(store, running)
    columns = "fingerprint, name, method, role, seed, status, path"
    sql = """SELECT c.name, c.role, c.seed, s.benchmark, s.metric, s.value, s.low, s.high, s.n, s.fingerprint
             FROM scores s JOIN checkpoints c ON c.fingerprint = s.checkpoint
             WHERE c.role IN ('base', 'final', 'imported') AND NOT starts_with(s.benchmark, 'answers/')
             ORDER BY s.benchmark, s.metric, s.fingerprint, c.role, c.name, c.seed"""
    return Status(
        store=str(store.path),
        bytes=store.path.stat().st_size,
        run=listed[0] if listed else None,
        running=running,
        steps=funnel(store, latest(store, names)),
        checkpoints=store.query(f"SELECT {columns} FROM checkpoints ORDER BY role, name, seed, started_at"),
        scores=store.query(sql),
    )


def runs_of(store: Store, running: Row | None = None) -> list[Row]:
    """Every run, newest first. One that the store has as running while no process holds its lock was killed."""
    running = running or holder(store)
    sql = "SELECT id, name, status, started_at, finished_at, spec_digest FROM runs ORDER BY started_at DESC"
    found = store.query(sql)
    for number, row in enumerate(found):
        if row["status"] == "running" and not (running and number == 0):
            row["status"] = "killed"
    return found


def holder(store: Store) -> Row | None:
    """{"pid", "started"} of the process that runs on this store now, None where there is none.

    The lock is tried, for an instant, only where the process that last held it is still alive.
    """
    path = store.path.with_name(store.path.name + ".lock")
    try:
        held = json.loads(path.read_text())
        os.kill(int(held["pid"]), 0)
    except PermissionError:
        pass  # alive, of another user
    except (OSError, ValueError, KeyError, TypeError):
        return None
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return {"pid": held["pid"], "started": held.get("started")}
    except OSError:
        return None
    return None


RUNS = Path("runs")
"""Where specs have their stores unless they say otherwise: a run may go by its folder's name there."""


def stores(folder: Path) -> list[Path]:
    """The stores in `folder` and the folders in it."""
    return sorted([*folder.glob("*.duckdb"), *folder.glob("*/*.duckdb")])


def only_store(folder: Path, called: str = "") -> Path | None:
    """The one store of a run's folder, None where there is none. UserError, under what it was `called`, of several."""
    found = stores(folder)
    if len(found) > 1:
        raise UserError(f"{called or folder}: holds {len(found)} stores, name one: {', '.join(map(str, found[:4]))}")
    return found[0] if found else None


def store_in(folder: Path) -> Path:
    """The one store of a run's folder. UserError where there is none or several."""
    found = only_store(folder)
    if found is None:
        raise UserError(f"{folder}: holds no store of a run; name the spec, or a folder with refinery.duckdb in it")
    return found
