"""The journal: nothing answered is lost, whatever kills the run, and replaying changes nothing twice."""

import hashlib
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from refinery.errors import RowError, UserError
from refinery.journal import Journal, _Digests
from refinery.records import Example, Outcome
from refinery.store import Store

ROOT = Path(__file__).parent.parent


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "s.duckdb")


def files(store: Store) -> list[Path]:
    return sorted(store.path.parent.glob("*.journal.*"))


def generation(number: int, **more: object) -> dict[str, object]:
    row = {"digest": f"{number:032x}", "model": "m", "request": {"q": number}, "max_tokens": 8, "text": f"t{number}"}
    row |= {"finish_reason": "stop", "prompt_tokens": 1, "completion_tokens": 2, "created_at": "2026-01-02T03:04:05"}
    return {**row, **more}


def outcome(number: int, **more: object) -> Outcome:
    example = Example(f"e{number}", [{"role": "user", "content": "q"}], "a", "r", ("x",), meta={"n": number})
    return Outcome(f"e{number}", "kept", "ok", example, {"cosine": 0.5}, **more)  # type: ignore[arg-type]


def test_rows_are_written_while_it_runs_and_at_the_end(store: Store) -> None:
    with Journal(store, every=0.05) as journal:
        journal.append("generations", generation(1))
        journal.outcome("f", 0, outcome(0))
        deadline = time.monotonic() + 20
        while not store.outcomes("f") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert store.outcomes("f") == [outcome(0)]
        journal.append("likelihoods", {"digest": "1" * 32, "model": "m", "request": {}, "logprobs": [-1.0],
                                       "created_at": "2026-01-02"})  # fmt: skip
    assert store.generations([f"{1:032x}"]) and store.likelihoods(["1" * 32])["1" * 32]["logprobs"] == [-1.0]
    assert files(store) == []


def test_rows_can_be_found_before_they_are_written(store: Store) -> None:
    with Journal(store, every=60) as journal:
        assert journal.find("generations", (f"{1:032x}", 8)) is None
        journal.append("generations", generation(1))
        assert (journal.find("generations", (f"{1:032x}", 8)) or {})["text"] == "t1"
        assert store.generations([f"{1:032x}"]) == {}
        journal.flush()
        assert journal.find("generations", (f"{1:032x}", 8)) is None
        assert store.generations([f"{1:032x}"])


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_error_in_the_block_still_writes(store: Store, error: type[BaseException]) -> None:
    with pytest.raises(error), Journal(store, every=60) as journal:
        journal.outcome("f", 0, outcome(0))
        raise error
    assert store.outcomes("f") == [outcome(0)] and files(store) == []


def test_replay_writes_what_was_left_and_passes_over_a_torn_line(store: Store) -> None:
    lines = [["generations", generation(k)] for k in range(3)]
    first = "".join(json.dumps(line) + "\n" for line in lines)
    torn = json.dumps(["generations", generation(3)])
    store.path.with_name("s.duckdb.journal.1").write_text(first + torn[: len(torn) // 2])
    store.path.with_name("s.duckdb.journal.2").write_text(json.dumps(["generations", generation(4)]) + "\n")
    store.path.with_name("s.duckdb.journal.3").write_bytes(b"\0\0\xff\n[]\n{}\n")
    with Journal(store, every=60):
        assert len(store.generations([f"{k:032x}" for k in range(5)])) == 4
        assert files(store) == []


def test_replaying_twice_changes_nothing(store: Store) -> None:
    left = Journal(store, every=60)
    for k in range(5):
        left.append("generations", generation(k))
        left.outcome("f", k, outcome(k))
    left.outcome("f", 4, outcome(4, detail="later"))
    copies = {path: path.read_bytes() for path in files(store)}
    for _ in range(2):
        for path, content in copies.items():
            path.write_bytes(content)
        assert Journal(store).replay() == 11
        assert store.outcomes("f") == [*(outcome(k) for k in range(4)), outcome(4, detail="later")]
        assert store.query("SELECT count(*) AS n FROM generations") == [{"n": 5}]


def test_text_that_is_not_unicode_is_refused_alone(store: Store) -> None:
    with Journal(store, every=60) as journal:
        journal.append("generations", generation(1))
        with pytest.raises(RowError) as error:
            journal.append("generations", generation(2, text="half \ud83d"))
        assert error.value.reason == "invalid_text"
    assert store.query("SELECT count(*) AS n FROM generations") == [{"n": 1}]


def test_a_store_that_cannot_be_written_stops_the_run_and_keeps_the_rows(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("refinery.database.WRITE_PATIENCE", 0.1)
    code = "import duckdb, sys, time; c = duckdb.connect(sys.argv[1]); print(1, flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", code, str(store.path)], stdout=subprocess.PIPE)
    assert holder.stdout and holder.stdout.readline()
    with pytest.raises(UserError, match=f"process {holder.pid} has held the store"):
        with Journal(store, every=0.05) as journal:
            for k in range(1000):
                journal.outcome("f", k, outcome(k))
                time.sleep(0.05)
    holder.kill()
    holder.wait()
    assert files(store)
    with Journal(store):
        assert len(store.outcomes("f")) == k + 1


def test_what_is_new_is_written_without_a_search(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def generated(k: int, **more: object) -> dict[str, object]:
        return generation(k, digest=hashlib.md5(str(k).encode()).hexdigest(), **more)

    searched: list[str] = []
    delete = Store._delete

    def noted(self: Store, connection: Any, table: str, *rest: Any) -> None:
        searched.append(table)
        delete(self, connection, table, *rest)

    monkeypatch.setattr(Store, "_delete", noted)
    store.add_generations([generated(0)])
    with Journal(store, every=60) as journal:
        assert journal.may_be_stored("generations", str(generated(0)["digest"]))
        for k in (1, 2):
            journal.append("generations", generated(k))
            journal.outcome("f", k, outcome(k), new=True)
        journal.flush()
        assert searched == ["generations"]  # that of the store, before
        for k in (0, 2):
            journal.append("generations", generated(k, text="again"))
        journal.outcome("f", 2, outcome(2, detail="again"))
    assert searched == ["generations", "generations", "outcomes"]
    sql = "SELECT text FROM generations ORDER BY request"
    assert [row["text"] for row in store.query(sql)] == ["again", "t1", "again"]
    assert store.outcomes("f") == [outcome(1), outcome(2, detail="again")]


def test_what_another_process_cached_meanwhile_is_written_over(store: Store) -> None:
    """A preview beside a run asks what the run asks."""

    def generated(k: int, text: str) -> dict[str, object]:
        return generation(k, digest=hashlib.md5(str(k).encode()).hexdigest(), text=text)

    with Journal(store, every=60) as journal:
        for k in range(3):
            assert not journal.may_be_stored("generations", str(generated(k, "")["digest"]))
        Store(store.path).add_generations([generated(1, "preview's")])
        for k in range(3):
            journal.append("generations", generated(k, "run's"))
            journal.flush()
    assert store.query("SELECT text, count(*) AS n FROM generations GROUP BY text") == [{"text": "run's", "n": 3}]


def test_a_table_that_is_first_asked_for_while_another_is_written(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Store.count

    def late(self: Store, table: str) -> int:
        monkeypatch.setattr(Store, "count", real)
        assert not journal.may_be_stored("likelihoods", "0" * 32)
        return real(self, table)

    with Journal(store, every=60) as journal:
        assert not journal.may_be_stored("generations", "0" * 32)
        journal.append("generations", generation(1))
        monkeypatch.setattr(Store, "count", late)
        journal.flush()
        assert set(journal._counts) == {"generations", "likelihoods"}
    assert store.query("SELECT count(*) AS n FROM generations") == [{"n": 1}]


def test_after_a_write_that_failed_nothing_is_taken_for_new(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have failed after all was written."""
    real = Store.replace_all

    def fails(self: Store, parts: Any) -> None:
        real(self, parts)
        monkeypatch.setattr(Store, "replace_all", real)
        raise UserError("the disk was full for a moment")

    with Journal(store, every=60) as journal:
        journal.outcome("f", 0, outcome(0), new=True)
        monkeypatch.setattr(Store, "replace_all", fails)
        with pytest.raises(UserError):
            journal.flush()
        journal.outcome("f", 1, outcome(1), new=True)
    assert store.outcomes("f") == [outcome(0), outcome(1)]


RUN = """
import itertools, sys, time
from refinery.journal import Journal, _Digests
from refinery.records import Example, Outcome
from refinery.store import Store
sys.path.insert(0, "tests")
store = Store(sys.argv[1])
with store.run_lock(), Journal(store, every=0.1) as journal:
    print("ready", flush=True)
    for k in itertools.count(int(sys.argv[2])):
        example = Example(f"e{k}", [{"role": "user", "content": "q"}], "a", "r", meta={"n": k})
        journal.outcome("f", k, Outcome(f"e{k}", "kept", "ok", example))
        print(k, flush=True)
        time.sleep(0.001)
"""


def test_kill_9_loses_nothing_answered(store: Store) -> None:
    chance = random.Random(1)
    told = -1
    for _ in range(6):
        command = [sys.executable, "-c", RUN, str(store.path), str(told + 1)]
        run = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ})
        assert run.stdout and run.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0.02, 0.5))
        run.kill()
        told = max([told, *(int(line) for line in run.stdout.read().splitlines(True) if line.endswith("\n"))])
        run.wait()
    with store.run_lock(), Journal(store):
        found = store.outcomes("f")
    assert [each.example_id for each in found] == [f"e{k}" for k in range(len(found))]
    assert len(found) > told > 0
    with duckdb.connect(str(store.path), read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM outcomes").fetchone() == (len(found),)


def test_digests_are_found_however_many_there_are(monkeypatch):
    """Against a plain set, across many mergings."""
    monkeypatch.setattr(_Digests, "LATEST", 7)
    names = [hashlib.sha256(b"%d" % n).hexdigest() for n in range(600)]
    found = _Digests(names[:20])
    found.was_there(np.array([int(name[:16], 16) for name in names[20:100]], dtype=np.uint64))
    for name in names[100:400]:
        found.add(name)
    assert [name in found for name in names] == [True] * 400 + [False] * 200
