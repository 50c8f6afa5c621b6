"""The store: one DuckDB file that holds everything a project made, with typed reads and writes.

DuckDB lets one process write, and while it holds the file no other may even read it. So no connection is kept: each
call opens, works and closes (about 20 ms), and whoever finds the file taken tries again for some seconds. Reports and
`refinery show` therefore work while a run goes on. Within a process, calls from several threads take turns.

Writes of rows that exist already replace them, so writing the same batch twice (as replaying a journal may) changes
nothing.
"""

import json
import random
import re
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from refinery.errors import UserError
from refinery.lock import exclusive
from refinery.migrations import migrate, pending
from refinery.records import Example, Outcome, Sample, Score
from refinery.rows import GENERATION_KEYS, LIKELIHOOD_KEYS, Part, Row, as_json, encoded, outcome, outcome_parts

READ_PATIENCE = 4.0
"""Seconds a reader keeps trying while another process holds the file."""
WRITE_PATIENCE = 15.0
"""Seconds a writer keeps trying; longer, because a lost reader costs a message and a lost writer a run."""

ENGINE: dict[str, str | bool | int | float | list[str]] = {
    "memory_limit": "1GB",
    "threads": 2,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}

PAGE = 2000
"""Rows with texts that pass through the engine at a time, so that its memory does not grow with the data set."""

_turns: dict[Path, threading.RLock] = {}
"""One lock a file: in one process DuckDB refuses a read-only connection beside a read-write one."""


class Store:
    """Typed reads and writes on one store file.

    `read_only` only says that a missing file is an error rather than made, and refuses writes; it does not change
    how reads work. Every method raises UserError, in one line, where the file cannot be used: held by another
    process for longer than READ_PATIENCE or WRITE_PATIENCE, not writable, disk full, not a store, made by a newer
    Refinery, or given text that is not valid Unicode.
    """

    def __init__(self, path: Path | str, *, read_only: bool = False):
        self.path, self.read_only = Path(path).absolute(), read_only
        self._turn = _turns.setdefault(self.path, threading.RLock())
        self._types: dict[str, dict[str, str]] = {}
        self._held: Any = None
        if not self.path.exists():
            if read_only:
                raise UserError(f"{path}: there is no store here yet; `refinery run` makes it")
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"{path}: cannot make the folder ({error.strerror})") from error
            current = False
        else:
            with self._open(write=False) as connection:
                current = not self._pending(connection)
        if not current:
            with self._open(write=True) as connection:
                self._pending(connection)
                migrate(connection)

    # ---- connections

    def run_lock(self) -> AbstractContextManager[None]:
        """Held by whatever runs or trains on this store; the second gets a UserError naming the first."""
        return exclusive(self.path.with_name(self.path.name + ".lock"), f"the store {self.path.name}")

    def query(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        """Rows of a SELECT of ours (never a user's text; see sql.py), JSON columns decoded."""
        with self._open(write=False) as connection:
            return _rows(connection.execute(sql, list(params)))

    def replace(self, table: str, rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> None:
        """Write `rows`, each over any that has the same `keys`, in one transaction. Keys are unique within `rows`."""
        self.replace_all([(table, rows, keys)])

    def replace_all(self, parts: Sequence[Part]) -> None:
        """Several `replace` calls in one transaction and one opening of the file."""
        if not any(rows for _, rows, _ in parts):
            return
        with self._transaction() as connection:
            for table, rows, keys in parts:
                if table == "examples":  # named by their content, so those that stand are equal
                    rows = self._absent(connection, table, rows, *keys)
                elif rows:
                    self._delete(connection, table, rows, keys)
                for start in range(0, len(rows), PAGE):
                    self._insert(connection, table, rows[start : start + PAGE])

    @contextmanager
    def held(self) -> Iterator[None]:
        """The file stays open for the block: for many small calls in a row that ask nobody anything in between."""
        with self._open(write=not self.read_only) as connection:
            outer, self._held = self._held, connection
            try:
                yield
            finally:
                self._held = outer

    @contextmanager
    def _open(self, *, write: bool) -> Iterator[Any]:
        """A connection for the block, opened when this process and any other are done with the file."""
        patience = WRITE_PATIENCE if write else READ_PATIENCE
        with self._turn:
            held = self._held
            connection = held or _connect(self.path, write, patience)
            try:
                yield connection
            except (duckdb.OperationalError, duckdb.FatalException) as error:  # disk full, gone, memory capped
                raise UserError(f"{self.path}: {_first_line(error)}") from error
            except (duckdb.InvalidInputException, UnicodeEncodeError) as error:
                if "surrogate" not in str(error):
                    raise
                raise UserError(
                    f"{self.path}: refused text that is not valid Unicode ({_first_line(error)})"
                ) from error
            finally:
                if held is None:
                    connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        if self.read_only:
            raise UserError(f"{self.path}: the store was opened to read only")
        with self._open(write=True) as connection:
            connection.execute("BEGIN")
            try:
                yield connection
            except BaseException:
                if self._held is not None:  # else closing the file takes it back
                    connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def _pending(self, connection: Any) -> list[Any]:
        try:
            return pending(connection)
        except ValueError as error:
            raise UserError(f"{self.path} {error}") from error

    def _columns(self, connection: Any, table: str) -> dict[str, str]:
        """Column name to DuckDB type."""
        if table not in self._types:
            sql = "SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = ? ORDER BY column_index"
            self._types[table] = dict(connection.execute(sql, [table]).fetchall())
        return self._types[table]

    def _insert(self, connection: Any, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Lists go in whole, one a column, which is 20 times faster than executemany and needs no pyarrow."""
        types = self._columns(connection, table)
        values = [[encoded(row[name], types[name]) for row in rows] for name in rows[0]]
        unnested = ", ".join(f"unnest(?::{types[name]}[])" for name in rows[0])
        connection.execute(f"INSERT INTO {table} ({', '.join(rows[0])}) SELECT {unnested}", values)

    def _absent(self, connection: Any, table: str, rows: Sequence[Mapping[str, Any]], key: str) -> list[Row]:
        sql = f"SELECT {key} FROM {table} WHERE {key} IN (SELECT unnest(?::VARCHAR[]))"
        there = {row[0] for row in connection.execute(sql, [[row[key] for row in rows]]).fetchall()}
        return [dict(row) for row in rows if row[key] not in there]

    def _delete(self, connection: Any, table: str, rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> None:
        types = self._columns(connection, table)
        unnested = ", ".join(f"unnest(?::{types[key]}[]) AS {key}" for key in keys)
        same = " AND ".join(f"t.{key} = gone.{key}" for key in keys)
        sql = f"DELETE FROM {table} t USING (SELECT {unnested}) gone WHERE {same}"
        connection.execute(sql, [[row[key] for row in rows] for key in keys])

    # ---- runs

    def start_run(self, name: str, spec_text: str, spec_digest: str, versions: Mapping[str, Any]) -> str:
        """Record a run and return its id. `spec_text` must not hold a key."""
        run: Row = {"id": uuid.uuid4().hex, "name": name, "spec": spec_text, "spec_digest": spec_digest}
        run |= {"versions": dict(versions), "status": "running", "started_at": now(), "finished_at": None}
        self.replace("runs", [run], ["id"])
        return run["id"]

    def finish_run(self, run_id: str, status: str) -> None:
        """`status`: complete, failed or interrupted."""
        with self._transaction() as connection:
            connection.execute("UPDATE runs SET status = ?, finished_at = ? WHERE id = ?", [status, now(), run_id])

    def runs(self) -> list[Row]:
        """Newest first."""
        return self.query("SELECT * FROM runs ORDER BY started_at DESC")

    # ---- steps and their outcomes

    def step(self, fingerprint: str) -> Row | None:
        return _only(self.query("SELECT * FROM steps WHERE fingerprint = ?", [fingerprint]))

    def last_step(self, name: str) -> Row | None:
        """The step of that name that was started last, whatever its fingerprint."""
        return _only(self.query("SELECT * FROM steps WHERE name = ? ORDER BY started_at DESC LIMIT 1", [name]))

    def start_step(
        self,
        fingerprint: str,
        run_id: str,
        name: str,
        op: str,
        version: int,
        params: Mapping[str, Any],
        upstream: Sequence[str],
        models: Mapping[str, str],
    ) -> None:
        """Mark a step as running. Outcomes it already has stay: a step is resumed row by row."""
        row: Row = {"fingerprint": fingerprint, "run_id": run_id, "name": name, "op": op, "version": version}
        row |= {"params": dict(params), "upstream": list(upstream), "models": dict(models)}
        row |= {"status": "running", "started_at": now(), "finished_at": None}
        self.replace("steps", [row], ["fingerprint"])

    def finish_step(self, fingerprint: str) -> None:
        with self._transaction() as connection:
            sql = "UPDATE steps SET status = 'complete', finished_at = ? WHERE fingerprint = ?"
            connection.execute(sql, [now(), fingerprint])

    def add_outcomes(self, fingerprint: str, outcomes: Sequence[tuple[int, Outcome]]) -> None:
        """Write (position, outcome) pairs of a step, each over any outcome of the same example under it."""
        self.add_step_outcomes([(fingerprint, position, each) for position, each in outcomes])

    def add_step_outcomes(self, rows: Sequence[tuple[str, int, Outcome]]) -> None:
        """`add_outcomes` for (step fingerprint, position, outcome) of several steps at once."""
        self.replace_all(outcome_parts(rows))

    def delete_outcomes(self, fingerprint: str, example_ids: Sequence[str]) -> None:
        if not example_ids:
            return
        with self._transaction() as connection:
            rows = [{"step": fingerprint, "example_id": example_id} for example_id in example_ids]
            self._delete(connection, "outcomes", rows, ["step", "example_id"])

    def drop_outcomes(self, fingerprint: str) -> None:
        """All of a step's."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM outcomes WHERE step = ?", [fingerprint])

    def rename_outcomes(self, draft: str, fingerprint: str) -> None:
        """Those of `draft` become the step's, in place of all it had."""
        with self._transaction() as connection:
            connection.execute("DELETE FROM outcomes WHERE step = ?", [fingerprint])
            connection.execute("UPDATE outcomes SET step = ? WHERE step = ?", [fingerprint, draft])

    def outcomes(self, fingerprint: str) -> list[Outcome]:
        """Every outcome of a step, dropped rows included, in the step's order."""
        return [found for _, found in self.stream(fingerprint)]

    def examples(self, fingerprint: str) -> list[Example]:
        """The examples a step hands on, in order."""
        return [found.example for _, found in self.stream(fingerprint) if found.example is not None]

    def stream(
        self, fingerprint: str, *, split: str | None = None, todo: str | None = None, after: int = -1
    ) -> Iterator[tuple[int, Outcome]]:
        """(position, outcome) in the step's order, a page at a time, the file free between pages.

        `split`: only rows of that split, which are never dropped ones. `todo`: only rows of which the step of that
        fingerprint has no outcome yet. `after`: only rows behind that position.
        """
        where = "o.step = ? AND o.position BETWEEN ? AND ?"
        more: list[Any] = []
        if split is not None:
            where, more = f"{where} AND e.split = ?", [*more, split]
        if todo is not None:
            where = f"{where} AND o.example_id NOT IN (SELECT example_id FROM outcomes WHERE step = ?)"
            more = [*more, todo]
        (span,) = self.query(
            "SELECT min(position) AS first, max(position) AS last FROM outcomes WHERE step = ?", [fingerprint]
        )
        if span["last"] is None:
            return
        for start in range(max(span["first"], after + 1), span["last"] + 1, PAGE):
            for row in self.query(_OUTCOMES.format(where), [fingerprint, start, start + PAGE - 1, *more]):
                yield row["position"], outcome(row)

    def reading(self, key: str) -> str | None:
        """The fingerprint of the source that was read under this key (sources.reading_key), where it is here."""
        row = _only(self.query("SELECT fingerprint FROM readings WHERE key = ?", [key]))
        return row["fingerprint"] if row else None

    def add_reading(self, key: str, fingerprint: str) -> None:
        self.replace("readings", [{"key": key, "fingerprint": fingerprint}], ["key"])

    def lineage(self, example_id: str) -> list[tuple[Row, Outcome]]:
        """Every (step, outcome) of one example, oldest step first."""
        found = self.query(_OUTCOMES.format("o.example_id = ?"), [example_id])
        steps = {row["fingerprint"]: row for row in self.query("SELECT * FROM steps ORDER BY started_at")}
        pairs = [(steps[row["step"]], outcome(row)) for row in found if row["step"] in steps]
        return sorted(pairs, key=lambda pair: list(steps).index(pair[0]["fingerprint"]))

    def funnel(self, fingerprint: str) -> list[Row]:
        """Counts of a step: rows of action, reason, transient, n."""
        sql = "SELECT action, reason, transient, count(*) AS n FROM outcomes WHERE step = ? GROUP BY ALL ORDER BY ALL"
        return self.query(sql, [fingerprint])

    # ---- the request cache

    def add_generations(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows with every column of the table; see refinery/models/cache.py for what a digest covers."""
        self.replace("generations", rows, GENERATION_KEYS)

    def generations(self, digests: Sequence[str]) -> dict[str, list[Row]]:
        """The stored answers of each digest that has any; several where it was asked with several max_tokens."""
        found: dict[str, list[Row]] = {}
        columns = "digest, max_tokens, text, finish_reason, prompt_tokens, completion_tokens"
        sql = f"SELECT {columns} FROM generations WHERE digest IN (SELECT unnest(?::VARCHAR[]))"
        for row in self.query(sql, [list(digests)]) if digests else []:
            found.setdefault(row["digest"], []).append(row)
        return found

    def known(self, table: str) -> np.ndarray:
        """The first 64 bits of each digest in `generations` or `likelihoods`, uint64, in no order."""
        with self._open(write=False) as connection:
            sql = f"SELECT ('0x' || left(digest, 16))::UBIGINT AS short FROM {table}"
            return np.asarray(connection.execute(sql).fetchnumpy()["short"], dtype=np.uint64)

    def add_likelihoods(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.replace("likelihoods", rows, LIKELIHOOD_KEYS)

    def likelihoods(self, digests: Sequence[str]) -> dict[str, Row]:
        """The stored score of each digest that has one: rows of digest and logprobs."""
        sql = "SELECT digest, logprobs FROM likelihoods WHERE digest IN (SELECT unnest(?::VARCHAR[]))"
        return {row["digest"]: row for row in (self.query(sql, [list(digests)]) if digests else [])}

    def add_embeddings(self, encoder: str, texts: Sequence[str], vectors: np.ndarray) -> None:
        """(n, d) float32 for the n digests of texts (refinery/vectors.py)."""
        rows = [{"encoder": encoder, "text": t, "vector": v.tolist()} for t, v in zip(texts, vectors, strict=True)]
        self.replace("embeddings", rows, ["encoder", "text"])

    def embeddings(self, encoder: str, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """Of these digests of texts, those that are here, each with its (d,) float32 vector."""
        found: dict[str, np.ndarray] = {}
        sql = "SELECT text, vector FROM embeddings WHERE encoder = ? AND text IN (SELECT unnest(?::VARCHAR[]))"
        if not texts:
            return found
        with self._open(write=False) as connection:
            columns = connection.execute(sql, [encoder, list(texts)]).fetchnumpy()
        for text, vector in zip(columns["text"], columns["vector"], strict=True):
            found[text] = np.asarray(vector, dtype=np.float32)
        return found

    # ---- training

    def start_checkpoint(
        self,
        fingerprint: str,
        run_id: str,
        name: str,
        method: str,
        params: Mapping[str, Any],
        seed: int,
        data_fingerprint: str,
        base: str,
        path: str,
        role: str,
    ) -> None:
        """Record weights about to be made. `role`: final, tuning, former or base."""
        row: Row = {"fingerprint": fingerprint, "run_id": run_id, "name": name, "method": method, "role": role}
        row |= {"seed": seed, "params": dict(params), "data_fingerprint": data_fingerprint, "base": base}
        row |= {"path": str(path), "status": "running", "manifest": None, "started_at": now(), "finished_at": None}
        self.replace("checkpoints", [row], ["fingerprint"])

    def finish_checkpoint(self, fingerprint: str, manifest: Mapping[str, Any]) -> None:
        with self._transaction() as connection:
            sql = "UPDATE checkpoints SET status = 'complete', manifest = ?, finished_at = ? WHERE fingerprint = ?"
            connection.execute(sql, [as_json(dict(manifest)), now(), fingerprint])

    def mark_final(self, fingerprints: Sequence[str]) -> None:
        """Exactly these checkpoints are what the spec now asks for; others that were final become "former"."""
        with self._transaction() as connection:
            connection.execute("UPDATE checkpoints SET role = 'former' WHERE role = 'final'")
            connection.execute(
                "UPDATE checkpoints SET role = 'final' WHERE list_contains(?, fingerprint)", [list(fingerprints)]
            )

    def checkpoint(self, fingerprint: str) -> Row | None:
        return _only(self.query("SELECT * FROM checkpoints WHERE fingerprint = ?", [fingerprint]))

    def checkpoints(self, run_id: str | None = None) -> list[Row]:
        """Of one run, or all; oldest first."""
        sql = "SELECT * FROM checkpoints WHERE run_id = coalesce(?, run_id) ORDER BY started_at, fingerprint"
        return self.query(sql, [run_id])

    def add_training_metrics(self, checkpoint: str, rows: Sequence[tuple[int, str, float]]) -> None:
        """(step, name, value) triples; a resumed training logs over what it had logged."""
        values = {(step, name): value for step, name, value in rows}
        self.replace(
            "training_metrics",
            [{"checkpoint": checkpoint, "step": s, "name": n, "value": float(v)} for (s, n), v in values.items()],
            ["checkpoint", "step", "name"],
        )

    def training_metrics(self, checkpoint: str) -> list[Row]:
        """Rows of step, name, value in the order of steps."""
        sql = "SELECT step, name, value FROM training_metrics WHERE checkpoint = ? ORDER BY step, name"
        return self.query(sql, [checkpoint])

    # ---- evaluation and diagnostics

    def add_scores(self, scores: Sequence[Score]) -> None:
        rows = [asdict(score) for score in scores]
        self.replace("scores", rows, ["checkpoint", "benchmark", "metric", "fingerprint"])

    def scores(self, checkpoint: str | None = None, benchmark: str | None = None) -> list[Score]:
        return [Score(**row) for row in self._of("scores", checkpoint, benchmark, "checkpoint, benchmark, metric")]

    def add_samples(self, samples: Sequence[Sample]) -> None:
        rows = [{f.name: getattr(sample, f.name) for f in fields(Sample)} for sample in samples]
        self.replace("samples", rows, ["checkpoint", "benchmark", "metric", "item", "fingerprint"])

    def samples(self, checkpoint: str | None = None, benchmark: str | None = None) -> list[Sample]:
        order = "checkpoint, benchmark, metric, item"
        return [Sample(**row) for row in self._of("samples", checkpoint, benchmark, order)]

    def _of(self, table: str, checkpoint: str | None, benchmark: str | None, order: str) -> list[Row]:
        where = "checkpoint = coalesce(?, checkpoint) AND benchmark = coalesce(?, benchmark)"
        return self.query(f"SELECT * FROM {table} WHERE {where} ORDER BY {order}", [checkpoint, benchmark])

    def add_diagnostics(self, step_fingerprint: str, rows: Sequence[Mapping[str, Any]], against: str = "") -> None:
        """Rows of family, name, value, n, low, high, detail; they replace all that the families had. `against`: the
        fingerprint of the step that the measures compare with, empty for the reference answers."""
        rows = [{"step": step_fingerprint, "against": against, **row} for row in rows]
        self.replace("diagnostics", rows, ["step", "against", "family"])

    def diagnostics(self, step_fingerprint: str, against: str = "") -> list[Row]:
        sql = """SELECT * EXCLUDE (step, against) FROM diagnostics WHERE step = ? AND against = ?
                 ORDER BY family, name"""
        return self.query(sql, [step_fingerprint, against])

    def add_preferences(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Judgements with every column of the table; a rater's later one in the same order replaces the earlier."""
        self.replace("preferences", rows, ["step", "against", "example_id", "rater", "kind", "first"])

    def preferences(self, step_fingerprint: str, against: str = "") -> list[Row]:
        sql = "SELECT * FROM preferences WHERE step = ? AND against = ? ORDER BY kind, rater, example_id, first"
        return self.query(sql, [step_fingerprint, against])


_OUTCOMES = """
    SELECT o.*, e.prompt, e.answer, e.split, e.parents, e.meta
    FROM outcomes o LEFT JOIN examples e USING (body) WHERE {} ORDER BY o.step, o.position
"""


def now() -> datetime:
    """UTC without a zone, as the store's TIMESTAMP columns hold it."""
    return datetime.now(UTC).replace(tzinfo=None)


def _connect(path: Path, write: bool, patience: float) -> Any:
    give_up = time.monotonic() + patience
    while True:
        try:
            return duckdb.connect(str(path), read_only=not write, config=ENGINE)
        except duckdb.Error as error:
            held = "Could not set lock" in str(error)
            if held and time.monotonic() < give_up:
                time.sleep(random.uniform(0.005, 0.03))
                continue
            raise UserError(_why(path, error) if not held else _who(path, error, patience)) from error


def _who(path: Path, error: Exception, patience: float) -> str:
    pid = re.search(r"PID (\d+)", str(error))
    holder = f"process {pid[1]}" if pid else "another process"
    return f"{path}: {holder} has held the store for {patience:.0f} s; close it there, or try again"


def _why(path: Path, error: Exception) -> str:
    text = _first_line(error)
    if "not a valid DuckDB database" in text:
        return f"{path} is not a Refinery store (not a DuckDB file); name another path or move it away"
    return f"{path}: cannot open the store: {text}"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _rows(cursor: Any) -> list[Row]:
    names = [column[0] for column in cursor.description]
    decoded = [i for i, column in enumerate(cursor.description) if str(column[1]) == "JSON"]
    rows = []
    for values in cursor.fetchall():
        row = list(values)
        for i in decoded:
            row[i] = None if row[i] is None else json.loads(row[i])
        rows.append(dict(zip(names, row, strict=True)))
    return rows


def _only(rows: list[Row]) -> Row | None:
    return rows[0] if rows else None
