"""Pairs of two steps: joined by id, streamed, sampled alike at every step."""

from collections import Counter

import numpy as np
import pytest
from scipy import stats

from refinery.diagnostics import _pairs
from refinery.diagnostics._pairs import Pair, paired, read_pairs, spooled
from refinery.records import Example, Outcome
from refinery.store import Store


def named(ids):
    return spooled(Pair(i, f"raw {i}", f"refined {i}", "", False) for i in ids)


def test_a_sample_is_told_by_its_ids_not_by_their_place():
    ids = [f"row {i}" for i in range(1000)]
    chosen = [p.id for p in named(ids).sample(100)]
    assert len(set(chosen)) == 100 and chosen == sorted(chosen, key=ids.index)
    assert {p.id for p in named(ids[::-1]).sample(100)} == set(chosen)
    assert {p.id for p in named(ids).sample(100, seed=1)} != set(chosen)
    assert {p.id for p in named(ids).sample(30)} < set(chosen)
    half = {p.id for p in named(ids[:500]).sample(100)}
    assert {i for i in chosen if i in ids[:500]} <= half
    assert [p.id for p in named(ids).sample(1000)] == ids


def test_every_row_is_as_likely_to_be_drawn():
    pairs = named([f"r{i}" for i in range(4000)])
    times = Counter(int(p.id[1:]) % 8 for seed in range(20) for p in pairs.sample(200, seed))
    assert stats.chisquare([times[i] for i in range(8)]).pvalue > 0.001


def test_more_than_fits_in_memory_is_read_again_and_again(monkeypatch):
    monkeypatch.setattr(_pairs, "IN_MEMORY", 1000)
    monkeypatch.setattr(_pairs, "CHUNK", 7)
    pairs = paired([f"a{i}" for i in range(50)], [f"b{i}" for i in range(50)], [i % 5 == 0 for i in range(50)])
    assert [p.raw for p in pairs] == [f"a{i}" for i in range(50)]
    both = zip(pairs, pairs, strict=True)  # two readers in turns
    assert all(a == b for a, b in both)
    part = pairs.refined_only()
    assert [p.id for p in part] == [str(i) for i in range(50) if i % 5] and len(part) == 40
    assert pairs.fell_back == 10 and part.fell_back == 0
    assert all(int(p.id) % 5 for p in part.sample(20)) and len(part.sample(20)) == 20


def test_the_digest_names_texts_in_any_order():
    rows = [Pair(str(i), f"a{i}", f"b{i}", "", False) for i in range(5)]
    assert spooled(rows).digest == spooled(rows[::-1]).digest
    assert spooled(rows).digest != spooled(rows[:4]).digest
    assert spooled(rows).digest != spooled([*rows[:4], rows[4]._replace(refined="c")]).digest
    assert spooled(rows).digest != spooled([*rows[:4], rows[4]._replace(fell_back=True)]).digest


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "s.duckdb")
    run_id = store.start_run("t", "", "", {})

    def row(i, response, **more):
        return Example(f"e{i}", [{"role": "user", "content": f"q{i}"}], f"answer {i}", response, **more)

    early = [row(i, f"early {i}") for i in range(6)]
    late = [row(0, "late 0"), row(2, "late 2", fell_back=True), row(3, "late 3"), row(9, "new", parents=("e0",))]
    late.append(row(4, "late 4", split="test"))
    for name, rows in (("early", early), ("late", late)):
        store.start_step(name, run_id, name, "rewrite", 1, {}, [], {})
        store.add_outcomes(name, [(3 * n, Outcome(e.id, "changed", "ok", e)) for n, e in enumerate(rows)])
    store.add_outcomes("early", [(99, Outcome("e3", "dropped", "refused", None))])
    return store


def test_any_two_steps_are_joined_by_id(store, monkeypatch):
    monkeypatch.setattr(_pairs, "PAGE", 2)
    found = read_pairs(store, "late", "early")
    assert [(p.id, p.raw, p.refined, p.fell_back) for p in found] == [
        ("e0", "early 0", "late 0", False),
        ("e2", "early 2", "late 2", True),
    ]
    assert found.left_out == 2  # e3 was dropped by the one, e9 made by the other; e4 is no train row
    raw = read_pairs(store, "late", reference=lambda columns: columns["answer"].upper())
    assert [(p.raw, p.reference) for p in raw] == [(f"answer {i}", f"ANSWER {i}") for i in (0, 2, 3, 9)]
    assert raw.left_out == 0 and len(read_pairs(store, "nothing")) == 0


def test_no_pairs():
    empty = paired([], [])
    assert list(empty) == [] and empty.sample(5) == [] and len(empty.refined_only()) == 0
    assert np.isfinite(len(empty))
