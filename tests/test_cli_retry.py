"""`refinery retry`: only what failed is asked, then what hangs on it."""

import pytest

from refinery.store import Store
from tests.cli_tools import call, project
from tests.models.server import serve

SPEC = """
name: small
models: {{self: {{backend: openai, model: writer, base_url: "{url}", retries: 0, timeout: 20}}}}
source: {{path: rows.jsonl, split: {{train: 1.0, validation: 0, test: 0}}}}
limits: {{failed: 1.0}}
graph:
  first: {{op: rewrite, from: source, prompt: "{{{{ question }}}} Known: {{{{ answer }}}}"}}
  second: {{op: rewrite, from: first, prompt: "Again: {{{{ response }}}}"}}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def waiting(step):
    steps = {each["name"]: each for each in call("status", "spec.yaml", "--json").json["steps"]}
    return steps[step]["to_retry"]


def outcomes(folder, step):
    store = Store(folder / "runs/small/refinery.duckdb")
    return {o.example_id: o for o in store.outcomes(store.last_step(step)["fingerprint"])}


def point_to(folder, url, rows=20):
    project(folder, url, rows, SPEC)


def test_only_failed_rows_are_asked_and_what_hangs_on_them(folder):
    with serve(answer="hash", error_every=4) as server:
        point_to(folder, server.url)
        call("run", "spec.yaml", "--stage", "refine")
        failed = {"first": waiting("first"), "second": waiting("second")}
        before = {step: outcomes(folder, step) for step in failed}
    assert failed["first"] == 5 and failed["second"] > 0  # the fell-back ones of first pass second unasked
    with serve(answer="hash", keep_bodies=1) as server:
        point_to(folder, server.url)  # an address is no part of what a step is
        done = call("retry", "spec.yaml")
        assert done.code == 0 and "first: 5 rows are asked again" in done.err
        stats = server.stats()
        assert stats["requests"] == failed["first"] * 2 + failed["second"]
        asked = [body["messages"][-1]["content"] for body in stats["bodies"]]
        broken = [o for o in before["first"].values() if o.transient]
        assert sum(text.startswith("What does") for text in asked) == len(broken) == 5
        for old in broken:
            assert any(text.startswith(old.example.question) for text in asked)
        again = call("retry", "spec.yaml")
        assert "nothing to retry" in again.err
        assert server.stats("/counts")["requests"] == stats["requests"]
    assert waiting("first") == waiting("second") == 0
    for step, old in before.items():
        now = outcomes(folder, step)
        touched = {i for i, o in old.items() if o.transient} | {o.example_id for o in broken}
        assert {i for i in old if now[i] != old[i]} <= touched


def test_other_reasons_are_retried_when_named(folder):
    with serve(answer="hash", garbage_every=4, garbage="not_json") as server:
        point_to(folder, server.url)
        call("run", "spec.yaml", "--stage", "refine", "--set", "limits.failed=1.0")
        assert waiting("first") == 0
        failed = [o for o in outcomes(folder, "first").values() if o.reason == "bad_response"]
    assert failed
    with serve(answer="hash") as server:
        point_to(folder, server.url)
        assert "nothing to retry" in call("retry", "spec.yaml").err
        assert server.stats("/counts")["requests"] == 0
        done = call("retry", "spec.yaml", "--reason", "bad_respons")
        assert (done.code, done.err.count("\n")) == (2, 1) and 'did you mean "bad_response"?' in done.err
        assert call("retry", "spec.yaml", "--reason", "bad_response").code == 0
        assert not [o for o in outcomes(folder, "first").values() if o.reason == "bad_response"]


def test_what_is_not_complete_is_left_to_run(folder):
    with serve(answer="hash") as server:
        point_to(folder, server.url)
        call("run", "spec.yaml", "--stage", "refine")
        asked = server.stats("/counts")["requests"]
        done = call("retry", "spec.yaml", "--set", "graph.second.temperature=0.1")
        assert "left to `refinery run`, not complete under this spec: second" in done.err
        assert server.stats("/counts")["requests"] == asked
    assert call("retry", "missing.yaml").code == 2


def test_before_any_run_it_says_so(folder):
    project(folder, "http://127.0.0.1:9/v1", spec=SPEC)
    done = call("retry", "spec.yaml")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert not (folder / "runs").exists()
