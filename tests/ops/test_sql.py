from collections import Counter

import duckdb
import pytest

from refinery.errors import UserError
from refinery.ops import sql
from tests.ops.tables import Rows, apply, example, examples

HOSTILE = [
    "2024-01-01", "1e5", "007", "true", "null", "{{ answer }}", '{"a": 1}', "[1, 2]", "a\nb\r\nc\td", "it's \"quoted\"",
    "\\u0041 \\", "مرحبا بالعالم", "\u202eabc\u202c", "🙂 e\u0301", "  two  spaces  ", "'; DROP TABLE raw; --",
    "550e8400-e29b-41d4-a716-446655440000",
]  # fmt: skip


def hostile():
    return [
        example(f"h{i}", text, text, text, candidates=(text, text[::-1]), meta={"text": text, "when": "2024-01-01"})
        for i, text in enumerate(HOSTILE)
    ]


def test_select_star_gives_every_row_back_unchanged():
    rows = hostile()
    outcomes = apply(sql, Rows("raw", rows), query="SELECT * FROM raw")
    assert {o.action for o in outcomes} == {"kept"}
    assert [o.example for o in outcomes] == rows


def test_hostile_text_comes_through_a_query_that_changes_something_else():
    rows = hostile()
    outcomes = apply(sql, Rows("raw", rows), query="SELECT id, response || '!' AS response, text AS copy FROM raw")
    assert {o.action for o in outcomes} == {"changed"}
    for row, outcome in zip(rows, outcomes, strict=True):
        after = outcome.example
        assert (after.response, after.answer, after.prompt) == (row.response + "!", row.answer, row.prompt)
        assert after.meta == {**row.meta, "copy": row.meta["text"]}


def test_rows_that_do_not_come_back_are_dropped_and_the_order_is_the_querys():
    rows = [example(f"r{i}", meta={"score": i % 7}) for i in range(50)]
    outcomes = apply(sql, Rows("raw", rows), query="SELECT id FROM raw WHERE score >= 5 ORDER BY score DESC, id")
    ranked = sorted((-row.meta["score"], row.id) for row in rows if row.meta["score"] >= 5)
    wanted = [row_id for _, row_id in ranked]
    assert [o.example_id for o in outcomes if o.example] == wanted
    assert Counter(o.reason for o in outcomes) == {"ok": len(wanted), "not_selected": 50 - len(wanted)}


def test_columns_of_several_kinds_come_back_as_they_were():
    metas = [{"n": 1, "x": 1.5, "b": True, "l": [1, {"k": None}], "m": 2, "big": 2**70, "Case": "a"},
             {"n": None, "b": None, "m": "two", "l": None, "big": 1, "case": "b"}, {}]  # fmt: skip
    rows = [example(f"r{i}", meta=meta) for i, meta in enumerate(metas)]
    outcomes = apply(sql, Rows("raw", rows), query="SELECT * FROM raw")
    assert [o.example.meta for o in outcomes] == metas
    assert type(outcomes[0].example.meta["n"]) is int


def test_two_tables_joined_as_duckdb_joins_them():
    left = [example(f"r{i}", meta={"topic": f"t{i % 3}"}) for i in range(9)]
    right = [example(f"q{i}", response=f"note {i}", meta={"topic": f"t{i}"}) for i in range(2)]
    query = (
        "SELECT l.id, l.response || ' ' || r.response AS response FROM left_rows l JOIN right_rows r "
        "ON l.topic = r.topic ORDER BY l.id"
    )
    outcomes = apply(sql, Rows("left_rows", left), Rows("right_rows", right), query=query)
    connection = duckdb.connect()
    connection.execute("CREATE TABLE left_rows (id TEXT, response TEXT, topic TEXT)")
    connection.execute("CREATE TABLE right_rows (id TEXT, response TEXT, topic TEXT)")
    for name, rows in (("left_rows", left), ("right_rows", right)):
        values = [(row.id, row.response, row.meta["topic"]) for row in rows]
        connection.executemany(f"INSERT INTO {name} VALUES (?, ?, ?)", values)
    assert [(o.example_id, o.example.response) for o in outcomes if o.example] == connection.execute(query).fetchall()


def test_made_rows_name_their_parents_and_keep_their_ids():
    query = """SELECT NULL AS id, 'Which came first?' AS question, string_agg(answer, ' / ' ORDER BY id) AS answer,
               list(id ORDER BY id) AS parents FROM raw"""
    first, second = (apply(sql, Rows("raw", examples(3)), query=query) for _ in range(2))
    made = first[0]
    assert (made.action, made.reason, made.example.question) == ("created", "made", "Which came first?")
    assert made.example.answer == made.example.response == "Answer r0. / Answer r1. / Answer r2."
    assert made.example.parents == ("r0", "r1", "r2")
    assert made.example_id == second[0].example_id
    assert Counter(o.reason for o in first) == {"made": 1, "not_selected": 3}


def test_a_known_id_twice_is_the_row_and_a_row_made_from_it():
    outcomes = apply(sql, Rows("raw", examples(2)), query="FROM raw UNION ALL FROM raw ORDER BY id")
    assert [(o.action, o.reason) for o in outcomes] == [("kept", "ok"), ("created", "repeated")] * 2
    assert outcomes[1].example.parents == ("r0",)


def test_the_question_split_and_candidates_can_be_changed():
    prompt = [{"role": "system", "content": "S"}, {"role": "user", "content": "old"}]
    row = example("a", candidates=("x",))
    row = type(row)("a", prompt, "ans", "ans", candidates=("x",))
    query = "SELECT id, 'new' AS question, 'test' AS split, ['p', 'q'] AS candidates FROM raw"
    (outcome,) = apply(sql, Rows("raw", [row]), query=query)
    assert outcome.example.prompt == [prompt[0], {"role": "user", "content": "new"}]
    assert (outcome.example.split, outcome.example.candidates) == ("test", ("p", "q"))


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT 'x' AS answer", "row 1 of the result: it has no question"),
        ("SELECT 'x' AS question", "neither an answer nor a response"),
        ("SELECT id, NULL AS response FROM raw", "answer or response is null"),
        ("SELECT id, 'dev' AS split FROM raw", 'no split "dev"'),
        ("SELECT id, 3 AS candidates FROM raw", "candidates is not a list of texts"),
        ("SELECT id FROM rw", "rw"),
        ("DELETE FROM raw", "single SELECT"),
        ("SELECT * FROM read_csv('/etc/passwd')", "disabled"),
    ],
)
def test_mistakes_are_one_line(query, message):
    with pytest.raises(UserError, match=message) as error:
        apply(sql, Rows("raw", examples(2)), query=query)
    assert str(error.value).startswith("sql: ")
    assert "\n" not in str(error.value)


def test_an_empty_table_can_be_asked():
    assert apply(sql, Rows("raw", []), query="SELECT * FROM raw") == []
