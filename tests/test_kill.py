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
from tests.accounts import check_accounts
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
  clean: {op: deduplicate, from: fused, min_cosine: null}
  asked:
    op: questions
    from: clean
    model: writer
    kinds: [direct]
    n: 2
    form: lines
    text: "{{ question }} {{ response }}"
  written: {op: generate, from: asked, model: writer, prompt: "{{ question }} In short"}
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
    """Kill once the server has seen `goal` requests, after a further `delay` in seconds; False where the run ended
    before that."""
    while server.stats("/counts")["requests"] < goal and process.poll() is None:
        time.sleep(0.01)
    time.sleep(delay)
    process.kill()
    process.communicate()
    return process.returncode != 0


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


def under_way(path):
    """Names of the steps that a killed run left unfinished."""
    return {
        row["name"] for row in Store(load_spec(path).store_path).query("SELECT * FROM steps WHERE status = 'running'")
    }


def asked(server):
    return collections.Counter(json.dumps(body, sort_keys=True) for body in server.stats()["bodies"])


def rows_of(path):
    spec = load_spec(path)
    store = Store(spec.store_path)
    return {name: store.outcomes(fingerprint) for name, fingerprint in step_fingerprints(spec, store).items()}


def lost_to_kills(tmp_path, rows, kills, seed):
    """(requests of an undisturbed run, how many of a killed one's were lost to each kill, the steps in which it was
    killed); their rows are equal.

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
        steps = set()
        while len(lost) < kills:
            left = expected.total() - (len(recorded(path)) if lost else 0)
            step = moments.randrange(2 * left // (kills - len(lost)) + CONCURRENCY // 2)
            goal = server.stats("/counts")["requests"] + step
            if not kill_in(refine(path), server, goal, moments.choice([0, 0.05, 0.3]) * moments.random()):
                break
            lost.append(server.stats("/counts")["requests"] - len(recorded(path)) - sum(lost))
            steps |= under_way(path)
        finish(refine(path))
        found = asked(server)
    assert found.keys() == expected.keys()
    assert found.total() - expected.total() == sum(lost), "nothing recorded is asked again"
    assert rows_of(path) == rows_of(calm)
    spec = load_spec(path)
    check_accounts(spec, Store(spec.store_path))
    assert {step.status for step in plan(spec, Store(spec.store_path))} == {"stands"}
    return expected.total(), lost, steps


def test_three_kills(tmp_path):
    _, lost, _ = lost_to_kills(tmp_path, rows=40, kills=3, seed=1)
    assert lost and max(lost) <= CONCURRENCY


@pytest.mark.slow
def test_fifty_kills(tmp_path):
    requests, lost, steps = lost_to_kills(tmp_path, rows=300, kills=50, seed=0)
    print(f"{requests} requests, {len(lost)} kills, {sum(lost)} asked again; lost to each: {lost}; in {sorted(steps)}")
    assert len(lost) >= 40 and max(lost) <= CONCURRENCY
    assert steps >= {"rewritten", "fused", "asked", "written"}
