"""kill -9 at any moment: the same command goes on, asks again no more than was in flight, ends with the same rows."""

import collections
import json
import random
import subprocess
import sys
import time

import pytest

from refinery.graph import plan, step_fingerprints
from refinery.spec import load_spec
from refinery.store import Store
from tests.models.server import serve

CONCURRENCY = 16

SPEC = """
name: killed
models:
  writer: {backend: openai, model: writer, base_url: "URL", concurrency: 16, retries: 2}
  judge: {backend: openai, model: judge, base_url: "URL", concurrency: 16, retries: 2}
source:
  path: ROWS
  split: {train: 1.0, validation: 0, test: 0}
store: STORE
graph:
  rewritten: {op: rewrite, from: source, model: writer, prompt: "{{ question }} Rewrite {{ answer }}"}
  agrees: {op: check_answer, from: rewritten}
  fused:
    op: fuse
    from: agrees
    model: writer
    prompt: "{{ question }} Fuse {{ rewrite }} with {{ answer }}"
    rounds: 3
    judges: [{model: judge}, answer_agreement]
"""

REFINE = """
import sys
from refinery.graph import run_graph
from refinery.spec import load_spec
from refinery.store import Store
spec = load_spec(sys.argv[1])
results = run_graph(spec, Store(spec.store_path))
assert "torch" not in sys.modules
"""


def project(folder, url, rows):
    folder.mkdir()
    data = [{"question": f"What is number {n}?", "answer": f"It is word{n}"} for n in range(rows)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data))
    text = (
        SPEC.replace("URL", url).replace("ROWS", str(folder / "rows.jsonl")).replace("STORE", str(folder / "s.duckdb"))
    )
    (folder / "spec.yaml").write_text(text)
    return folder / "spec.yaml"


def refine(spec):
    return subprocess.Popen([sys.executable, "-c", REFINE, str(spec)], stderr=subprocess.PIPE, text=True)


def finish(process):
    _, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors


def kill_in(process, server, goal, delay):
    """Kill once the server has seen `goal` requests, after a further `delay` in seconds; False if it ended before."""
    while server.stats()["requests"] < goal and process.poll() is None:
        time.sleep(0.01)
    time.sleep(delay)
    process.kill()
    process.communicate()
    return process.returncode != 0


def asked(server):
    return collections.Counter(json.dumps(body, sort_keys=True) for body in server.stats()["bodies"])


def rows_of(path):
    spec = load_spec(path)
    store = Store(spec.store_path)
    return {name: store.outcomes(fingerprint) for name, fingerprint in step_fingerprints(spec, store).items()}


def killed_and_undisturbed(tmp_path, rows, kills, seed):
    """(times killed, requests of the undisturbed run, of the killed one); asserts that their rows are equal."""
    moments = random.Random(seed)
    options = {"latency": 0.05, "answer": "play", "keep_bodies": 1}
    with serve(**options) as server:
        calm = project(tmp_path / "calm", server.url, rows)
        finish(refine(calm))
        expected = asked(server)
    assert set(expected.values()) == {1}, "no request is sent twice"
    with serve(**options) as server:
        path = project(tmp_path / "killed", server.url, rows)
        hit = 0
        for _ in range(kills):
            ahead = moments.randrange(2 * expected.total() // (kills + 1))
            hit += kill_in(refine(path), server, server.stats()["requests"] + ahead, moments.uniform(0, 0.2))
        finish(refine(path))
        found = asked(server)
    assert found.keys() == expected.keys()
    assert rows_of(path) == rows_of(calm)
    spec = load_spec(path)
    assert {step.status for step in plan(spec, Store(spec.store_path))} == {"stands"}
    return hit, expected, found


def test_three_kills(tmp_path):
    hit, expected, found = killed_and_undisturbed(tmp_path, rows=60, kills=3, seed=1)
    assert found.total() - expected.total() <= hit * CONCURRENCY


@pytest.mark.slow
def test_twenty_kills(tmp_path):
    hit, expected, found = killed_and_undisturbed(tmp_path, rows=320, kills=20, seed=0)
    again = found.total() - expected.total()
    print(f"{hit} kills, {expected.total()} requests, {again} asked again, at most {hit * CONCURRENCY} were in flight")
    assert hit >= 10 and again <= hit * CONCURRENCY
    assert max(found.values()) <= 1 + hit
