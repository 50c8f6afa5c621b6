"""Rows are understood, identified, split, or refused with their place."""

import datetime
import decimal
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from refinery import readers, sources
from refinery.errors import UserError
from refinery.records import Example, Outcome
from refinery.spec_models import HubSource, SourceSpec, SplitSpec

QA = [{"question": f"What is {i}?", "answer": f"It is {i}.", "case": f"c{i // 3}"} for i in range(30)]


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return path


def read(path: Path, **settings: Any) -> list[Outcome]:
    return sources.read_source(SourceSpec.model_validate({"path": str(path), **settings}))


def examples(outcomes: list[Outcome]) -> list[Example]:
    return [outcome.example for outcome in outcomes if outcome.example is not None]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def system(text: str) -> dict[str, str]:
    return {"role": "system", "content": text}


# -- what a row means -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "prompt", "answer"),
    [
        ({"question": "q", "answer": "a"}, [user("q")], "a"),
        ({"prompt": "q", "completion": "a"}, [user("q")], "a"),
        ({"prompt": "q", "response": "a"}, [user("q")], "a"),
        ({"query": "q", "response": "a"}, [user("q")], "a"),
        ({"instruction": "q", "output": "a"}, [user("q")], "a"),
        ({"instruction": "q", "input": "", "output": "a"}, [user("q")], "a"),
        ({"instruction": "q", "input": "x", "output": "a"}, [user("q\n\nx")], "a"),
        ({"system": "s", "question": "q", "answer": "a"}, [system("s"), user("q")], "a"),
        ({"system": None, "question": "q", "answer": "a"}, [user("q")], "a"),
        ({"question": "q", "answer": "a", "response": "r"}, [user("q")], "a"),
        ({"messages": [user("q"), assistant("a")]}, [user("q")], "a"),
        ({"messages": [system("s"), user("q"), assistant("a")], "system": "t"}, [system("s"), user("q")], "a"),
        (
            {"messages": [user("q"), assistant("a"), user("r"), assistant("b"), user("thanks")]},
            [user("q"), assistant("a"), user("r")],
            "b",
        ),
        (
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
            [user("q")],
            "a",
        ),
        ({"prompt": [user("q")], "completion": [assistant("a")]}, [user("q")], "a"),
        ({"messages": [user("q"), assistant([{"type": "text", "text": "a"}])]}, [user("q")], "a"),
    ],
)
def test_the_columns_people_have_are_understood(tmp_path: Path, row: dict, prompt: list, answer: str) -> None:
    (example,) = examples(read(write(tmp_path / "d.jsonl", [row])))
    assert (example.prompt, example.answer, example.response) == (prompt, answer, answer)
    assert example.meta == {k: v for k, v in row.items() if k not in ("messages", "conversations")}


def test_templates_win_over_columns(tmp_path: Path) -> None:
    row = {"question": "q", "answer": "a", "key": "k", "n": 7, "messages": [user("other"), assistant("b")]}
    file = write(tmp_path / "d.jsonl", [row])
    (example,) = examples(read(file, prompt="{{ question }}?", answer="{{ n }}", system="S {{ key }}"))
    assert example.prompt == [system("S k"), user("q?")]
    assert example.answer == "7"
    (example,) = examples(read(file, answer="{{ key }}"))
    assert (example.prompt, example.answer) == ([user("other")], "k")


def test_columns_that_say_nothing_are_refused_with_the_cure(tmp_path: Path) -> None:
    file = write(tmp_path / "d.jsonl", [{"text": "t", "answer": "a"}])
    with pytest.raises(
        UserError, match=r'cannot tell the prompt from the columns text, answer: write prompt: "{{ column'
    ):
        read(file)
    assert examples(read(file, prompt="{{ text }}"))[0].question == "t"


# -- formats ----------------------------------------------------------------------------------------------------------


def test_every_format_gives_the_same_rows(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    write(tmp_path / "d.jsonl", QA)
    (tmp_path / "d.json").write_text(json.dumps(QA, indent=1))
    for suffix, mark in ((".csv", ","), (".tsv", "\t")):
        lines = [mark.join(row.values()) for row in [dict(zip(QA[0], QA[0], strict=True)), *QA]]
        (tmp_path / f"d{suffix}").write_text("\ufeff" + "\r\n".join(lines) + "\r\n", "utf-8")
    table = datasets.Dataset.from_list(QA)
    table.to_parquet(tmp_path / "d.parquet")
    table.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"test": table.select([0]), "train": table}).save_to_disk(tmp_path / "splits")
    expected = examples(read(tmp_path / "d.jsonl"))
    for name in ("d.json", "d.csv", "d.tsv", "d.parquet", "saved", "splits"):
        assert examples(read(tmp_path / name)) == expected, name
        assert sources.peek(SourceSpec(path=str(tmp_path / name))) == (list(QA[0]), []), name
    query = SourceSpec.model_validate(
        {"sql": {"query": "SELECT * FROM t ORDER BY ALL", "tables": {"t": str(tmp_path / "d.csv")}}}
    )
    assert {e.id for e in examples(sources.read_source(query))} == {e.id for e in expected}


def test_a_first_row_longer_than_what_is_looked_at(tmp_path: Path) -> None:
    """Its columns are then not known beforehand, and it is read all the same."""
    path = tmp_path / "long.json"
    path.write_text(json.dumps([{"question": "q" * (readers.HEAD + 1), "answer": "a"}]))
    assert readers.columns(path) == []
    assert [len(raw.values["question"]) for raw in readers.read_path(path)] == [readers.HEAD + 1]


def test_csv_cells_may_hold_line_breaks(tmp_path: Path) -> None:
    text = 'question,answer\n"one\ntwo","a, ""b"""\nshort\nq,a\u2028b\n'
    (tmp_path / "d.csv").write_text(text, "utf-8")
    first, bad, last = read(tmp_path / "d.csv", on_bad_row="drop")
    assert first.example and (first.example.question, first.example.answer) == ("one\ntwo", 'a, "b"')
    assert (bad.reason, bad.detail) == ("wrong_columns", f"{tmp_path}/d.csv:4: 1 values for 2 columns")
    assert last.example and last.example.answer == "a\u2028b"


def test_values_that_json_does_not_know(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    row = {
        "question": "q",
        "answer": "a",
        "day": datetime.date(2024, 5, 1),
        "price": decimal.Decimal("1.50"),
        "share": float("nan"),
        "tags": [{"k": 1}],
    }
    parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "d.parquet")
    (example,) = examples(read(tmp_path / "d.parquet"))
    assert {k: example.meta[k] for k in ("day", "price", "share", "tags")} == {
        "day": "2024-05-01",
        "price": 1.5,
        "share": None,
        "tags": [{"k": 1}],
    }
    json.dumps(example.meta, allow_nan=False)


def test_the_hub_is_a_source(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked: list[Any] = []

    def load_dataset(*args: Any, **settings: Any) -> Any:
        asked.append((args, settings))
        if args[0] == "org/none":
            raise FileNotFoundError("no such dataset\nand much more")
        return datasets.Dataset.from_list(QA)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = SourceSpec.model_validate({"hub": {"id": "org/data", "revision": "abc"}, "limit": 3})
    assert [row.question for row in examples(sources.read_source(source))] == [row["question"] for row in QA[:3]]
    assert asked == [(("org/data", None), {"split": "train", "revision": "abc"})]
    assert SourceSpec.model_validate({"hub": "org/data"}).hub == HubSource(id="org/data")
    assert sources.peek(source) == (None, [])
    with pytest.raises(UserError, match=r"^hub dataset org/none: FileNotFoundError: no such dataset$"):
        sources.read_source(SourceSpec.model_validate({"hub": "org/none"}))


def test_the_lab_is_a_source() -> None:
    from refinery import lab

    rows = examples(sources.read_source(SourceSpec(lab="clinic", split=SplitSpec(by="case"))))
    assert len(rows) > 100 and {e.split for e in rows} == {"train", "validation", "test"}
    assert tuple(lab.source_rows("clinic")[0]) == sources.LAB_COLUMNS


# -- bad rows ---------------------------------------------------------------------------------------------------------

GOOD = {"question": "q", "answer": "a"}
BAD = [
    ('{"question": "q", "answer"', "bad_json", "Expecting ':' delimiter: line 1 column 27 (char 26)"),
    ('{"question": "q", "answer": NaN}', "bad_json", "NaN is not JSON"),
    ("[1, 2]", "wrong_type", "a row is an object, this is list"),
    ('{"question": "q"}', "missing_column", "answer"),
    (
        '{"question": "q", "answer": 5}',
        "wrong_type",
        'answer is int, not text (a template makes it text: "{{ answer }}")',
    ),
    ('{"question": " ", "answer": "a"}', "empty_prompt", ""),
    ('{"question": "q", "answer": null}', "empty_answer", ""),
    ('{"question": "q", "answer": "\\ud83d"}', "invalid_text", "half of a surrogate pair"),
    ('{"question": "q", "answer": "a", "note": {"\\udc00": 1}}', "invalid_text", "half of a surrogate pair"),
    ("[" * 100_000, "bad_json", None),
]


@pytest.mark.parametrize(("line", "reason", "detail"), BAD)
def test_bad_rows_are_dropped_with_reason_and_line(tmp_path: Path, line: str, reason: str, detail: str | None) -> None:
    file = write(tmp_path / "d.jsonl", [GOOD, "", line, GOOD])
    good, bad, again = read(file, on_bad_row="drop")
    assert (bad.action, bad.reason, bad.example) == ("dropped", reason, None)
    place = f"{file}:3"
    assert bad.detail.startswith(place) if detail is None else bad.detail == (f"{place}: {detail}" if detail else place)
    bad.detail.encode("utf-8")
    assert len({good.example_id, bad.example_id, again.example_id}) == 3
    with pytest.raises(UserError, match=rf"^source: 1 of 3 rows are bad: {reason} at .*d\.jsonl:3"):
        read(file)


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_bytes(b'{"question": "q", "answer": "a"}\n{"question": "\xff", "answer": "a"}\n')
    _, bad = read(tmp_path / "d.jsonl", on_bad_row="drop")
    assert (bad.reason, bad.detail) == ("invalid_text", f"{tmp_path}/d.jsonl:2: not UTF-8")


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ("hello", "wrong_type"),
        (["hello"], "wrong_type"),
        ([user("q")], "no_answer"),
        ([assistant("a")], "empty_prompt"),
        ([user("q"), {"role": "tool", "content": "x"}, assistant("a")], "unsupported_role"),
        ([user("q"), {"role": "assistant", "content": [{"type": "image"}]}], "wrong_type"),
    ],
)
def test_bad_chats(tmp_path: Path, messages: Any, reason: str) -> None:
    file = write(tmp_path / "d.jsonl", [{"messages": [user("q"), assistant("a")]}, {"messages": messages}])
    assert read(file, on_bad_row="drop")[1].reason == reason


def test_a_refusal_names_the_first_bad_rows_and_counts_the_rest(tmp_path: Path) -> None:
    file = write(tmp_path / "d.jsonl", [GOOD, *[{"question": "q"}] * 8])
    with pytest.raises(UserError) as caught:
        read(file)
    shown = "; ".join(f"missing_column at {file}:{line}: answer" for line in range(2, 7))
    cure = "mend them, or leave them out with on_bad_row: drop"
    assert str(caught.value) == f"source: 8 of 9 rows are bad: {shown}; and 3 more ({cure})"


def test_nothing_to_read_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "empty.csv").write_text("question,answer\n")
    (tmp_path / "no_header.csv").write_text("")
    (tmp_path / "object.json").write_text("{}")
    (tmp_path / "broken.json").write_text('[\n{"question": "q"}\n{"question": "r"}]')
    (tmp_path / "broken.parquet").write_text("PAR1")
    (tmp_path / "folder").mkdir()
    write(tmp_path / "bad.jsonl", [{"question": "q", "answer": ""}])
    for name, message in {
        "empty.jsonl": "source: no rows",
        "empty.csv": "source: no rows",
        "no_header.csv": "empty; the first line names the columns",
        "object.json": "must be an array of rows",
        "broken.json": r"broken.json:3: not JSON: expected , or ] after a row",
        "broken.parquet": "broken.parquet: ",
        "folder": "not one that save_to_disk",
        "missing.jsonl": "there is no file",
        "bad.jsonl": "all 1 rows are bad: empty_answer at",
    }.items():
        with pytest.raises(UserError, match=message):
            read(tmp_path / name, on_bad_row="drop")


# -- ids --------------------------------------------------------------------------------------------------------------


def test_an_id_depends_on_its_own_row_alone(tmp_path: Path) -> None:
    before = [e.id for e in examples(read(write(tmp_path / "d.jsonl", QA)))]
    assert len(set(before)) == len(QA)
    edited = [*QA[5:10], {**QA[10], "answer": "Other."}, *QA[11:], {"question": "new", "answer": "row", "case": "z"}]
    after = [e.id for e in examples(read(write(tmp_path / "e.jsonl", edited)))]
    assert after[:5] == before[5:10] and after[6:-1] == before[11:]
    assert {after[5], after[-1]}.isdisjoint(before)


def test_equal_rows_have_ids_of_their_own(tmp_path: Path) -> None:
    ids = [e.id for e in examples(read(write(tmp_path / "d.jsonl", [GOOD, QA[0], GOOD, GOOD])))]
    fewer = [e.id for e in examples(read(write(tmp_path / "e.jsonl", [GOOD, GOOD])))]
    assert len(set(ids)) == 4 and [ids[0], ids[2]] == fewer


def test_limit_takes_the_first_rows(tmp_path: Path) -> None:
    file = write(tmp_path / "d.jsonl", [*QA, "not json"])
    assert [e.id for e in examples(read(file, limit=7))] == [e.id for e in examples(read(file, on_bad_row="drop"))][:7]


# -- splits -----------------------------------------------------------------------------------------------------------


def many(count: int, groups: int) -> list[dict]:
    return [{"question": f"q{i}", "answer": f"a{i}", "group": (i * i) % groups} for i in range(count)]


@pytest.mark.parametrize(
    ("count", "groups", "split"),
    [
        (1000, 1000, {}),
        (1000, 97, {"by": "group"}),
        (1000, 11, {"by": "group"}),
        (500, 50, {"by": "group", "train": 0.5, "validation": 0.25, "test": 0.25}),
        (300, 300, {"validation": 0, "test": 0.1}),
    ],
)
def test_groups_stay_together_and_shares_are_exact(tmp_path: Path, count: int, groups: int, split: dict) -> None:
    rows = examples(read(write(tmp_path / "d.jsonl", many(count, groups)), split=split))
    wanted = SplitSpec(**split)
    by_group = defaultdict(set)
    for example in rows:
        by_group[example.meta["group"] if "by" in split else example.id].add(example.split)
    assert all(len(splits) == 1 for splits in by_group.values())
    sizes = Counter(e.meta["group"] if "by" in split else e.id for e in rows)
    counts = Counter(e.split for e in rows)
    for name in ("train", "validation", "test"):
        assert abs(counts[name] - getattr(wanted, name) * count) <= max(sizes.values()), name
    assert (counts["validation"] == 0) == (wanted.validation == 0)


def test_the_split_follows_the_seed_and_not_the_order(tmp_path: Path) -> None:
    def splits(rows: list[dict], seed: int) -> dict[str, str]:
        file = write(tmp_path / "d.jsonl", rows)
        return {e.id: e.split for e in examples(read(file, split={"by": "group", "seed": seed}))}

    rows = many(400, 400)
    assert splits(rows, 1) == splits(rows[::-1], 1)
    assert splits(rows, 1) != splits(rows, 2)
    extended = splits([*rows, {"question": "new", "answer": "new", "group": -1}], 1)
    moved = [id_ for id_, split in splits(rows, 1).items() if extended[id_] != split]
    assert len(moved) <= 2  # one more row shifts each of the two cuts by less than one group


def test_a_row_without_its_group_is_bad(tmp_path: Path) -> None:
    file = write(tmp_path / "d.jsonl", [*many(3, 3), {"question": "q", "answer": "a"}])
    assert read(file, split={"by": "group"}, on_bad_row="drop")[3].reason == "missing_column"
