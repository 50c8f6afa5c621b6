"""The writing ops through the whole graph against a server: what it was asked, and that the bounds are what it saw."""

import json

import pytest

from refinery import catalog
from refinery.graph import run_graph
from refinery.spec import load_spec
from refinery.store import Store
from tests.models.server import serve

ROWS = 6
SPEC = """
models:
  self: {{backend: openai, model: writer, base_url: "{url}"}}
  judge: {{backend: openai, model: judge, base_url: "{url}"}}
source: {{path: "{rows}", split: {{train: 1.0, validation: 0, test: 0}}}}
store: "{store}"
graph:
  step: {step}
"""

STEPS = {
    "generate": "{op: generate, from: source, samples: 3}",
    "rewrite": "{op: rewrite, from: source, preset: sdft2024_gsm8k, samples: 2}",
    "judge": "{op: judge, from: source, judges: [judge], rubric: {truth: is it true}, scale: [0, 1], most: 1, "
    'prompt: "truth {{ candidate }}"}',
    "demonstrate": "{op: demonstrate, from: source, tries: 5, batch: 2, of: nowhere}",
    "self_first": "{op: self_first, from: source, stages: [self, guided, paraphrase], samples: 2, "
    "judge: {model: judge}, min_score: 1}",
    "pick": "{op: fuse, from: source, rule: pick, by: judge, judges: [{model: judge}], most: 1}",
    "concatenate": "{op: fuse, from: source, rule: concatenate, cut: nothing}",
    "template": '{op: fuse, from: source, rule: template, text: "{{ answer }} for {{ question }}"}',
}


def refine(folder, url, step):
    lines = [json.dumps({"question": f"What is number {n}?", "answer": f"It is {n}"}) for n in range(ROWS)]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    text = SPEC.format(url=url, rows=folder / "rows.jsonl", store=folder / "s.duckdb", step=step)
    (folder / "spec.yaml").write_text(text)
    spec = load_spec(folder / "spec.yaml")
    store = Store(spec.store_path)
    return spec, run_graph(spec, store)["step"], store


@pytest.mark.parametrize("name", STEPS)
def test_the_bound_is_what_the_server_saw_and_nothing_is_asked_twice(tmp_path, name):
    with serve(answer="play") as server:
        spec, result, _ = refine(tmp_path, server.url, STEPS[name])
        step = spec.graph["step"]
        bound = catalog.module(catalog.OPS, step.op).requests(step.params)
        assert server.stats()["requests"] == bound * ROWS
        assert result.rows == sum(result.counts.values()) == ROWS
        again = refine(tmp_path, server.url, STEPS[name])[1]
        assert (again.ran, server.stats()["requests"]) == (0, bound * ROWS)


def test_first_words_go_to_the_server_as_a_turn_to_continue(tmp_path):
    with serve(keep_bodies=1) as server:
        _, result, store = refine(tmp_path, server.url, STEPS["rewrite"])
        bodies = server.stats()["bodies"]
        outcome = next(iter(store.outcomes(result.fingerprint)))
    turns = bodies[0]["messages"]
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant"]
    assert (bodies[0]["continue_final_message"], bodies[0]["add_generation_prompt"]) == (True, False)
    assert outcome.example.response.startswith(turns[-1]["content"] + "answer ")


def test_a_schema_goes_to_the_server_and_what_does_not_follow_it_is_refused(tmp_path):
    step = "{op: generate, from: source, json_schema: {type: object, required: [city]}}"
    with serve(keep_bodies=1) as server:
        result = refine(tmp_path, server.url, step)[1]
        sent = server.stats()["bodies"][0]["response_format"]
    assert sent["type"] == "json_schema" and sent["json_schema"]["schema"]["required"] == ["city"]
    assert result.counts == {("fell_back", "bad_json"): ROWS}


def test_a_judge_that_answers_without_the_criterion_is_unknown(tmp_path):
    """The server's judge gives a bare number, which belongs to no criterion."""
    with serve(answer="play") as server:
        result = refine(tmp_path, server.url, STEPS["judge"])[1]
    assert result.counts == {("kept", "no_judge_score"): ROWS}
    assert result.failed == {"no_judge_score": ROWS}
