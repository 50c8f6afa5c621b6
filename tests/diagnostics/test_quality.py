"""Right or wrong: agreement by hand, and a gate's false decisions counted from rows of a real store."""

import pytest

from refinery.checks import Check
from refinery.diagnostics import quality
from refinery.diagnostics._gates import Judged, Reference, examples_near, find_gates, judge_gates, judged, reference_of
from refinery.diagnostics._pairs import paired
from refinery.records import Example, Outcome
from refinery.store import Store


def by_name(rows):
    return {row["name"]: row for row in rows}


def test_numbers_and_names_kept():
    raw = ["Take 5 mg for 3 days.", "No number here.", "He met Marie Curie in Paris."]
    refined = ["For 3 days take 5 mg, 15 mg in all.", "None.", "He met Marie Curie in London."]
    rows = by_name(quality.measure(paired(raw, refined)))
    assert (rows["numbers_kept"]["value"], rows["numbers_kept"]["n"]) == (1, 1)
    assert rows["numbers_made_up"]["value"] == pytest.approx(1 / 3)
    assert rows["names_kept"]["value"] == 0.5 and rows["names_made_up"]["value"] == 0.5
    assert "answer_refined" not in rows


def test_agreement_with_a_reference():
    raw = ["It is rose.", "It is lily.", "It is oak."]
    refined = ["Surely a rose", "Surely a tulip", "Surely an oak"]
    rows = by_name(quality.measure(paired(raw, refined), reference=Reference(Check("last_word"))))
    assert rows["answer_raw"]["value"] == 1 and rows["answer_refined"]["value"] == pytest.approx(2 / 3)
    assert rows["answer_change"]["value"] == pytest.approx(-1 / 3)
    assert rows["answer_change"]["detail"]["rule"] == "last_word"


def test_fallbacks_are_of_all_rows():
    pairs = paired(["a"] * 4, ["b"] * 4, [True, False, False, False])
    assert by_name(quality.measure(pairs))["fell_back"]["value"] == 0.25
    assert "fell_back" not in by_name(quality.measure(pairs.refined_only()))


CANDIDATES = [  # cosine, right
    [(0.9, True), (0.7, True)],
    [(0.85, False), (0.6, False)],
    [(0.81, True)],
    [(0.79, True)],
    [(0.4, False), (0.3, True)],
]


@pytest.fixture
def store(tmp_path):
    """A rewriting with candidates and a gate at 0.8 behind it; wrong candidates end in another word."""
    store = Store(tmp_path / "s.duckdb")
    run_id = store.start_run("t", "", "", {})
    store.start_step("w", run_id, "rewritten", "rewrite", 1, {}, ["src"], {})
    params = {"min_cosine": 0.8, "encoder": "e", "fallback": "answer"}
    store.start_step("g", run_id, "close", "semantic_filter", 1, params, ["w"], {})
    written, gated = [], []
    for i, candidates in enumerate(CANDIDATES):
        texts = tuple(f"said {j}: {'rose' if right else 'lily'}" for j, (_, right) in enumerate(candidates))
        made = Example(f"e{i}", [{"role": "user", "content": f"q{i}"}], "It is rose", texts[0], texts)
        written.append((i, Outcome(made.id, "changed", "ok", made)))
        cosines = [c for c, _ in candidates]
        scores = {"cosine": max(cosines), "cosines": cosines, "min_cosine": 0.8}
        action, after = ("kept", made) if max(cosines) >= 0.8 else ("fell_back", made.fall_back())
        gated.append((i, Outcome(made.id, action, "ok", after, scores)))
    earlier = Example("e9", [{"role": "user", "content": "q9"}], "It is rose", "It is rose", fell_back=True)
    written.append((9, Outcome("e9", "fell_back", "server_error", earlier)))
    gated.append((9, Outcome("e9", "kept", "fell_back_earlier", earlier)))
    store.add_outcomes("w", written)
    store.add_outcomes("g", gated)
    return store


def steps(store):
    return store.query("SELECT * FROM steps ORDER BY started_at")


def test_a_gates_false_decisions(store):
    (gate,) = find_gates(store, steps(store))
    assert (gate.step, gate.param, gate.score, gate.threshold, gate.reads) == (
        "close",
        "min_cosine",
        "cosine",
        0.8,
        "w",
    )
    reference = Reference(Check("last_word"))
    flat = [(cosine >= 0.8, right) for row in CANDIDATES for cosine, right in row]
    assert sorted(judged(store, gate, reference)) == sorted(flat)
    rows = by_name(quality.measure(paired(["a"], ["b"]), gates=judge_gates(store, [gate], reference)))
    accepted, refused = rows["false_accepts:close"], rows["false_rejects:close"]
    assert (accepted["value"], accepted["n"]) == (1 / 3, 3)
    assert (refused["value"], refused["n"]) == (3 / 5, 5)
    assert Judged([]).identity != judge_gates(store, [gate], reference).identity


@pytest.mark.parametrize("op", ["deduplicate", "synthesize"])
def test_a_step_that_takes_out_near_rows_is_no_gate(store, op):
    assert find_gates(store, [{**step, "op": op} for step in steps(store)]) == []


def test_a_threshold_moved(store):
    (gate,) = find_gates(store, steps(store))
    best = sorted(max(c for c, _ in row) for row in CANDIDATES)
    points = dict(gate.sweep())
    assert all(passed == sum(c >= at for c in best) for at, passed in points.items())
    assert points[0.8] == 3 and points[min(points)] == 5 and points[max(points)] == 1
    below, above = examples_near(store, gate, Reference(Check("last_word")))
    assert [row["score"] for row in below] == [0.79, 0.4] and [row["score"] for row in above] == [0.81, 0.85, 0.9]
    assert [row["agrees"] for row in above] == [True, False, True]
    assert below[0]["candidate"] == "said 0: rose" and below[0]["question"] == "q3"
    assert examples_near(store, gate, None)[0][0]["agrees"] is None


def test_an_upper_threshold():
    from refinery.diagnostics._gates import Gate

    gate = Gate("s", "f", "r", "max_rouge", "rouge", 0.5, [(0.1, "a"), (0.5, "b"), (0.9, "c")])
    assert gate.passed(0.5) == 2 and gate.accepts(0.5) and not gate.accepts(0.51)


def test_where_a_reference_comes_from(store):
    assert reference_of(steps(store), None) is None
    check = {"op": "check_answer", "params": {"kind": "number", "of": "{{ value }}", "fallback": "answer"}}
    found = reference_of([*steps(store), check], None)
    assert found.check.kind == "number" and found.target({"value": 7}) == "7" and found.target({}) == ""
