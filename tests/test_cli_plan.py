"""`refinery plan` against what a run then asks, and its tokens and money by hand."""

import pytest

from tests.cli_tools import call, project
from tests.models.server import serve


@pytest.fixture(scope="module")
def server():
    with serve(answer="play") as running:
        yield running


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plan():
    done = call("plan", "spec.yaml", "--json")
    assert done.code == 0, done.err
    return done.json


def requests(server):
    return server.stats("/counts")["requests"]


def test_bounds_hold_what_is_then_asked(folder, server):
    project(folder, server.url)
    before = plan()
    steps = {step["name"]: step for step in before["steps"]}
    assert (steps["rewritten"]["at_least"], steps["rewritten"]["requests"]) == (40, 40)  # 2 samples, known
    assert steps["fused"]["at_least"] < steps["fused"]["requests"] <= 20 * 2 * 2
    assert before["total"]["tokens"] is None and steps["rewritten"]["estimate"]["measured"] == 0
    assert not (folder / "runs").exists()
    start = requests(server)
    call("run", "spec.yaml", "--stage", "refine")
    asked = requests(server) - start
    assert before["total"]["at_least"] <= asked <= before["total"]["requests"]
    after = plan()
    assert (after["total"]["requests"], after["total"]["tokens"]) == (0, 0)
    assert all(step["status"] == "stands" for step in after["steps"])


def test_tokens_and_cost_are_means_of_what_was_measured(folder, server):
    """The server counts 10 tokens a prompt and one a word: 3 words for each answer of the writer."""
    spec = """
models: {{self: {{backend: openai, model: writer, base_url: "{url}", price: {{input: 2.0, output: 10.0}}}}}}
source: {{path: rows.jsonl, split: {{train: 1.0, validation: 0, test: 0}}}}
graph:
  rewritten: {{op: rewrite, from: source, samples: 2, prompt: "{{{{ question }}}}"}}
"""
    project(folder, server.url, spec=spec)
    first = call("plan", "spec.yaml")
    assert "unknown" in first.out and "refinery preview" in first.out
    assert call("preview", "spec.yaml", "-n", "5").code == 0
    step = plan()["steps"][1]
    assert (step["requests"], step["at_least"], step["answered"]) == (30, 30, 10)
    found = step["estimate"]
    assert (found["measured"], found["prompt_tokens"], found["completion_tokens"]) == (10, 300, 90)
    assert found["cost"] == found["low_cost"] == pytest.approx((300 * 2 + 90 * 10) / 1e6)
    assert plan()["total"]["cost"] == found["cost"]
    assert "0.0015" in call("plan", "spec.yaml").out


def test_a_total_that_is_partly_unknown_is_unknown(folder, server):
    project(folder, server.url)
    call("preview", "spec.yaml", "-n", "3", "--set", "graph.fused.judges=[answer_agreement]")
    found = plan()
    assert found["total"]["tokens"] is not None  # the writer's own answers stand in for a judge not asked yet
    assert found["total"]["cost"] is None  # no price
    assert "cost" not in call("plan", "spec.yaml").out
