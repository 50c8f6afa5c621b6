"""kill -9 at any moment: the same command goes on, asks again no more than was in flight, ends with the same rows."""

import collections
import contextlib
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

CONCURRENCY = 32
"""Of both models together: what may be on the wire when the process is killed."""

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
    """Kill once the server has seen `goal` requests, after a further `delay` in seconds."""
    while server.stats("/counts")["requests"] < goal and process.poll() is None:
        time.sleep(0.01)
    time.sleep(delay)
    process.kill()
    process.communicate()
    assert process.returncode, "it ended before it was killed"


def recorded(path):
    """Digests of the answers that a killed run left, in its store and its journal; a torn last line is none."""
    store = load_spec(path).store_path
    found = {row["digest"] for row in Store(store).query("SELECT digest FROM generations")} if store.exists() else set()
    for file in store.parent.glob(f"{store.name}.journal.*"):
        for line in file.read_text().splitlines():
            with contextlib.suppress(ValueError):
                table, row = json.loads(line)
                found |= {row["digest"]} if table == "generations" else set()
    return found


def asked(server):
    return collections.Counter(json.dumps(body, sort_keys=True) for body in server.stats()["bodies"])


def rows_of(path):
    spec = load_spec(path)
    store = Store(spec.store_path)
    return {name: store.outcomes(fingerprint) for name, fingerprint in step_fingerprints(spec, store).items()}


def lost_to_kills(tmp_path, rows, kills, seed):
    """(requests of an undisturbed run, how many of a killed one's were lost to each kill); their rows are equal.

    Lost is what the server had been asked and the killed run had not recorded: that, and no more, is asked again.
    """
    moments = random.Random(seed)
    options = {"latency": 0.05, "answer": "play", "keep_bodies": 1}
    with serve(**options) as server:
        calm = project(tmp_path / "calm", server.url, rows)
        finish(refine(calm))
        expected = asked(server)
    assert set(expected.values()) == {1}, "no request is sent twice"
    lost = []
    with serve(**options) as server:
        path = project(tmp_path / "killed", server.url, rows)
        for _ in range(kills):
            goal = server.stats("/counts")["requests"] + moments.randrange(7 * expected.total() // (5 * kills))
            kill_in(refine(path), server, goal, moments.uniform(0, 0.05))
            lost.append(server.stats("/counts")["requests"] - len(recorded(path)) - sum(lost))
        finish(refine(path))
        found = asked(server)
    assert found.keys() == expected.keys()
    assert found.total() - expected.total() == sum(lost), "nothing recorded is asked again"
    assert rows_of(path) == rows_of(calm)
    spec = load_spec(path)
    assert {step.status for step in plan(spec, Store(spec.store_path))} == {"stands"}
    return expected.total(), lost


def test_three_kills(tmp_path):
    _, lost = lost_to_kills(tmp_path, rows=60, kills=3, seed=1)
    assert max(lost) <= CONCURRENCY


@pytest.mark.slow
def test_twenty_kills(tmp_path):
    requests, lost = lost_to_kills(tmp_path, rows=320, kills=20, seed=0)
    print(f"{requests} requests, {sum(lost)} asked again; lost to each kill: {lost}")
    assert max(lost) <= CONCURRENCY
