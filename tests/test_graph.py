"""The graph, with models that count what they are asked. No network, no weights."""

import asyncio
import json
import zlib
from collections import Counter

import numpy as np
import pytest

from refinery import models, services
from refinery.errors import RowError, UserError
from refinery.graph import data_fingerprint, plan, run_graph, stands, step_fingerprints
from refinery.models import Likelihood, Reply
from refinery.ops import rewrite
from refinery.spec import load_spec
from refinery.store import Store

SPEC = """
name: demo
models:
  self: {backend: openai, model: writer, base_url: "http://nowhere/v1"}
  judge: {backend: openai, model: judge, base_url: "http://nowhere/v1"}
source:
  path: PATH
  split: {train: 1.0, validation: 0, test: 0}
graph:
  rewritten: {op: rewrite, from: source, prompt: "rewrite {{ question }} = {{ answer }}"}
  close: {op: semantic_filter, from: rewritten, min_cosine: 0.8}
  agrees: {op: check_answer, from: close}
  fused:
    op: fuse
    from: agrees
    prompt: "fuse {{ question }} = {{ rewrite }}"
    rounds: 2
    stop_at: 1.0
    judges: [{model: judge, prompt: "grade {{ candidate }}"}]
"""


class Fakes:
    """Every model and encoder of a run. `fail(text, nth)` may give an exception for the nth request with that text."""

    identity = "fakes"

    def __init__(self):
        self.asked, self.fail = Counter(), lambda text, nth: None

    def open_model(self, spec, name="", known=""):
        return FakeModel(models.identity(spec), self)

    def encoder(self, name):
        return self

    def encode(self, texts):
        """Texts about row n of a multiple of 5 lie at a cosine of 0.75 from their reference, others at 0.9."""
        return np.array([self._vector(text) for text in texts], dtype=np.float32)

    def _vector(self, text):
        if not text.startswith("R "):
            return (1.0, 0.0)
        row = int(text.split()[1].removeprefix("q"))
        cosine = 0.75 if row % 5 == 0 else 0.9
        return (cosine, (1 - cosine**2) ** 0.5)

    def close(self):
        pass


class FakeModel:
    def __init__(self, identity, fakes):
        self.identity, self.fakes = identity, fakes

    async def generate(self, messages, sampling, sample=0):
        text = messages[-1]["content"]
        self.fakes.asked[text] += 1
        await asyncio.sleep(0)
        if error := self.fakes.fail(text, self.fakes.asked[text]):
            raise error
        kind, rest = text.split(" ", 1)
        question, _, answer = rest.partition(" = ")
        if kind == "grade":
            return Reply(f"0.{zlib.crc32(text.encode()) % 9 + 1}", "stop", 3, 1)
        return Reply({"rewrite": f"R {question} says {answer}", "fuse": f"F{sample} {answer}"}[kind], "stop", 3, 3)

    async def loglikelihood(self, messages, continuation):
        return Likelihood([-0.5])

    async def close(self):
        pass


@pytest.fixture
def fakes(monkeypatch):
    found = Fakes()
    monkeypatch.setattr(models, "open_model", found.open_model)
    monkeypatch.setattr(services, "Encoder", found.encoder)
    return found


@pytest.fixture
def project(tmp_path, fakes):
    return Project(tmp_path, fakes)


class Project:
    def __init__(self, path, fakes):
        self.path, self.fakes = path, fakes
        self.rows([{"question": f"q{n}", "answer": f"a{n}"} for n in range(20)])
        self.text = SPEC.replace("PATH", str(path / "rows.jsonl"))
        self.store = Store(path / "store.duckdb")

    def rows(self, rows):
        self.data = rows
        (self.path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def spec(self, *overrides):
        (self.path / "demo.yaml").write_text(self.text)
        return load_spec(self.path / "demo.yaml", overrides)

    def run(self, *overrides, **more):
        """(results, requests of this run)."""
        self.fakes.asked.clear()
        results = run_graph(self.spec(*overrides), self.store, **more)
        return results, dict(self.fakes.asked)

    def final(self, *overrides):
        return self.store.outcomes(step_fingerprints(self.spec(*overrides), self.store)["fused"])


def kinds(asked):
    return Counter({kind: sum(n for text, n in asked.items() if text.startswith(kind)) for kind in ("rewrite", "fuse")})


def test_every_row_gets_one_outcome_in_every_step(project):
    results, asked = project.run()
    assert list(results) == ["source", "rewritten", "close", "agrees", "fused"]
    assert {name: result.rows for name, result in results.items()} == dict.fromkeys(results, 20)
    assert results["rewritten"].counts == {("changed", "ok"): 20}
    assert results["close"].counts == {("kept", "ok"): 16, ("fell_back", "below_threshold"): 4}
    assert results["agrees"].counts == {("kept", "ok"): 16, ("kept", "fell_back_earlier"): 4}
    assert results["fused"].counts == {("changed", "ok"): 16, ("kept", "fell_back_earlier"): 4}
    assert results["fused"].count("changed") == 16 and results["fused"].ran == 20
    assert kinds(asked) == {"rewrite": 20, "fuse": 32}, "a row that fell back is not fused"
    assert results["rewritten"].usage.sent == 20 and results["rewritten"].usage.completion_tokens == 60
    final = project.final()
    assert [o.example.meta["question"] for o in final] == [row["question"] for row in project.data]
    assert final[0].example.response == "a0" and final[1].example.response.endswith("R q1 says a1")
    assert [run["status"] for run in project.store.runs()] == ["complete"]


def test_what_stands_is_not_run(project):
    first, _ = project.run()
    second, asked = project.run()
    assert asked == {} and all(result.ran == 0 for result in second.values())
    assert {n: r.counts for n, r in first.items()} == {n: r.counts for n, r in second.items()}


def test_one_row_edited_is_one_rewrite(project):
    project.run()
    project.rows([*project.data[:3], {"question": "q3", "answer": "new3"}, *project.data[4:]])
    results, asked = project.run()
    assert kinds(asked) == {"rewrite": 1, "fuse": 2} and asked["rewrite q3 = new3"] == 1
    assert results["rewritten"].usage.cached == 19
    assert [o.example.answer for o in project.final()][2:5] == ["a2", "new3", "a4"]


def test_ten_rows_appended_are_ten_rewrites(project):
    project.run()
    project.rows(project.data + [{"question": f"q{n}", "answer": f"a{n}"} for n in range(20, 30)])
    _, asked = project.run()
    assert kinds(asked) == {"rewrite": 10, "fuse": 16}


def test_a_threshold_asks_only_for_rows_whose_own_request_is_new(project):
    project.run()
    results, asked = project.run("graph.close.min_cosine=0.7")
    assert kinds(asked) == {"rewrite": 0, "fuse": 8}
    assert {int(text.split()[1][1:]) % 5 for text in asked if text.startswith("fuse")} == {0}
    assert results["rewritten"].ran == 0 and results["close"].ran == 20
    _, asked = project.run()
    assert asked == {}, "the old threshold's step still stands"


def test_more_samples_ask_only_for_the_new_ones(project):
    project.run()
    _, asked = project.run("graph.rewritten.samples=3")
    assert kinds(asked)["rewrite"] == 40


def test_only_the_train_split_is_refined(project):
    project.text = project.text.replace("train: 1.0, validation: 0, test: 0", "validation: 0.2, test: 0.2")
    results, asked = project.run()
    assert results["source"].rows == 20 and results["rewritten"].rows == kinds(asked)["rewrite"] == 12
    source = project.store.examples(results["source"].fingerprint)
    assert Counter(e.split for e in source) == {"train": 12, "validation": 4, "test": 4}


def test_bad_source_rows_are_stored_with_their_reason(project):
    project.rows([*project.data, {"question": "q20", "answer": None}])
    results, _ = project.run("source.on_bad_row=drop")
    assert results["source"].count("dropped") == 1 and results["rewritten"].rows == 20


# --- failures


def transient_once(*words):
    """The first request that holds one of the words as a word fails, as with an overloaded server."""
    return lambda text, nth: (
        RowError("server_error", "HTTP 503", transient=True) if nth == 1 and set(words) & set(text.split()) else None
    )


def undisturbed(project, tmp_path_factory):
    other = Project(tmp_path_factory.mktemp("undisturbed"), project.fakes)
    fail, project.fakes.fail = project.fakes.fail, lambda text, nth: None
    other.run()
    project.fakes.fail = fail
    return other.final()


@pytest.mark.parametrize("fallback", ["answer", "drop"])
def test_transient_rows_and_what_followed_from_them_are_asked_again(project, tmp_path_factory, fallback):
    project.text = project.text.replace("from: source,", f"from: source, on_error: {fallback},")
    project.fakes.fail = transient_once("q3", "q4")
    results, _ = project.run()
    assert results["rewritten"].transient == 2
    action = {"answer": "fell_back", "drop": "dropped"}[fallback]
    assert results["rewritten"].counts[action, "server_error"] == 2
    assert results["fused"].rows == (20 if fallback == "answer" else 18)
    before = data_fingerprint(project.store, results["fused"].fingerprint)
    project.fakes.fail = lambda text, nth: None
    assert not stands(project.store, results["rewritten"].fingerprint)
    again, asked = project.run()
    assert kinds(asked) == {"rewrite": 2, "fuse": 4} and again["fused"].ran == 2
    assert again["fused"].fingerprint == results["fused"].fingerprint
    assert data_fingerprint(project.store, results["fused"].fingerprint) != before
    expected = undisturbed(project, tmp_path_factory)
    assert [o.example for o in project.final()] == [o.example for o in expected]
    assert project.run()[1] == {}


def test_a_repair_cut_short_leaves_nothing_stale(project, tmp_path_factory):
    project.fakes.fail = transient_once("q3")
    results, _ = project.run()
    project.fakes.fail = lambda text, nth: KeyboardInterrupt() if text.startswith("fuse") else None
    with pytest.raises(KeyboardInterrupt):
        project.run()
    assert not stands(project.store, results["fused"].fingerprint)
    project.fakes.fail = lambda text, nth: None
    project.run()
    assert project.final() == undisturbed(project, tmp_path_factory)


def test_a_repair_reaches_steps_of_other_specs(project):
    project.fakes.fail = transient_once("q3")
    project.run()
    other = "graph.fused.rounds=1"
    results, _ = project.run(other)
    project.fakes.fail = lambda text, nth: None
    project.run()
    assert not stands(project.store, results["fused"].fingerprint)
    again, _ = project.run(other)
    assert again["fused"].ran == 1 and again["fused"].count("changed") == 16


def test_rows_that_failed_for_good_stand(project):
    project.fakes.fail = lambda text, nth: RowError("prompt_too_long", "900 tokens") if "q3" in text.split() else None
    results, _ = project.run()
    assert results["rewritten"].counts["fell_back", "prompt_too_long"] == 1 and not results["rewritten"].transient
    (row,) = [o for o in project.store.outcomes(results["rewritten"].fingerprint) if o.reason != "ok"]
    assert (row.detail, row.example.response, row.example.fell_back) == ("900 tokens", "a3", True)
    assert project.run()[1] == {}


def test_text_that_is_no_unicode_is_the_rows_failure(project, monkeypatch):
    generate = FakeModel.generate

    async def half(self, messages, sampling, sample=0):
        reply = await generate(self, messages, sampling, sample)
        torn = messages[-1]["content"] == "rewrite q3 = a3"
        return Reply("half \ud83d", "stop", 3, 3) if torn else reply

    monkeypatch.setattr(FakeModel, "generate", half)
    results, _ = project.run()
    assert results["rewritten"].counts["fell_back", "invalid_text"] == 1


def test_an_outcome_that_cannot_be_stored_is_the_rows_failure(project, monkeypatch):
    apply = rewrite.apply

    async def torn(example, params, ctx):
        outcome = await apply(example, params, ctx)
        if example.question == "q3":
            outcome.scores["note"] = "half \ud83d"
        return outcome

    monkeypatch.setattr(rewrite, "apply", torn)
    results, _ = project.run()
    assert results["rewritten"].counts["fell_back", "invalid_text"] == 1


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (KeyboardInterrupt(), "interrupted"),
        (UserError("models.self: cannot reach"), "failed"),
        (ZeroDivisionError(), "failed"),
    ],
)
def test_a_run_that_stops_keeps_what_was_answered(project, tmp_path_factory, error, status):
    project.fakes.fail = lambda text, nth: error if text == "fuse q13 = R q13 says a13" else None
    with pytest.raises(type(error)):
        project.run()
    assert [run["status"] for run in project.store.runs()] == [status]
    stopped = dict(project.fakes.asked)
    project.fakes.fail = lambda text, nth: None
    _, asked = project.run()
    assert kinds(asked)["rewrite"] == 0
    repeated = [text for text in asked if text in stopped and text != "fuse q13 = R q13 says a13"]
    assert sum(stopped.values()) + sum(asked.values()) <= 20 + 32 + 32 + 16 + len(repeated)
    assert project.final() == undisturbed(project, tmp_path_factory)


def test_a_bug_in_an_operation_keeps_its_traceback(project, monkeypatch):
    async def broken(example, params, ctx):
        return 1 / 0

    monkeypatch.setattr(rewrite, "apply", broken)
    with pytest.raises(ZeroDivisionError):
        project.run()


def test_a_server_cannot_judge_by_likelihood_and_this_is_said_first(project):
    with pytest.raises(UserError, match=r"step fused: judging by likelihood .* models.judge is a server"):
        project.run("graph.fused.judges=[likelihood]", "graph.fused.judge_model=judge")
    assert project.fakes.asked == {}


def test_a_lost_row_is_a_bug_and_said_so(project, monkeypatch):
    apply = rewrite.apply

    async def misnamed(example, params, ctx):
        outcome = await apply(example, params, ctx)
        return outcome if example.question != "q3" else type(outcome)("other", "dropped", "ok", None)

    monkeypatch.setattr(rewrite, "apply", misnamed)
    with pytest.raises(RuntimeError, match="step rewritten: rewrite answered for another row"):
        project.run()


# --- under way


def test_rows_in_flight_are_bounded(project, monkeypatch):
    monkeypatch.setattr("refinery.running.WINDOW", 4)
    now, most = 0, 0
    apply = rewrite.apply

    async def counted(example, params, ctx):
        nonlocal now, most
        now, most = now + 1, max(most, now + 1)
        await asyncio.sleep(0.001)
        outcome = await apply(example, params, ctx)
        now -= 1
        return outcome

    monkeypatch.setattr(rewrite, "apply", counted)
    project.run("models.self.concurrency=1")
    assert most == 4
    most = 0
    project.run("models.self.concurrency=3", "graph.rewritten.temperature=0.5")
    assert most == 12


def test_progress_counts_rows_reasons_and_requests(project):
    seen = []

    def look(state):
        seen.append((state.name, state.done, state.total, dict(state.counts), state.usage.sent))

    project.run(progress=look)
    by_step = {name: [entry for entry in seen if entry[0] == name] for name in ("rewritten", "close", "fused")}
    assert by_step["rewritten"][0][1:3] == (0, 20)
    assert by_step["close"][-1][1:] == (20, 20, {("kept", "ok"): 16, ("fell_back", "below_threshold"): 4}, 0)
    assert by_step["rewritten"][-1][4] == 20


def test_progress_starts_where_an_earlier_run_stopped(project):
    project.fakes.fail = transient_once("q3", "q4")
    project.run()
    seen = []
    project.run(progress=lambda state: seen.append((state.name, state.done)))
    done = [done for name, done in seen if name == "rewritten"]
    assert (done[0], done[-1]) == (18, 20)


# --- the plan


def by_name(plans):
    return {each.name: each for each in plans}


def test_a_plan_of_nothing_yet(project):
    found = by_name(plan(project.spec(), project.store))
    assert [(p.status, p.why, p.rows, p.at_least, p.requests) for p in found.values()] == [
        ("runs", ["new"], 20, 0, 0),
        ("runs", ["new"], 20, 20, 20),
        ("runs", ["new"], 20, 0, 0),
        ("runs", ["new"], 20, 0, 0),
        ("runs", ["new"], 20, 0, 80),
    ]
    assert found["fused"].upstream == ["agrees"] and "one model judge (judge)" in found["fused"].notes[0]
    assert project.fakes.asked == {}


def test_a_plan_names_what_changed(project):
    project.run()
    assert {p.status for p in plan(project.spec(), project.store)} == {"stands"}
    found = by_name(plan(project.spec("graph.close.min_cosine=0.7"), project.store))
    assert (found["rewritten"].status, found["rewritten"].rows) == ("stands", 0)
    assert found["close"].why == ["min_cosine: 0.8 -> 0.7"]
    assert found["agrees"].why == ["upstream close changed"]
    found = by_name(plan(project.spec("graph.rewritten.samples=2", "models.self.model=other"), project.store))
    assert found["rewritten"].why == ["samples: 1 -> 2", "model self changed"]
    assert (found["rewritten"].requests, found["rewritten"].answered) == (40, 0)
    found = by_name(plan(project.spec("seed=1"), project.store))
    assert found["rewritten"].why == ["seed: 0 -> 1"] or found["rewritten"].why == ["seed changed"]
    project.rows(project.data[:10])
    found = by_name(plan(project.spec(), project.store))
    assert found["source"].why == ["its rows changed"] and found["rewritten"].why == ["upstream source changed"]


def test_a_plan_counts_what_the_store_answers(project):
    project.run()
    found = by_name(plan(project.spec("graph.rewritten.samples=3"), project.store))
    assert (found["rewritten"].at_least, found["rewritten"].requests, found["rewritten"].answered) == (40, 40, 20)
    found = by_name(plan(project.spec("graph.fused.rounds=3"), project.store))
    assert found["fused"].why == ["rounds: 2 -> 3"]
    assert (found["fused"].at_least, found["fused"].requests, found["fused"].answered) == (16, 32, 16 * 4)
    asked = dict(project.fakes.asked)
    plan(project.spec("graph.fused.rounds=3"), project.store)
    assert dict(project.fakes.asked) == asked, "a plan asks no model"


def test_a_plan_tells_rows_to_retry(project):
    project.fakes.fail = transient_once("q3", "q4")
    project.run()
    found = by_name(plan(project.spec(), project.store))
    assert (found["rewritten"].why, found["rewritten"].rows) == (["2 rows to retry"], 2)
    assert found["close"].status == "runs" and found["close"].why == ["upstream rewritten runs"]


def test_a_plan_of_an_interrupted_run(project):
    project.fakes.fail = lambda text, nth: KeyboardInterrupt() if text.startswith("fuse") else None
    with pytest.raises(KeyboardInterrupt):
        project.run()
    found = by_name(plan(project.spec(), project.store))
    assert found["agrees"].status == "stands" and "interrupted" in found["fused"].why[0]
