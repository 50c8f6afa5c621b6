"""A user's query sees the tables it was given and nothing else."""

import json
from pathlib import Path

import pytest

from refinery import sql
from refinery.errors import UserError
from refinery.readers import read_path

ROWS = [{"q": "a?", "a": "x", "n": 1}, {"q": "b?", "a": "y", "n": 2}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "rows.json").write_text(json.dumps(ROWS))
    (tmp_path / "rows.csv").write_text("q,a,n\na?,x,1\nb?,y,2\n")
    (tmp_path / "rows.tsv").write_text("q\ta\tn\na?\tx\t1\nb?\ty\t2\n")
    (tmp_path / "secret.csv").write_text("password\nhunter2\n")
    return tmp_path


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv"])
def test_reads_its_tables(folder: Path, kind: str) -> None:
    query = 'SELECT q AS question, a AS answer FROM "my rows" WHERE n > 1'
    assert sql.query(query, {"my rows": folder / f"rows.{kind}"}) == [{"question": "b?", "answer": "y"}]


def test_rows_at_hand_join_a_file(folder: Path) -> None:
    query = "SELECT q, extra FROM t JOIN u USING (n) ORDER BY n"
    found = sql.query(query, {"t": folder / "rows.jsonl", "u": [{"n": 1, "extra": {"k": ["v"]}}]})
    assert found == [{"q": "a?", "extra": {"k": ["v"]}}]


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv"])
def test_texts_stay_texts(tmp_path: Path, kind: str) -> None:
    """As they are where the same file is read without SQL."""
    rows = [
        {"a": "01/05/2024", "b": "2024-01-05 10:00:00", "c": "007"},
        {"a": "02/05/2024", "b": "2024-01-05", "c": "7"},
    ]
    separator = "," if kind == "csv" else "\t"
    text = {
        "jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        "json": json.dumps(rows),
    }.get(kind) or "\n".join(separator.join(each) for each in (rows[0], *(row.values() for row in rows))) + "\n"
    file = tmp_path / f"rows.{kind}"
    file.write_text(text)
    assert sql.query("SELECT * FROM t ORDER BY a", {"t": file}) == rows
    assert [raw.values for raw in read_path(file)] == rows


def test_a_column_of_numbers_and_texts_keeps_both(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"n": 1, "a": 7}\n{"n": 2, "a": "007"}\n{"n": 3, "a": null}\n')
    assert [row["a"] for row in sql.query("SELECT a FROM t ORDER BY n", {"t": file})] == [7, "007", None]


def test_a_column_without_a_name_stays_behind() -> None:
    rows = sql.Rows([{"": 0, "q": "a?"}, {"": 1, "q": "b?"}], {"": "BIGINT", "q": "VARCHAR"})
    assert sql.query("SELECT * FROM t ORDER BY q", {"t": rows}) == [{"q": "a?"}, {"q": "b?"}]


def test_parquet_round_trip(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    assert list(sql.read_parquet(tmp_path / "rows.parquet")) == ROWS
    assert sql.parquet_columns(tmp_path / "rows.parquet") == ["q", "a", "n"]
    assert sql.query("SELECT sum(n) AS s FROM t", {"t": tmp_path / "rows.parquet"}) == [{"s": 3}]


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_csv('{folder}/secret.csv')",
        "SELECT * FROM '{folder}/secret.csv'",
        "SELECT * FROM read_text('{folder}/secret.csv')",
        "SELECT * FROM read_blob('{folder}/secret.csv')",
        "SELECT * FROM read_parquet('{folder}/secret.csv')",
        "SELECT * FROM read_json('{folder}/rows.json')",
        "SELECT * FROM sniff_csv('{folder}/secret.csv')",
        "SELECT * FROM glob('{folder}/*')",
        "SELECT * FROM read_csv('https://example.org/x.csv')",
        "COPY t TO '{folder}/out.csv'",
        "COPY (SELECT 1) TO '{folder}/out.parquet'",
        "EXPORT DATABASE '{folder}/out'",
        "IMPORT DATABASE '{folder}'",
        "ATTACH '{folder}/out.duckdb' AS o",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "SET threads = 1",
        "RESET lock_configuration",
        "PRAGMA enable_external_access = true",
        "CREATE SECRET s (TYPE s3)",
        "CREATE TABLE u AS SELECT * FROM read_csv('{folder}/secret.csv')",
        "SELECT getenv('HOME')",
        "SELECT * FROM ROWS_OF_PYTHON",
        "SELECT 1; COPY t TO '{folder}/out.csv'",
        "SELECT 1; SELECT 2",
        "DROP TABLE t",
        "",
    ],
)
def test_reaches_for_nothing_else(folder: Path, query: str) -> None:
    ROWS_OF_PYTHON = [1]  # noqa: F841 - DuckDB would find it in this frame, were it let
    before = sorted(folder.iterdir())
    with pytest.raises(UserError, match=r"^sql: ") as caught:
        sql.query(query.format(folder=folder), {"t": folder / "rows.csv"})
    assert "hunter2" not in str(caught.value) and "\n" not in str(caught.value)
    assert sorted(folder.iterdir()) == before


def test_mistakes_are_one_line(folder: Path) -> None:
    with pytest.raises(UserError, match='sql: Referenced column "nn" not found'):
        sql.query("SELECT nn FROM t", {"t": folder / "rows.csv"})
    with pytest.raises(UserError, match=r"sql: table t: .* is none of .jsonl"):
        sql.query("SELECT 1", {"t": folder / "rows.xlsx"})
    with pytest.raises(UserError, match="sql: table t: "):
        sql.query("SELECT 1", {"t": folder / "none.csv"})
