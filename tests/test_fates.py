"""What became of the rows, against counting them by hand; rows mixed in are nobody's refinement."""

import json
from pathlib import Path

import pytest

from refinery.diagnostics._pairs import read_pairs
from refinery.fates import Fate, fate, fates, final_steps, origins
from refinery.looking import latest
from refinery.spec import load_spec
from refinery.store import Store
from tests.cli_tools import call

SPEC = """
name: small
source: {path: rows.jsonl, split: {train: 0.8, test: 0.2}}
sources: {general: {path: general.jsonl}, wide: {path: wide.jsonl}}
graph:
  right: {op: check_answer, from: source, kind: exact, of: "{{ gold }}", fallback: answer}
  short: {op: length_filter, from: right, max: 9, on_error: drop, fallback: drop}
  loud:
    op: sql
    from: short
    query: SELECT id, CASE WHEN n % 2 = 0 THEN upper(response) ELSE response END AS response FROM short
  mixed: {op: mix, from: [loud, general, wide], share: {general: 0.3, wide: 0.05}, replacement: true}
  held: {op: split, from: mixed, validation: 0.1}
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fates")

    def rows(name, count, long=0):
        lines = [
            {"question": f"{name} {n}?", "answer": "word " * (20 if n % 10 < long else 2) + str(n), "n": n,
             "gold": f"other {n}" if n % 7 == 0 else "word " * (20 if n % 10 < long else 2) + str(n)}
            for n in range(count)
        ]  # fmt: skip
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))

    rows("rows", 100, long=2)
    rows("general", 10)
    rows("wide", 50)
    (folder / "spec.yaml").write_text(SPEC)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done = call("run", "spec.yaml", "--stage", "refine")
        assert done.code == 0, done.err
    return folder, done


@pytest.fixture
def store(ran, monkeypatch):
    monkeypatch.chdir(ran[0])
    return Store(Path("runs/small/refinery.duckdb"))


def by_hand(store, name):
    steps = {row["name"]: row["fingerprint"] for row in store.last_steps()}
    own = {each.id for each in store.examples(steps["source"])}
    train = {each.id for each in store.examples(steps["source"]) if each.split == "train"}
    last = store.examples(steps[name])
    mine = [each for each in last if each.id in own]
    staying = [each for each in mine if each.split == "train"]
    others = [each for each in last if each.id not in own and each.split == "train"]
    return {
        "of": len(train),
        "refined": sum(each.response != each.answer and not each.fell_back for each in staying),
        "unchanged": sum(each.response == each.answer and not each.fell_back for each in staying),
        "fell_back": sum(each.fell_back for each in staying),
        "held_out": len(mine) - len(staying),
        "dropped": len(train - {each.id for each in mine}),
        "mixed_in": {
            name: sum(each.prompt[-1]["content"].startswith(name) for each in others) for name in ("general", "wide")
        },
    }


@pytest.mark.parametrize("name", ["short", "loud", "mixed", "held"])
def test_the_counts_are_those_of_counting_by_hand(store, name):
    steps = latest(store)
    spec = load_spec("spec.yaml")
    (found,) = fates(store, spec, steps) if name == "held" else [_fate(store, name)]
    expected = by_hand(store, name)
    counts = {key: getattr(found, key) for key in expected}
    assert counts == {**expected, "mixed_in": {k: n for k, n in expected["mixed_in"].items() if n}}
    assert found.of == found.refined + found.unchanged + found.fell_back + found.held_out + found.dropped
    assert found.made == 0
    if name in ("mixed", "held"):
        assert found.refined and found.unchanged and found.fell_back and found.dropped and len(found.mixed_in) == 2


def _fate(store, name):
    return fate(store, next(row for row in latest(store) if row["name"] == name))


def test_copies_of_rows_mixed_in_are_mixed_in(store):
    step = next(row for row in latest(store) if row["name"] == "mixed")
    found = origins(store, step["fingerprint"])
    assert set(found.copies.values()) == {"general"}  # 10 rows for a share of three tenths: taken again
    assert _fate(store, "mixed").mixed_in["general"] > 10


def test_the_run_and_status_end_with_it(ran, store):
    said = f"held: {_fate(store, 'held').words()}"
    assert ran[1].err.splitlines()[-1] == said
    status = call("status", "spec.yaml")
    assert said in " ".join(status.out.split())
    (data,) = call("status", "spec.yaml", "--json").json["data"]
    assert data["refined"] == _fate(store, "held").refined


def test_rows_mixed_in_are_no_pairs(store):
    steps = {row["name"]: row["fingerprint"] for row in store.last_steps()}
    pairs, alone = read_pairs(store, steps["mixed"]), read_pairs(store, steps["loud"])
    assert {pair.id for pair in pairs} == {pair.id for pair in alone} and len(pairs) == len(alone) > 0
    assert pairs.mixed_in == sum(_fate(store, "mixed").mixed_in.values()) and pairs.left_out == 0
    assert alone.mixed_in == 0
    general = read_pairs(store, steps["general"])  # its own trunk: nothing is mixed in
    assert (len(general), general.mixed_in) == (10, 0)


def test_words():
    assert Fate("s", 70, 60, 4, 3, 0, 3, 0, {"general": 25}).words() == (
        "60 of 70 rows refined (4 unchanged, 3 fell back, 3 dropped), 25 mixed in from general"
    )
    assert Fate("s", 70, 70).words() == "70 of 70 rows refined"
    assert Fate("s", 10, dropped=10, made=40).words() == "0 of 10 rows refined (10 dropped), 40 made"
    assert Fate("s", 0, made=12).words() == "no rows to refine, 12 made"


def test_the_final_steps_are_what_is_trained_on(store):
    head = SPEC.replace("name: small", "name: other")
    for more, names in (
        ("", ["held"]),
        ("train: {methods: {a: {method: sft, data: source}, b: {method: sft, data: loud}}}", ["loud"]),
        ("train: {stages: [{data: short}, {data: held}], methods: {a: {method: sft}}}", ["short", "held"]),
    ):
        Path("other.yaml").write_text(head + more)
        assert final_steps(load_spec("other.yaml")) == names


def test_every_point_of_a_matrix_has_its_own_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"question": f"{n}?", "answer": "word " * n} for n in range(1, 9)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "spec.yaml").write_text("""
name: small
source: {path: rows.jsonl, split: {train: 1.0}}
graph: {short: {op: length_filter, from: source, max: 5, on_error: drop, fallback: drop}}
matrix: {graph.short.max: [3, 6]}
""")
    done = call("run", "spec.yaml", "--stage", "refine")
    assert done.code == 0, done.err
    lines = [line.partition(": short: ")[2] for line in done.err.splitlines() if "rows refined" in line]
    assert lines == ["0 of 8 rows refined (3 unchanged, 5 dropped)", "0 of 8 rows refined (6 unchanged, 2 dropped)"]
