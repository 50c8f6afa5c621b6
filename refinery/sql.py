"""Users' SQL, walled in: DuckDB in memory, over the tables it was given and nothing else.

The declared files are loaded first; then access to files, network, extensions and Python's variables is switched off,
the configuration is locked, and only then does the user's query run, which must be a single SELECT.
"""

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from refinery.errors import UserError

_AS_WRITTEN = "maximum_object_size=268435456, dateformat='\x01', timestampformat='\x01'"
READERS = {
    ".jsonl": f"read_json(?, format='newline_delimited', {_AS_WRITTEN})",
    ".json": f"read_json(?, format='array', {_AS_WRITTEN})",
    ".csv": "read_csv(?, header=true, all_varchar=true)",
    ".tsv": "read_csv(?, header=true, all_varchar=true, delim='\\t')",
    ".parquet": "read_parquet(?)",
}
"""Texts stay texts, as where a file is read without SQL: 01/05/2024 and 007 may be answers. No date is written in a
format of one control character, so none is found."""
LOCKS = (
    "SET autoinstall_known_extensions = false",
    "SET autoload_known_extensions = false",
    "SET allow_persistent_secrets = false",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)
BATCH = 1000
MAX_OBJECT = 268_435_456
"""Bytes of one row, at most."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows at hand whose columns are of given DuckDB types, so that a text that looks like a date stays a text."""

    rows: Iterable[Mapping[str, Any]]
    types: Mapping[str, str]


Table = Path | Sequence[Mapping[str, Any]] | Rows


def query(sql: str, tables: Mapping[str, Table]) -> list[dict[str, Any]]:
    """The rows of one SELECT over `tables`: files, or rows at hand (whose values are as in JSON).

    Without ORDER BY the order of rows is DuckDB's. Raises UserError with DuckDB's own words for a query that fails, is
    not a single SELECT, or reaches for anything but the tables.
    """
    with _connection() as connection:
        for name, table in tables.items():
            _load(connection, name, table)
        for lock in LOCKS:
            connection.execute(lock)
        try:
            statements = connection.extract_statements(sql)
            if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                raise UserError("sql: the query must be a single SELECT")
            connection.execute(statements[0])
            return list(_rows(connection))
        except duckdb.Error as error:
            raise UserError(f"sql: {_plainly(error)}") from None


def read_parquet(path: Path, limit: int | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet file, or the first `limit` of them, in its order. UserError where it cannot be read."""
    try:
        with _connection() as connection:
            connection.execute("SELECT * FROM read_parquet(?) LIMIT ?", [str(path), limit])
            yield from _rows(connection)
    except duckdb.Error as error:
        raise UserError(f"{path}: {_plainly(error)}") from None


def parquet_columns(path: Path) -> list[str]:
    """The column names of a Parquet file, from its footer. UserError where it cannot be read."""
    try:
        with _connection() as connection:
            connection.execute("SELECT * FROM read_parquet(?) LIMIT 0", [str(path)])
            return [column[0] for column in connection.description or ()]
    except duckdb.Error as error:
        raise UserError(f"{path}: {_plainly(error)}") from None


def _connection() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(":memory:", config={"python_enable_replacements": "false", "threads": "2"})


def _load(connection: duckdb.DuckDBPyConnection, name: str, table: Table) -> None:
    target = '"' + name.replace('"', '""') + '"'
    if isinstance(table, Path):
        reader = READERS.get(table.suffix.lower())
        if reader is None:
            raise UserError(f"sql: table {name}: {table} is none of {', '.join(READERS)}")
        try:
            connection.execute(f"CREATE TABLE {target} AS SELECT * FROM {reader}", [str(table)])
            if table.suffix.lower() in (".csv", ".tsv"):
                _read_numbers(connection, target)
        except duckdb.Error as error:
            raise UserError(f"sql: table {name}: {_plainly(error)}") from None
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        rows = table.rows if isinstance(table, Rows) else table
        with file.open("w", encoding="utf-8") as written:
            written.writelines(json.dumps({name: row[name] for name in row if name}) + "\n" for row in rows)
        if not isinstance(table, Rows):
            _load(connection, name, file)
            return
        try:
            connection.execute(f"CREATE TABLE {target} AS SELECT * FROM {_typed(table.types)}", [str(file)])
        except duckdb.Error as error:
            raise UserError(f"sql: table {name}: {_plainly(error)}") from None


def _read_numbers(connection: duckdb.DuckDBPyConnection, target: str) -> None:
    """Makes numbers of the columns whose every text is a number as it would be written again."""
    for name, *_ in connection.execute(f"DESCRIBE {target}").fetchall():
        column = '"' + name.replace('"', '""') + '"'
        for kind in ("BIGINT", "DOUBLE"):
            same = f"coalesce(CAST(TRY_CAST({column} AS {kind}) AS VARCHAR) = {column}, {column} IS NULL)"
            if connection.execute(f"SELECT coalesce(bool_and({same}), false) FROM {target}").fetchall()[0][0]:
                connection.execute(f"ALTER TABLE {target} ALTER {column} TYPE {kind}")
                break


def _typed(types: Mapping[str, str]) -> str:
    """read_json for a file whose columns are of these types; one without a name (an index that pandas wrote) stays
    behind, as SQL could not name it."""
    columns = ", ".join(f"{_quoted(name)}: {_quoted(kind)}" for name, kind in types.items() if name)
    return f"read_json(?, format='newline_delimited', maximum_object_size={MAX_OBJECT}, columns={{{columns}}})"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def write_parquet(rows: Path, target: Path, types: Mapping[str, str]) -> None:
    """A .jsonl file of rows as Parquet, in its order, each column of the type given. UserError where it cannot be."""
    try:
        with _connection() as connection:
            copy = f"COPY (SELECT * FROM {_typed(types)}) TO {_quoted(str(target))} (FORMAT parquet, COMPRESSION zstd)"
            connection.execute(copy, [str(rows)])
    except duckdb.Error as error:
        raise UserError(f"{target}: {_plainly(error)}") from None


def _rows(connection: duckdb.DuckDBPyConnection) -> Iterator[dict[str, Any]]:
    columns = [(column[0], str(column[1]) == "JSON") for column in connection.description or ()]
    while batch := connection.fetchmany(BATCH):
        for row in batch:
            pairs = zip(columns, row, strict=True)
            yield {name: json.loads(value) if decode and value else value for (name, decode), value in pairs}


def _plainly(error: duckdb.Error) -> str:
    """The first line of DuckDB's message, without its class."""
    first = next((line for line in str(error).splitlines() if line.strip()), "failed").strip()
    kind, _, rest = first.partition(": ")
    return rest if rest and kind.endswith("Error") else first
