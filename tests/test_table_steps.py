"""Table steps in the engine: resumed, repaired, accounted for. Models count what they are asked; no network."""

import json
import random
from collections import Counter

import numpy as np
import pytest

from refinery import models, services
from refinery.errors import RowError, UserError
from refinery.graph import plan, run_graph, stands, step_fingerprints
from refinery.models import Reply
from refinery.ops import rewrite, sample
from refinery.spec import load_spec
from refinery.store import Store
from refinery.tableops import created, derived, kept
from tests.accounts import check_accounts, rows_of

HEAD = """
name: tables
models:
  self: {{backend: openai, model: writer, base_url: "http://nowhere/v1", concurrency: 4}}
source: {{path: "{folder}/rows.jsonl", split: {{train: 1.0, validation: 0, test: 0}}}}
sources:
  general: {{path: "{folder}/general.jsonl", split: {{train: 1.0, validation: 0, test: 0}}}}
graph:
"""
ASKING = """
  asked: {{op: questions, from: source, kinds: [direct], n: 2, form: lines, text: "{{{{ question }}}}"}}
  said: {{op: rewrite, from: asked, prompt: "say {{{{ question }}}}"}}
"""
INVENTING = """
  said: {{op: rewrite, from: source, prompt: "say {{{{ question }}}}"}}
  invented: {{op: synthesize, from: said, kind: rehearsal, n: 12, min_cosine: 0.9999, min_words: 1, clusters: 2}}
  all: {{op: mix, from: [said, invented]}}
"""
MIXED = """
  said: {{op: rewrite, from: source, on_error: drop, prompt: "say {{{{ question }}}}"}}
  clean: {{op: deduplicate, from: said, min_cosine: null}}
  again: {{op: rewrite, from: clean, prompt: "again {{{{ question }}}} {{{{ response }}}}"}}
"""


class Writer:
    """The model and the encoder of a run. `fail(text, nth)` may give an exception for the nth request of a text."""

    identity = "writer"

    def __init__(self):
        self.asked, self.fail = Counter(), lambda text, nth: None

    async def generate(self, prompt, sampling, sample=0):
        text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        self.asked[text, sample] += 1
        if error := self.fail(text, self.asked[text, sample]):
            raise error
        if "Read this text" in text:
            name = text.split("Read this text:")[1].split()[0]
            return Reply(f"Q: Who is {name}\nA: It is.\nQ: And which else, {name}\nA: None.", "stop", 1, 1)
        if text.startswith("Below are instances"):
            return Reply(f"Invented {sample}?", "stop", 1, 1)
        return Reply(f"R {text}", "stop", 1, 1)

    def encode(self, texts):
        """On an arc: the n of a text that ends in qn, 50 further for invented ones, and answers at its end."""
        return np.array([(cosine, (1 - cosine**2) ** 0.5) for cosine in map(self._cosine, texts)], dtype=np.float32)

    def _cosine(self, text):
        number = int("".join(filter(str.isdigit, text.split()[-1])) or 0)
        return 1.0 if text.startswith("a") else (number + 50 * text.startswith("Invented")) / 100

    async def close(self):
        pass


class Project:
    def __init__(self, folder, graph, rows=10, general=4):
        self.folder, self.graph = folder, graph
        folder.mkdir(exist_ok=True)
        self.store = Store(folder / "store.duckdb")
        self.write("rows", [{"question": f"q{n}", "answer": f"a{n}"} for n in range(rows)])
        self.write("general", [{"question": f"g{n}", "answer": f"a{n}"} for n in range(general)])

    def write(self, name, rows):
        (self.folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def spec(self, graph=None):
        (self.folder / "spec.yaml").write_text((HEAD + (graph or self.graph)).format(folder=self.folder))
        return load_spec(self.folder / "spec.yaml")

    def run(self, graph=None):
        spec = self.spec(graph)
        results = run_graph(spec, self.store)
        self.counts = check_accounts(spec, self.store)
        return results

    def rows(self, graph=None):
        return rows_of(self.spec(graph), self.store)

    def fingerprint(self, name, graph=None):
        return step_fingerprints(self.spec(graph), self.store)[name]


@pytest.fixture
def writer(monkeypatch):
    found = Writer()
    monkeypatch.setattr(models, "open_model", lambda spec, name="", known="": found)
    monkeypatch.setattr(services, "Encoder", lambda name: found)
    return found


@pytest.fixture
def undisturbed(tmp_path, writer):
    """The rows of a run in a store of its own, in which nothing fails."""

    def run(graph, **sizes):
        fail, asked = writer.fail, writer.asked
        writer.fail, writer.asked = (lambda text, nth: None), Counter()
        other = Project(tmp_path / "undisturbed", graph, **sizes)
        other.run()
        expected, writer.fail, writer.asked = writer.asked, fail, asked
        return other.rows(), expected

    return run


def transient(*words):
    """The first request that holds one of the words fails, as at an overloaded server."""
    left = set(words)

    def fail(text, nth):
        found = left & set(text.split())
        left.difference_update(found)
        return RowError("server_error", "HTTP 503", transient=True) if found else None

    return fail


# -- stopped in the middle --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", [ASKING, INVENTING], ids=["questions", "synthesize"])
def test_a_table_step_that_was_interrupted_asks_for_nothing_twice(tmp_path, writer, undisturbed, graph):
    rows, expected = undisturbed(graph)
    project = Project(tmp_path / "interrupted", graph)
    stopped = Counter()
    for more in (3, 5, 11):
        goal = writer.asked.total() - stopped.total() + more

        def stop(text, nth, goal=goal):
            late = writer.asked.total() - stopped.total() > goal
            stopped[text] += late
            return UserError("stopped") if late else None

        writer.fail = stop
        with pytest.raises(UserError):
            project.run()
    writer.fail = lambda text, nth: None
    project.run()
    assert project.rows() == rows
    assert writer.asked.keys() == expected.keys()
    assert writer.asked.total() - stopped.total() == expected.total(), "what was answered is not asked again"


def test_what_a_killed_table_step_left_is_no_row(tmp_path, writer, monkeypatch, undisturbed):
    """The step dies while its outcomes are written."""
    rows, expected = undisturbed(MIXED)
    project = Project(tmp_path / "killed", MIXED)
    monkeypatch.setattr("refinery.steps.BATCH", 3)
    rename = Store.rename_outcomes

    def die(self, draft, fingerprint):
        raise UserError("stopped")

    monkeypatch.setattr(Store, "rename_outcomes", die)
    with pytest.raises(UserError):
        project.run()
    assert not project.store.outcomes(project.fingerprint("clean"))
    assert {each.name: each.status for each in plan(project.spec(), project.store)} == {
        "source": "stands", "general": "stands", "said": "stands", "clean": "runs", "again": "runs"
    }  # fmt: skip
    monkeypatch.setattr(Store, "rename_outcomes", rename)
    project.run()
    assert project.rows() == rows and writer.asked == expected


# -- repaired ---------------------------------------------------------------------------------------------------------


def test_a_transient_row_of_a_table_step_is_asked_again_and_nothing_else(tmp_path, writer, undisturbed):
    rows, expected = undisturbed(ASKING)
    project = Project(tmp_path / "failed", ASKING)
    writer.fail = transient("q9")
    project.run()
    assert project.counts["asked"] == {"dropped expanded": 9, "created ok": 18, "dropped server_error": 1}
    assert not stands(project.store, project.fingerprint("asked"))
    first = writer.asked.total()
    (asking, _) = [each for each in plan(project.spec(), project.store) if each.status == "runs"]
    assert asking.why == ["1 rows to retry"] and (asking.at_least, asking.requests) == (1, 1)
    results = project.run()
    assert project.rows() == rows
    assert writer.asked.total() - first == 1 + 2, "the row, and what came of it"
    assert results["asked"].ran == 10 and results["said"].ran == 2, "rows that are as they were stand"
    assert max(writer.asked.values()) == 2 and writer.asked.keys() == expected.keys()
    assert all(result.ran == 0 for result in project.run().values())


def test_rows_that_moved_are_worked_on_but_not_asked_again(tmp_path, writer, undisturbed):
    rows, _ = undisturbed(ASKING)
    project = Project(tmp_path / "failed", ASKING)
    writer.fail = transient("q2")
    project.run()
    first = writer.asked.total()
    results = project.run()
    assert project.rows() == rows
    assert writer.asked.total() - first == 3 and results["said"].usage.sent == 2


def test_a_repair_before_a_table_step_redoes_only_what_differs_behind_it(tmp_path, writer, undisturbed):
    rows, _ = undisturbed(MIXED)
    project = Project(tmp_path / "failed", MIXED)
    writer.fail = transient("q9")
    project.run()
    assert project.counts["said"] == {"changed ok": 9, "dropped server_error": 1}
    first = writer.asked.total()
    results = project.run()
    assert project.rows() == rows
    assert writer.asked.total() - first == 2
    assert {name: results[name].ran for name in ("said", "clean", "again")} == {"said": 1, "clean": 10, "again": 1}


def test_a_row_that_a_table_step_drops_now_leaves_the_later_steps(tmp_path, writer, undisturbed):
    """Its twin failed at first; once that is there, it is the duplicate."""
    data = [{"question": "q0", "answer": "first"}, {"question": "q1", "answer": "b"}, {"question": "Q0", "answer": "c"}]
    project = Project(tmp_path / "failed", MIXED)
    project.write("rows", data)
    writer.fail = transient("q0")
    project.run()
    assert project.counts["clean"] == {"kept ok": 2}
    project.run()
    assert project.counts["clean"] == {"kept ok": 2, "dropped duplicate": 1}
    answers = [o.example.answer for o in project.rows()["again"]]
    assert answers == ["first", "b"]


QUANTILE = """
  said: {{op: rewrite, from: source, on_error: drop, prompt: "say {{{{ question }}}}"}}
  close: {{op: semantic_filter, from: said, min_quantile: 0.25}}
  again: {{op: rewrite, from: close, prompt: "again {{{{ question }}}} {{{{ response }}}}"}}
"""


def test_a_step_that_decides_by_all_rows_does_all_again(tmp_path, writer, undisturbed):
    rows, _ = undisturbed(QUANTILE, rows=40)
    project = Project(tmp_path / "failed", QUANTILE, rows=40)
    writer.fail = transient("q1", "q2", "q3", "q30")
    project.run()
    low = {o.scores["min_cosine"] for o in project.rows()["close"]}
    results = project.run()
    assert project.rows() == rows
    assert results["close"].ran == 40 and {o.scores["min_cosine"] for o in rows["close"]} != low
    assert project.run()["close"].ran == 0


def test_such_a_step_stopped_in_its_middle_does_all_again(tmp_path, writer, undisturbed, monkeypatch):
    from refinery.ops import semantic_filter

    rows, expected = undisturbed(QUANTILE, rows=40)
    project = Project(tmp_path / "stopped", QUANTILE, rows=40)
    apply, seen = semantic_filter.apply, Counter()

    async def stopping(example, params, ctx):
        seen[example.id] += 1
        if seen.total() == 17:
            raise UserError("stopped")
        return await apply(example, params, ctx)

    monkeypatch.setattr(semantic_filter, "apply", stopping)
    with pytest.raises(UserError):
        project.run()
    project.run()
    assert project.rows() == rows and writer.asked == expected


def test_draws_that_a_search_refuses_are_no_failures(tmp_path, writer):
    """synthesize may refuse three of four and go on: its own max_tries is its limit."""
    project = Project(tmp_path / "search", INVENTING)
    writer.fail = lambda text, nth: RowError("empty_response") if text.startswith("Below") and chance() < 0.7 else None
    chance = random.Random(0).random
    project.spec()
    text = (project.folder / "spec.yaml").read_text().replace("graph:", "limits: {failed: 0.3, after: 5}\ngraph:")
    (project.folder / "spec.yaml").write_text(text)
    spec = load_spec(project.folder / "spec.yaml")
    results = run_graph(spec, project.store)
    assert results["invented"].count("created") >= 1


# -- bugs of an operation are told ------------------------------------------------------------------------------------


SAMPLED = '\n  part: {{op: sample, from: source, share: 0.5}}\n  said: {{op: rewrite, from: part, prompt: "x"}}\n'


def twice(rows):
    return [*map(kept, rows), kept(rows[3])]


def lost(rows):
    return [kept(row) for row in rows[:-1]]


def misnamed(rows):
    return [*map(kept, rows[:-1]), kept(derived(rows[-1], "other"))]


def made_of_itself(rows):
    return [*map(kept, rows[:-1]), created(rows[-1])]


def twice_made(rows):
    return [*map(kept, rows), *[created(derived(rows[0], "copy"))] * 2]


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (twice, "step part: sample answered twice for row"),
        (twice_made, "step part: sample answered twice for row"),
        (lost, "step part: 10 rows in, 9 accounted for"),
        (misnamed, "step part: 10 rows in, 9 accounted for"),
        (made_of_itself, "step part: 10 rows in, 9 accounted for"),
    ],
)
def test_an_operation_that_loses_or_repeats_rows_is_stopped(tmp_path, writer, monkeypatch, answers, message):
    async def apply_all(tables, params, ctx):
        return answers(list(tables[0]))

    project = Project(tmp_path / "broken", SAMPLED, general=1)
    monkeypatch.setattr(sample, "apply_all", apply_all)
    with pytest.raises(RuntimeError, match=message):
        project.run()
    assert not stands(project.store, project.fingerprint("part")) and not writer.asked
    monkeypatch.undo()
    monkeypatch.setattr(models, "open_model", lambda spec, name="", known="": writer)
    project.run()
    assert sum(project.counts["part"].values()) == 10


# -- several sources and specs ----------------------------------------------------------------------------------------


BOTH = """
  both: {{op: mix, from: [source, general]}}
  clean: {{op: deduplicate, from: [both, general], against: general, min_cosine: null}}
  said: {{op: rewrite, from: both, prompt: "say {{{{ question }}}}"}}
"""


def test_rows_that_stand_in_two_sources_have_one_outcome_each(tmp_path, writer):
    project = Project(tmp_path / "two", BOTH)
    rows = [{"question": f"q{n}", "answer": f"a{n}"} for n in range(10)]
    project.write("general", [*rows[:3], {"question": "g", "answer": "g"}])
    results = project.run()
    assert results["both"].rows == 11, "three rows are the same in both"
    assert project.counts["both"] == {"kept ok": 11, "created repeated": 3}
    assert results["clean"].rows == 14, "general's rows are among those of both"
    assert sum(project.counts["clean"].values()) == 14
    assert results["said"].rows == 14
    assert writer.asked.total() == 11, "the copies ask what their originals ask"


def test_a_second_source_that_changed_leaves_the_first_ones_rows(tmp_path, writer):
    project = Project(tmp_path / "two", BOTH)
    project.run()
    first = writer.asked.total()
    project.write(
        "general", [{"question": "g0", "answer": "new"}, *({"question": f"g{n}", "answer": f"a{n}"} for n in (1, 2, 3))]
    )
    results = project.run()
    assert writer.asked.total() - first == 0, "the prompt holds the question alone"
    assert results["source"].ran == 0 and results["general"].ran == 4
    project.write("general", [{"question": "g9", "answer": "new"}])
    project.run()
    assert writer.asked.total() - first == 1


def test_only_the_train_rows_of_every_source_are_seen(tmp_path, writer):
    project = Project(tmp_path / "two", BOTH, rows=40, general=40)
    text = HEAD.replace("train: 1.0, validation: 0, test: 0", "validation: 0.25, test: 0.25")
    (project.folder / "spec.yaml").write_text((text + BOTH).format(folder=project.folder))
    spec = load_spec(project.folder / "spec.yaml")
    results = run_graph(spec, project.store)
    check_accounts(spec, project.store)
    assert (results["source"].rows, results["both"].rows, results["said"].rows) == (40, 40, 40)


def test_two_specs_share_what_is_equal_and_repair_what_the_other_made(tmp_path, writer, undisturbed):
    graph = MIXED.replace("again", "later").replace("min_cosine: null", "min_cosine: null, keep: longest")
    rows, _ = undisturbed(MIXED)
    project = Project(tmp_path / "shared", MIXED)
    writer.fail = transient("q9")
    project.run()
    said = sum(n for (text, _), n in writer.asked.items() if text.startswith("say"))
    writer.fail = transient("never")
    project.run(graph)
    assert sum(n for (text, _), n in writer.asked.items() if text.startswith("say")) == said + 1, "shared, and repaired"
    assert not stands(project.store, project.fingerprint("clean")), "the other spec's table step knows of the repair"
    assert {e.name: e.status for e in plan(project.spec(), project.store)}["clean"] == "runs"
    results = project.run()
    assert project.rows() == rows
    assert results["again"].ran == 1 and results["said"].ran == 0
    assert all(result.ran == 0 for result in project.run(graph).values())


def test_progress_of_a_table_step_ends_at_its_rows(tmp_path, writer):
    project = Project(tmp_path / "seen", MIXED)
    seen = []
    run_graph(project.spec(), project.store, progress=lambda state: seen.append((state.name, state.done, state.total)))
    assert seen[-1] == ("again", 10, 10) and ("clean", 10, 10) in seen


def test_an_error_in_a_table_step_is_no_rows_failure(tmp_path, writer, monkeypatch):
    async def broken(tables, params, ctx):
        return 1 / 0

    project = Project(tmp_path / "broken", SAMPLED)
    monkeypatch.setattr(sample, "apply_all", broken)
    with pytest.raises(ZeroDivisionError):
        project.run()


def test_a_row_step_reads_the_rows_that_a_table_step_made(tmp_path, writer, monkeypatch):
    seen = []
    apply = rewrite.apply

    async def noting(example, params, ctx):
        seen.append((example.id, example.parents))
        return await apply(example, params, ctx)

    monkeypatch.setattr(rewrite, "apply", noting)
    project = Project(tmp_path / "made", ASKING)
    project.run()
    made = [o.example for o in project.rows()["asked"] if o.action == "created"]
    assert sorted(seen) == sorted((example.id, example.parents) for example in made)
