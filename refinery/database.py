"""A DuckDB file that many processes use in turn.

DuckDB lets one process write, and while it holds the file no other may even read it. So the file is not kept: each
call attaches it to an engine in memory, works and detaches it (0.2 ms; an engine of its own for each call took 13), and
whoever finds the file taken tries again for some seconds. Reports and `refinery show` therefore work while a run goes
on. Within a process, calls from several threads take turns.

Writes of rows that exist already replace them, so writing the same batch twice (as replaying a journal may) changes
nothing.
"""

import random
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from refinery.errors import UserError
from refinery.lock import exclusive
from refinery.migrations import migrate, pending
from refinery.names import Names
from refinery.rows import Part, Row, as_texts, from_json

READ_PATIENCE = 4.0
"""Seconds a reader keeps trying while another process holds the file."""
WRITE_PATIENCE = 15.0
"""Seconds a writer keeps trying; longer, because a lost reader costs a message and a lost writer a run."""

ENGINE: dict[str, str | bool | int | float | list[str]] = {
    "memory_limit": "1GB",
    "threads": 2,
    "allocator_bulk_deallocation_flush_threshold": "0B",  # a detached file's memory goes back to the system
    "pandas_analyze_sample": 0,  # a column of Python values is text, whatever its first values look like
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}

NAMES = 100_000
"""Names of examples that are read at a time."""

PAGE = 2000
"""Rows with texts that pass through the engine at a time, so that its memory does not grow with the data set."""


@dataclass(slots=True)
class _Turn:
    """A file's use within this process: one thread at a time, since the engine knows other processes only."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    connection: Any = None
    """Open in the thread that holds the lock; calls within its block go through it."""
    writing: bool = False
    """Whether a transaction of that connection is under way."""


GROUP = 4096
"""Rows that the engine stores together. Each write that is detached writes the last group anew: with the engine's own
size of 122,880 that is most of the table."""

_turns: dict[Path, _Turn] = {}


class Database:
    """Rows in and out of one file.

    `read_only` only says that a missing file is an error rather than made, and refuses writes; it does not change
    how reads work. Every method raises UserError, in one line, where the file cannot be used: held by another
    process for longer than READ_PATIENCE or WRITE_PATIENCE, not writable, disk full, not a store, made by a newer
    Refinery, or given text that is not valid Unicode.
    """

    def __init__(self, path: Path | str, *, read_only: bool = False):
        self.path, self.read_only = Path(path).absolute(), read_only
        self._turn = _turns.setdefault(self.path, _Turn())
        self._types: dict[str, dict[str, str]] = {}
        self._bodies = Names()
        self._engine = _engine(self.path)
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
            lock = self.path.with_name(self.path.name + ".lock")
            # a layout does not change under a run of another version, which would write rows in its own
            alone = exclusive(lock, f"the store {self.path.name}") if self.path.exists() else nullcontext()
            with alone, self._open(write=True) as connection:
                self._pending(connection)
                migrate(connection)

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
                    rows = self._new_examples(connection, rows)
                elif rows and keys:
                    self._delete(connection, table, rows, keys)
                for start in range(0, len(rows), PAGE):
                    self._insert(connection, table, rows[start : start + PAGE])

    @contextmanager
    def held(self) -> Iterator[None]:
        """The file stays open for the block: for many small calls in a row that ask nobody anything in between."""
        with self._open(write=not self.read_only):
            yield

    @contextmanager
    def together(self) -> Iterator[None]:
        """All writes of the block are one transaction, which for many rows takes half of what one for each does."""
        with self._transaction():
            yield

    @contextmanager
    def _open(self, *, write: bool) -> Iterator[Any]:
        """A connection to the file for the block, opened when this process and any other are done with it."""
        with self._turn.lock, self._explained():
            if self._turn.connection is not None:
                yield self._turn.connection
                return
            _attach(self._engine, self.path, write, WRITE_PATIENCE if write else READ_PATIENCE)
            connection = self._turn.connection = self._engine.cursor()
            try:
                connection.execute("USE store")
                yield connection
            finally:
                self._turn.connection = None
                connection.close()
                self._detach()

    def _detach(self) -> None:
        try:
            self._engine.execute("DETACH store")
        except duckdb.Error:  # after a fatal error an engine answers nothing more
            self._engine.close()
            self._engine = _engine(self.path)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """What is the file's or the machine's fault, as one line."""
        try:
            yield
        except (duckdb.OperationalError, duckdb.FatalException) as error:  # disk full, gone, memory capped
            raise UserError(f"{self.path}: {_first_line(error)}") from error
        except (duckdb.InvalidInputException, UnicodeEncodeError) as error:
            if "surrogate" not in str(error):
                raise
            raise UserError(f"{self.path}: refused text that is not valid Unicode ({_first_line(error)})") from error

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        if self.read_only:
            raise UserError(f"{self.path}: the store was opened to read only")
        with self._open(write=True) as connection:
            if self._turn.writing:
                yield connection
                return
            connection.execute("BEGIN")
            self._turn.writing = True
            try:
                yield connection
            except BaseException:
                with suppress(duckdb.Error):
                    connection.execute("ROLLBACK")
                raise
            finally:
                self._turn.writing = False
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
        with self._given(connection, table, rows, list(rows[0])) as given:
            connection.execute(f"INSERT INTO {table} ({', '.join(rows[0])}) {given}")

    def _new_examples(self, connection: Any, rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Those that the table does not have. It is looked through where others have written to it since, or a
        transaction of ours was taken back: rows of it are only ever added, so their count tells."""
        [(count,)] = connection.execute("SELECT count(*) FROM examples").fetchall()
        if count != len(self._bodies):
            self._bodies = Names()
            cursor = connection.execute("SELECT body FROM examples")
            while found := cursor.fetchmany(NAMES):
                self._bodies.add([body for (body,) in found])
        new = self._bodies.add([row["body"] for row in rows])
        return [row for row, is_new in zip(rows, new, strict=True) if is_new]

    def _delete(self, connection: Any, table: str, rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> None:
        same = " AND ".join(f"t.{key} = gone.{key}" for key in keys)
        with self._given(connection, table, rows, keys) as given:
            connection.execute(f"DELETE FROM {table} t USING ({given}) gone WHERE {same}")

    @contextmanager
    def _given(
        self, connection: Any, table: str, rows: Sequence[Mapping[str, Any]], names: Sequence[str]
    ) -> Iterator[str]:
        """A SELECT of those columns of `rows`, typed as in the table. The engine reads arrays of texts in place, which
        is a hundred times faster than executemany, takes a quarter of what lists as parameters do, and needs no
        pyarrow."""
        types = self._columns(connection, table)
        texts = {n: np.array(as_texts([row[n] for row in rows], types[n]), dtype=object) for n in names}
        connection.register("given", texts)
        yield f"SELECT {', '.join(_typed(name, types[name]) for name in names)} FROM given"
        connection.unregister("given")


def _typed(name: str, kind: str) -> str:
    """The column `name` of texts as one of that type."""
    value = f"from_json({name}, '[\"VARCHAR\"]')" if kind == "VARCHAR[]" else f"{name}::{kind}"
    return f"{value} AS {name}"


def _engine(path: Path) -> Any:
    return duckdb.connect(config={**ENGINE, "temp_directory": f"{path}.tmp"})


def _attach(engine: Any, path: Path, write: bool, patience: float) -> None:
    place, give_up = str(path).replace("'", "''"), time.monotonic() + patience
    how = f"READ_WRITE, ROW_GROUP_SIZE {GROUP}" if write else "READ_ONLY"
    while True:
        try:
            engine.execute(f"ATTACH '{place}' AS store ({how})")
            return
        except duckdb.Error as error:
            # the second: an engine of ours has let go of it, and a thread of that engine has not quite
            held = any(words in str(error) for words in ("Could not set lock", "already attached"))
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
            row[i] = None if row[i] is None else from_json(row[i])
        rows.append(dict(zip(names, row, strict=True)))
    return rows
