"""The filters in a real run: every row accounted for, what they decided kept with the row, nothing done twice."""

import json

import numpy as np
import pytest

from refinery.encoder import Encoder
from refinery.graph import run_graph
from refinery.spec import load_spec
from refinery.store import Store

ROWS = [
    ("What is the capital of France?", "The capital of France is Paris."),
    ("How many legs do two spiders have?", "Two spiders have 16 legs."),
    ("Which planet is the largest?", "I'm sorry, but I cannot answer that question."),
    ("What is 7 times 6?", "42"),
    ("Wer schrieb den Faust?", "Johann Wolfgang von Goethe hat den Faust geschrieben, vor sehr langer Zeit."),
    ("Name a metal.", "Iron is a metal that rusts when it stays wet for a long time in the open air."),
]

SPEC = """
source: {path: rows.jsonl, split: {train: 1}}
graph:
  near:     {op: semantic_filter, from: source, against: "{{ question }}", min_quantile: QUANTILE, fallback: drop}
  polite:   {op: lexical_filter, from: source, refusals: true, unless_given: false, fallback: drop}
  lengthy:  {op: length_filter, from: polite, min: 2, max: 12, fallback: drop}
  english:  {op: language_filter, from: lengthy, languages: [en], among: [en, de], fallback: drop}
  counted:  {op: check_answer, from: english, kind: numbers, of: "{{ question }}", fallback: drop}
  best:     {op: select, from: counted, by: length}
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def go(rows=ROWS, quantile=0.5):
        text = "".join(json.dumps({"question": q, "answer": a}) + "\n" for q, a in rows)
        (tmp_path / "rows.jsonl").write_text(text)
        (tmp_path / "spec.yaml").write_text(SPEC.replace("QUANTILE", str(quantile)))
        store = Store(tmp_path / "store.duckdb")
        return run_graph(load_spec(tmp_path / "spec.yaml"), store), store

    return go


def test_what_each_filter_does(run):
    results, _ = run()
    counts = {name: result.counts for name, result in results.items()}
    assert counts["polite"] == {("kept", "ok"): 5, ("dropped", "refusal"): 1}
    assert counts["lengthy"] == {("kept", "ok"): 3, ("dropped", "too_short"): 1, ("dropped", "too_long"): 1}
    few_letters = ("kept", "unknown_language")  # "Two spiders have 16 legs." has 18 of the 20 that are asked for
    assert counts["english"] == {("kept", "ok"): 1, few_letters: 1, ("dropped", "wrong_language"): 1}
    assert counts["counted"] == {("kept", "ok"): 2}
    assert counts["best"] == {("kept", "ok"): 2}
    assert all(sum(result.counts.values()) == result.rows for result in results.values())


def test_a_quantile_is_taken_over_all_rows_and_moves_with_them(run):
    encoder = Encoder()

    def expected(rows, quantile):
        pairs = [encoder.encode([question, answer]) for question, answer in rows]
        cosines = np.round([float(a @ b) for a, b in pairs], 6)
        bound = np.quantile(cosines, quantile)
        return pytest.approx(bound, abs=2e-5), int((cosines >= bound).sum())

    for rows in (ROWS, [*ROWS, ("What rusts?", "Iron is what rusts.")]):
        results, store = run(rows)
        bound, passed = expected(rows, 0.5)
        assert results["near"].count("kept") == passed
        found = store.query(
            "SELECT DISTINCT (scores->>'min_cosine')::DOUBLE AS bound FROM outcomes WHERE step = ?",
            [results["near"].fingerprint],
        )
        assert [row["bound"] for row in found] == [bound]
    again, _ = run([*ROWS, ("What rusts?", "Iron is what rusts.")])
    assert all(result.ran == 0 for result in again.values())
