"""Sources stored beside the first requests: the same rows either way, and nothing taken for stored that is not."""

import json
import threading

import pytest

from refinery import arrivals
from refinery.arrivals import arriving
from refinery.errors import UserError
from refinery.sources import Reading
from refinery.spec import load_spec
from refinery.steps import is_complete, readings, source_fingerprints
from refinery.store import Store

ROWS = 4500
ODD = {"half": 0.1, "none": None, "deep": {"b": [1, 2.5, "ü"], "a": 10**30}, "tiny": 1e-300}


@pytest.fixture
def spec(tmp_path):
    rows = [{"question": f"q{n}?", "answer": f"“a”\t{n}", "case": n % 7, **ODD} for n in range(ROWS)]
    rows[10]["answer"] = ""
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    text = f"""
name: arriving
source: {{path: {tmp_path}/rows.jsonl, on_bad_row: drop, split: {{train: 0.7, validation: 0.15, test: 0.15, by: case}}}}
"""
    (tmp_path / "spec.yaml").write_text(text)
    return load_spec(tmp_path / "spec.yaml")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store.duckdb")


def test_rows_come_as_the_store_gives_them(spec, store):
    with arriving(spec, store, "run") as found:
        (arrival,) = found.coming.values()
        early = list(arrival.train())
        arrival.wait()
    fingerprint = found.fingerprints["source"]
    stored = [(position, outcome.example) for position, outcome in store.stream(fingerprint, split="train")]
    assert early == stored
    cases = {row.meta["case"] for _, row in stored}
    assert 0 < len(cases) < 7
    assert arrival.rows == len(stored) == sum(n % 7 in cases for n in range(ROWS)) - (10 % 7 in cases)
    assert is_complete(store, fingerprint)
    assert found.fingerprints == source_fingerprints(spec, store)
    assert len(store.outcomes(fingerprint)) == ROWS


def test_a_source_that_is_stored_does_not_come_again(spec, store):
    with arriving(spec, store, "run") as first:
        pass
    with arriving(spec, store, "again") as second:
        assert second.fingerprints == first.fingerprints and not second.coming


def test_the_first_rows_are_given_before_anything_is_written(spec, store):
    with arriving(spec, store, "run") as found:
        (arrival,) = found.coming.values()
        rows = arrival.train()
        for _ in range(arrivals.AHEAD // 2):
            next(rows)
        fingerprint = found.fingerprints["source"]
        assert not store.funnel(fingerprint) and not is_complete(store, fingerprint)
        list(rows)
        arrival.wait()
        assert is_complete(store, fingerprint)


def test_what_is_cut_short_is_stored_by_the_next_run(spec, store, monkeypatch):
    written = threading.Event()
    add = Store.add_outcomes

    def slowly(self, *args, **how):
        add(self, *args, **how)
        written.set()
        threading.Event().wait(0.2)

    monkeypatch.setattr(Store, "add_outcomes", slowly)
    with pytest.raises(KeyboardInterrupt), arriving(spec, store, "run") as found:
        list(next(iter(found.coming.values())).train())
        written.wait(10)
        raise KeyboardInterrupt
    fingerprint = found.fingerprints["source"]
    assert not is_complete(store, fingerprint)
    assert 0 < sum(row["n"] for row in store.funnel(fingerprint)) < ROWS
    monkeypatch.setattr(Store, "add_outcomes", add)
    with arriving(spec, store, "again") as found:
        assert list(found.coming) == [fingerprint]
    assert is_complete(store, fingerprint) and len(store.outcomes(fingerprint)) == ROWS


def test_a_file_that_is_edited_while_the_run_goes_on_is_read_again(spec, store, tmp_path):
    file = tmp_path / "rows.jsonl"
    with arriving(spec, store, "run") as found:
        file.write_text(file.read_text("utf-8").replace("q77?", "edited?"), "utf-8")
    now = source_fingerprints(spec, store)
    assert now != found.fingerprints
    with Reading(spec.source) as read:
        assert now["source"] == read.fingerprint()


def test_a_run_that_stops_later_need_not_read_again(spec, store):
    with pytest.raises(KeyboardInterrupt), arriving(spec, store, "run") as found:
        next(iter(found.coming.values())).wait()
        raise KeyboardInterrupt
    with readings(spec, store) as read:
        assert read == found.fingerprints


def test_a_store_that_cannot_be_written_is_said_while_rows_are_taken(spec, store, monkeypatch):
    def full(self, *_, **__):
        raise UserError("the disk is full")

    monkeypatch.setattr(Store, "add_outcomes", full)
    with pytest.raises(UserError, match="disk is full"), arriving(spec, store, "run") as found:
        arrival = next(iter(found.coming.values()))
        for number, _ in enumerate(arrival.train()):
            if number == arrivals.AHEAD:
                arrival.written.exception(10)
        raise AssertionError("all rows were given")
    assert not is_complete(store, found.fingerprints["source"])


def test_two_names_for_the_same_rows_are_stored_once(spec, store):
    spec = spec.model_copy(update={"sources": {"twin": spec.source}})
    with arriving(spec, store, "run") as found:
        assert found.fingerprints["source"] == found.fingerprints["twin"] and len(found.coming) == 1
    assert {row["name"] for row in store.last_steps()} == {"source", "twin"}
