"""The store: layout, typed round trips, sharing a file between processes, and failures told in one line."""

import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import duckdb
import numpy as np
import pytest

import refinery.database
from refinery import migrations
from refinery.errors import UserError
from refinery.records import Example, Outcome, Sample, Score
from refinery.rows import from_json
from refinery.store import Store

ROOT = Path(__file__).parent.parent

LAYOUT = """
cells: point keys method seed checkpoint status error
checkpoints: fingerprint run_id name method role seed params data_fingerprint base path status manifest started_at finished_at
diagnostics: step family name value n low high detail against
embeddings: encoder text vector
examples: body prompt answer split parents meta
generations: digest model request max_tokens text finish_reason prompt_tokens completion_tokens created_at
likelihoods: digest model request logprobs created_at
migrations: name applied_at
names: name step
outcomes: step position example_id action reason detail transient scores body response candidates fell_back split as_given
preferences: step against example_id rater kind first choice texts model created_at
readings: key fingerprint
runs: id name spec spec_digest versions status started_at finished_at
samples: checkpoint benchmark metric item value prompt target response fingerprint
scores: checkpoint benchmark metric value low high n fingerprint higher_is_better settings
steps: fingerprint run_id name op version params upstream models status started_at finished_at
training_metrics: checkpoint step name value
"""  # noqa: E501


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "runs" / "a" / "store.duckdb")


def example(number: int, **more: object) -> Example:
    values = {
        "id": f"e{number}",
        "prompt": [{"role": "user", "content": f"q{number} ünï \0 {'{'}"}],
        "answer": f"a{number}",
        "response": f"r{number}",
        "candidates": ("x", "y"),
        "parents": ("p",),
        "meta": {"case": number, "nested": {"deep": [1, None, "é"]}},
    }
    return Example(**{**values, **more})  # type: ignore[arg-type]


def kept(number: int, **more: object) -> Outcome:
    return Outcome(f"e{number}", "kept", "ok", example(number, **more), {"cosine": 0.5, "all": [0.5, 0.25]}, "why")


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


# ---- layout


def described(path: Path) -> tuple[dict[str, list[str]], list[str]]:
    """(columns of each table, places without a comment)."""
    with duckdb.connect(str(path), read_only=True) as connection:
        tables = connection.execute("SELECT table_name, comment FROM duckdb_tables()").fetchall()
        columns = connection.execute(
            "SELECT table_name, column_name, comment FROM duckdb_columns() WHERE NOT internal ORDER BY column_index"
        ).fetchall()
        indexes = connection.execute("SELECT count(*) FROM duckdb_indexes()").fetchone()
    assert indexes == (0,)
    found: dict[str, list[str]] = {table: [] for table, _ in sorted(tables)}
    for table, column, _ in columns:
        found[table].append(column)
    bare = [table for table, comment in tables if not comment]
    return found, bare + [f"{table}.{column}" for table, column, comment in columns if not comment]


def test_final_layout_is_pinned_and_every_column_is_described(store: Store) -> None:
    layout, bare = described(store.path)
    assert "\n".join(f"{table}: {' '.join(columns)}" for table, columns in layout.items()) == LAYOUT.strip()
    assert bare == []


def test_a_store_of_the_first_layout_is_brought_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def later(connection: object) -> None:
        connection.execute("ALTER TABLE runs ADD COLUMN machine VARCHAR")  # type: ignore[attr-defined]
        connection.execute("COMMENT ON COLUMN runs.machine IS 'Where it ran.'")  # type: ignore[attr-defined]

    path = tmp_path / "s.duckdb"
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "MIGRATIONS", migrations.MIGRATIONS[:1])
        run = Store(path).start_run("a", "x", "d", {})
    monkeypatch.setattr(migrations, "MIGRATIONS", [*migrations.MIGRATIONS, later])
    upgraded = Store(path)
    assert upgraded.runs()[0]["id"] == run
    assert upgraded.runs()[0]["machine"] is None
    names = [migration.__name__ for migration in migrations.MIGRATIONS]
    assert [row["name"] for row in upgraded.query("SELECT name FROM migrations ORDER BY applied_at")] == names
    assert described(path)[1] == []


def test_in_an_older_store_a_name_stands_for_the_step_that_was_made_last(store: Store) -> None:
    for fingerprint in ("first", "second"):
        store.start_step(fingerprint, "r", "close", "semantic_filter", 1, {}, [], {})
    with duckdb.connect(str(store.path)) as connection:
        connection.execute("DROP TABLE names; DELETE FROM migrations WHERE name = 'names'")
    upgraded = Store(store.path)
    assert [(row["name"], row["fingerprint"]) for row in upgraded.last_steps()] == [("close", "second")]
    upgraded.name_step("close", "first")
    last = upgraded.last_step("close")
    assert last is not None and last["fingerprint"] == "first"


def test_in_an_older_store_rows_that_go_on_are_counted_anew(store: Store) -> None:
    dropped = Outcome("e3", "dropped", "below_threshold", None)
    given = [kept(0), kept(1, split="test"), kept(2, response="its answer", answer="its answer"), dropped]
    store.add_outcomes("f", list(enumerate(given)))
    sql = "SELECT split, as_given FROM outcomes ORDER BY position"
    wanted = [("train", False), ("test", False), ("train", True), (None, None)]
    assert [(row["split"], row["as_given"]) for row in store.query(sql)] == wanted
    with duckdb.connect(str(store.path)) as connection:
        for column in ("split", "as_given"):
            connection.execute(f"ALTER TABLE outcomes DROP COLUMN {column}")
        connection.execute("DELETE FROM migrations WHERE name = 'passed'")
    upgraded = Store(store.path)
    assert [(row["split"], row["as_given"]) for row in upgraded.query(sql)] == wanted
    assert upgraded.outcomes("f") == given


def test_under_a_run_of_an_older_version_the_layout_stays(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def later(connection: object) -> None:
        connection.execute("ALTER TABLE runs ADD COLUMN machine VARCHAR")  # type: ignore[attr-defined]

    with monkeypatch.context() as patch, store.run_lock():
        patch.setattr(migrations, "MIGRATIONS", [*migrations.MIGRATIONS, later])
        with pytest.raises(UserError, match="in use by another run"):
            Store(store.path)
    assert "machine" not in described(store.path)[0]["runs"]


def test_a_failed_migration_leaves_the_store_as_it_was(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(connection: object) -> None:
        connection.execute("CREATE TABLE half (a INTEGER)")  # type: ignore[attr-defined]
        raise RuntimeError("stop")

    monkeypatch.setattr(migrations, "MIGRATIONS", [*migrations.MIGRATIONS, broken])
    with pytest.raises(RuntimeError, match="stop"):
        Store(store.path)
    assert "half" not in described(store.path)[0]


# ---- round trips


def test_runs_and_steps(store: Store) -> None:
    run = store.start_run("lab", "name: lab", "abc", {"python": "3.11", "cores": 2})
    store.start_step("f1", run, "close", "semantic_filter", 3, {"min": 0.8}, ["f0"], {"self": "weights:1"})
    step = store.step("f1")
    assert step and step["params"] == {"min": 0.8} and step["upstream"] == ["f0"] and step["status"] == "running"
    store.finish_step("f1")
    assert (store.step("f1") or {})["status"] == "complete"
    store.start_step("f2", run, "close", "semantic_filter", 3, {"min": 0.7}, ["f0"], {})
    assert (store.last_step("close") or {})["params"] == {"min": 0.7}
    assert store.step("none") is None and store.last_step("none") is None
    store.finish_run(run, "complete")
    assert store.runs()[0]["status"] == "complete" and store.runs()[0]["versions"] == {"python": "3.11", "cores": 2}


def test_outcomes_come_back_equal_and_in_order(store: Store) -> None:
    dropped = Outcome("e2", "dropped", "below_threshold", None, {}, "", True)
    given = [kept(0), kept(1, fell_back=True, split="test", candidates=(), parents=()), dropped, kept(3)]
    shuffled = list(enumerate(given))
    random.Random(0).shuffle(shuffled)
    store.add_outcomes("f", shuffled[:2])
    store.add_outcomes("f", shuffled[2:])
    assert store.outcomes("f") == given
    assert store.examples("f") == [outcome.example for outcome in given if outcome.example]
    assert store.funnel("f") == [
        {"action": "dropped", "reason": "below_threshold", "transient": True, "n": 1},
        {"action": "kept", "reason": "ok", "transient": False, "n": 3},
    ]


def test_memory_does_not_grow_with_the_data_set(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(refinery.database.ENGINE, "memory_limit", "60MB")
    chance = random.Random(0)
    texts = ["".join(chance.choices("abcdefghijklmnop", k=5000)) for _ in range(50)]
    given = [(k, kept(k, answer=f"{k} {chance.choice(texts)}", candidates=())) for k in range(15_000)]
    store.add_outcomes("f", given)
    assert store.query("SELECT current_setting('threads') AS n") == [{"n": 2}]
    assert store.outcomes("f") == [each for _, each in given]


def test_an_outcome_written_again_replaces_the_first(store: Store) -> None:
    store.add_outcomes("f", [(0, kept(0)), (1, Outcome("e1", "dropped", "server_error", None, transient=True))])
    store.add_outcomes("f", [(1, kept(1))])
    store.add_outcomes("g", [(0, kept(1))])
    assert store.outcomes("f") == [kept(0), kept(1)]
    store.delete_outcomes("f", ["e0"])
    assert store.outcomes("f") == [kept(1)] and store.outcomes("g") == [kept(1)]


def test_a_body_is_stored_once_however_many_steps_it_passed(store: Store) -> None:
    for step in ("a", "b", "c"):
        store.add_outcomes(step, [(i, kept(i, response=step)) for i in range(10)])
    assert store.query("SELECT count(*) AS n FROM examples") == [{"n": 10}]
    assert [outcome.example.response for outcome in store.outcomes("b") if outcome.example] == ["b"] * 10


def test_bodies_that_were_taken_back_or_written_by_others_are_known(store: Store) -> None:
    def bodies() -> list[int]:
        return [row["n"] for row in store.query("SELECT count(*) AS n FROM examples GROUP BY body ORDER BY n")]

    with pytest.raises(RuntimeError), store.together():
        store.add_outcomes("a", [(i, kept(i)) for i in range(5)])
        raise RuntimeError
    store.add_outcomes("a", [(i, kept(i)) for i in range(3)])
    assert bodies() == [1] * 3 and store.outcomes("a") == [kept(i) for i in range(3)]
    Store(store.path).add_outcomes("b", [(i, kept(i)) for i in range(6)])
    with store.together():
        for part in (range(6, 7), range(8)):
            store.add_outcomes("d", [(i, kept(i)) for i in part])
    store.add_outcomes("c", [(i, kept(i)) for i in range(8)])
    assert bodies() == [1] * 8 and store.outcomes("c") == [kept(i) for i in range(8)]


def test_rows_that_are_written_while_a_step_is_read_are_read_whole(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("refinery.store.READ_PAGE", 3)
    store.add_outcomes("f", [(i, kept(i)) for i in range(3, 12) if i % 3])
    reading = store.stream("f")
    found = [next(reading)]
    store.add_outcomes("f", [(i, kept(i)) for i in range(12) if not i % 3])
    found += reading
    assert found == [(i, kept(i)) for i in (4, 5, 7, 8, 9, 10, 11)]


@pytest.mark.parametrize("text", ["1e400", "123456789012345678901", '{"a": [-9223372036854775809, 0.5]}', '"\\ud83d"'])
def test_json_comes_back_as_the_standard_library_has_it(text: str) -> None:
    for each in (text, f"[{text}, 1, null, true]", f'{{"é": {text}}}'):
        assert from_json(each) == json.loads(each)


def test_lineage_follows_one_example_through_its_steps(store: Store) -> None:
    for number, step in enumerate(("source", "rewritten", "close")):
        store.start_step(f"f{number}", "r", step, "op", 1, {}, [], {})
        store.add_outcomes(f"f{number}", [(i, kept(i, response=step)) for i in range(3)])
    found = store.lineage("e1")
    assert [(step["name"], outcome.example.response) for step, outcome in found if outcome.example] == [
        ("source", "source"), ("rewritten", "rewritten"), ("close", "close")
    ]  # fmt: skip


def test_numbers_json_lacks_become_null_in_json_and_stay_in_columns(store: Store) -> None:
    nan, infinite = float("nan"), float("inf")
    store.add_outcomes("f", [(0, Outcome("e0", "kept", "ok", example(0), {"a": nan, "b": [infinite, 1.0]}))])
    assert store.outcomes("f")[0].scores == {"a": None, "b": [None, 1.0]}
    store.add_scores([Score("c", "b", "m", 0.5, nan, 0.6, 10, "f")])
    assert np.isnan(store.scores()[0].low)


def generation(name: str, **more: object) -> dict[str, object]:
    row = {"digest": name, "model": "m", "request": {"messages": []}, "max_tokens": 8, "text": "t"}
    row |= {"finish_reason": "stop", "prompt_tokens": 1, "completion_tokens": 2, "created_at": "2026-01-02T03:04:05"}
    return {**row, **more}


def test_generations_and_likelihoods(store: Store) -> None:
    names = [f"{number:032x}" for number in range(1, 200)]
    store.add_generations([generation(name, text=name) for name in names])
    store.add_generations([generation(names[0], max_tokens=16, text="longer"), generation(names[1], text="again")])
    found = store.generations([names[0], names[1], names[2], "f" * 32])
    assert sorted(row["text"] for row in found[names[0]]) == sorted([names[0], "longer"])
    assert [row["text"] for row in found[names[1]]] == ["again"]
    assert set(found) == set(names[:3]) and store.generations([]) == {}
    assert sorted(store.known("generations").tolist()) == sorted([int(name[:16], 16) for name in [*names, names[0]]])
    row = {"digest": names[0], "model": "m", "request": {}, "logprobs": [-0.1, -2.5], "created_at": "2026-01-02"}
    store.add_likelihoods([row])
    assert store.likelihoods(names[:2]) == {names[0]: {"digest": names[0], "logprobs": [-0.1, -2.5]}}


def test_checkpoints_and_training_metrics(store: Store) -> None:
    store.start_checkpoint("c1", "r1", "sft", "sft", {"epochs": 3}, 1, "f1", "weights:1", "runs/a/c1", "final")
    store.finish_checkpoint("c1", {"files": ["a"], "loss": 0.5})
    store.start_checkpoint("c2", "r2", "raft", "raft", {}, 0, "f1", "weights:1", "runs/a/c2", "tuning")
    assert (store.checkpoint("c1") or {})["manifest"] == {"files": ["a"], "loss": 0.5}
    assert [row["fingerprint"] for row in store.checkpoints()] == ["c1", "c2"]
    assert [row["status"] for row in store.checkpoints("r2")] == ["running"]
    store.add_training_metrics("c1", [(1, "loss", 2.0), (2, "loss", 1.0)])
    store.add_training_metrics("c1", [(2, "loss", 1.5), (3, "loss", 0.5)])
    assert [(row["step"], row["value"]) for row in store.training_metrics("c1")] == [(1, 2.0), (2, 1.5), (3, 0.5)]


def test_scores_samples_and_diagnostics(store: Store) -> None:
    score = Score("c", "b", "accuracy", 0.5, 0.4, 0.6, 100, "f", True, {"limit": None})
    store.add_scores([score, Score("c", "b2", "accuracy", 0.1, 0.0, 0.2, 50, "f")])
    store.add_scores([score])
    assert store.scores(benchmark="b") == [score] and len(store.scores("c")) == 2 and store.scores("d") == []
    sample = Sample("c", "b", "accuracy", "i1", 1.0, "p", "t", "r", "f")
    store.add_samples([sample, Sample("c", "b", "accuracy", "i2", 0.0, "p", "t", "r", "f")])
    store.add_samples([sample])
    assert [each.item for each in store.samples("c", "b")] == ["i1", "i2"] and store.samples("c")[0] == sample
    row = {"family": "length", "name": "words", "value": 3.0, "n": 9, "low": None, "high": None, "detail": {"p": [1]}}
    store.add_diagnostics("f", [row])
    store.add_diagnostics("f", [row])
    assert store.diagnostics("f") == [row]


def test_nothing_to_write_opens_nothing(store: Store) -> None:
    store.path.chmod(0o444)
    store.add_outcomes("f", [])
    store.add_generations([])
    store.add_scores([])


# ---- sharing


def test_many_threads_of_one_process_take_turns(store: Store) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for k in range(4):
                store.add_outcomes(f"f{number}", [(k, kept(k))])
                assert len(store.outcomes(f"f{number}")) == k + 1
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


WRITER = """
import sys, time
from refinery.store import Store
from refinery.records import Outcome
store = Store(sys.argv[1])
print("ready", flush=True)
for k in range(1000):
    store.add_outcomes("f", [(k, Outcome(f"e{k}", "dropped", "ok", None))])
    time.sleep(0.02)
"""

HOLDER = """
import sys, time, duckdb
connection = duckdb.connect(sys.argv[1])
print("ready", flush=True)
time.sleep(float(sys.argv[2]))
"""

LOCKER = """
import sys, time
from refinery.store import Store
with Store(sys.argv[1]).run_lock():
    print("ready", flush=True)
    time.sleep(60)
"""


def started(code: str, *arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", code, *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout and process.stdout.readline() == "ready\n"
    return process


def test_a_reader_works_while_another_process_writes(store: Store) -> None:
    with started(WRITER, store.path) as writer:
        try:
            counts = []
            while len(counts) < 10:
                counts.append(len(Store(store.path, read_only=True).outcomes("f")))
                time.sleep(0.05)
        finally:
            writer.kill()
    assert counts == sorted(counts) and counts[-1] > counts[0]


def test_a_short_hold_is_waited_out_and_a_long_one_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with started(HOLDER, store.path, 0.7):
        assert store.runs() == []
    monkeypatch.setattr("refinery.database.READ_PATIENCE", 0.2)
    with started(HOLDER, store.path, 60) as holder:
        with pytest.raises(UserError) as error:
            store.runs()
        assert re.search(rf"process {holder.pid} has held the store for", one_line(error))
        holder.kill()
    assert store.runs() == []


def test_the_second_run_is_told_who_holds_the_store_until_kill_9(store: Store) -> None:
    with started(LOCKER, store.path) as locker:
        with pytest.raises(UserError) as error, store.run_lock():
            pass
        assert re.search(
            rf"store.duckdb is in use by another run \(pid {locker.pid}, started \d{{4}}-.* UTC\)", one_line(error)
        )
        assert store.runs() == []  # the lock is between runs: readers do not mind it
        locker.kill()
    with store.run_lock(), pytest.raises(UserError, match=f"pid {os.getpid()}"), store.run_lock():
        pass
    with store.run_lock():
        pass


def test_kill_9_while_writing_leaves_a_store_that_opens(store: Store) -> None:
    for delay in (0.05, 0.11, 0.17):
        with started(WRITER, store.path) as writer:
            time.sleep(delay)
            writer.kill()
        outcomes = store.outcomes("f")
        assert [outcome.example_id for outcome in outcomes] == [f"e{k}" for k in range(len(outcomes))]
    store.add_outcomes("g", [(0, kept(0))])
    assert store.outcomes("g") == [kept(0)]


# ---- failures, in one line


def test_a_missing_store_is_only_made_by_a_writer(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        Store(tmp_path / "none.duckdb", read_only=True)
    assert "there is no store here yet" in one_line(error)
    assert not (tmp_path / "none.duckdb").exists()


def test_read_only_refuses_writes(store: Store) -> None:
    with pytest.raises(UserError, match="read only"):
        Store(store.path, read_only=True).add_outcomes("f", [(0, kept(0))])


def test_other_files_are_not_taken_for_a_store(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("hello " * 1000)
    with pytest.raises(UserError) as error:
        Store(text)
    assert "not a DuckDB file" in one_line(error)
    assert text.read_text() == "hello " * 1000
    other = tmp_path / "other.duckdb"
    with duckdb.connect(str(other)) as connection:
        connection.execute("CREATE TABLE sales (a INTEGER)")
    with pytest.raises(UserError) as error:
        Store(other)
    assert "not a Refinery store (it holds a table 'sales')" in one_line(error)
    with pytest.raises(UserError) as error:
        Store(tmp_path)
    assert str(tmp_path) in one_line(error)


def test_a_newer_store_is_refused(store: Store) -> None:
    with duckdb.connect(str(store.path)) as connection:
        connection.execute("INSERT INTO migrations VALUES ('far_future', now()::TIMESTAMP)")
    with pytest.raises(UserError) as error:
        Store(store.path)
    assert "newer Refinery (its layout has 'far_future'); upgrade Refinery" in one_line(error)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError) as error:
        Store(tmp_path / "file" / "sub" / "s.duckdb")
    assert "cannot make the folder" in one_line(error)
    with pytest.raises(UserError) as error:
        Store("/proc/s.duckdb")
    assert "/proc/s.duckdb" in one_line(error)


def test_a_full_disk_is_one_line_and_loses_nothing_written(store: Store) -> None:
    code = f"""
import resource, signal, sys
from refinery.store import Store
from refinery.records import Outcome
store = Store({str(store.path)!r})
store.add_outcomes("f", [(0, Outcome("e0", "dropped", "ok", None))])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
size = store.path.stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
import random
text = "".join(random.choices("abcdefgh", k=3_000_000))
store.add_outcomes("f", [(1, Outcome("e1", "dropped", "ok", None, {{}}, text))])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "refinery.errors.UserError" in done.stderr.splitlines()[-1], done.stderr
    assert [outcome.example_id for outcome in store.outcomes("f")] == ["e0"]


def test_text_that_is_not_unicode_is_refused_and_nothing_of_its_batch_written(store: Store) -> None:
    for bad in (
        kept(1, response="half \ud83d"),
        kept(1, meta={"x": ["\udc00"]}),
        Outcome("\ud800", "kept", "ok", None),
    ):
        with pytest.raises(UserError) as error:
            store.add_outcomes("f", [(0, kept(0)), (1, bad)])
        assert "not valid Unicode" in one_line(error)
    assert store.outcomes("f") == []


def test_meta_of_any_type_is_stored_as_text(store: Store) -> None:
    store.add_outcomes("f", [(0, kept(0, meta={"path": Path("a/b"), "big": 2**70}))])
    stored = store.outcomes("f")[0].example
    assert stored and stored.meta == {"path": "a/b", "big": 2**70}
    assert json.dumps(stored.meta)


def test_another_engine_of_this_process_that_is_slow_to_let_go_is_waited_for(tmp_path):
    store = Store(tmp_path / "s.duckdb")
    slow = duckdb.connect()
    slow.execute(f"ATTACH '{tmp_path}/s.duckdb' AS store")
    with pytest.raises(duckdb.Error, match="already attached"):
        duckdb.connect().execute(f"ATTACH '{tmp_path}/s.duckdb' AS store")
    threading.Timer(0.3, slow.close).start()
    assert store.query("SELECT count(*) AS n FROM runs") == [{"n": 0}]


def test_scores_come_in_the_order_of_writing(store: Store) -> None:
    """Against a list: of what is written again each time, over many openings of the file."""
    rng = np.random.default_rng(0)
    written: list[tuple[str, str]] = []
    for _ in range(300):
        made = sorted({(str(rng.choice(["m", "n"])), str(rng.integers(6))) for _ in range(rng.integers(1, 4))})
        store.add_scores([Score("c", "b", metric, 0.5, 0.4, 0.6, 9, fingerprint) for metric, fingerprint in made])
        written = [each for each in written if each not in made] + made
    assert [(score.metric, score.fingerprint) for score in Store(store.path).scores("c", "b")] == written
