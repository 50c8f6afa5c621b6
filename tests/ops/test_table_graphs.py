"""Table operations in a graph of their own kind, through `run_graph`, `plan` and the command line."""

import json
import re
from collections import Counter

import pandas as pd
import pytest
from typer.testing import CliRunner

from refinery import models
from refinery.cli import app
from refinery.errors import RowError, UserError
from refinery.graph import plan, run_graph, step_fingerprints
from refinery.models import Reply
from refinery.spec import load_spec
from refinery.store import Store

HEAD = """
name: tables
models:
  self: {{backend: openai, model: writer, base_url: "http://nowhere/v1"}}
store: {folder}/store.duckdb
source: {{path: {folder}/raw.jsonl, split: {{train: 1.0, validation: 0, test: 0}}}}
sources:
  general: {{path: {folder}/general.jsonl, split: {{train: 1.0, validation: 0, test: 0}}}}
  bench: {{path: {folder}/bench.jsonl, split: {{train: 1.0, validation: 0, test: 0}}}}
graph:
"""

GRAPH = """
  clean: {{op: deduplicate, from: [source, bench], against: bench, min_cosine: null}}
  part: {{op: sample, from: clean, share: 0.5, by: topic}}
  rest:
    op: sql
    from: [clean, part]
    query: >-
      SELECT id, upper(response) AS response, length(answer) AS letters FROM clean
      WHERE id NOT IN (SELECT id FROM part)
  both: {{op: join, from: [clean, part, rest], how: outer, columns: {{loud: "{{{{ branches.rest is not none }}}}"}}}}
  mixed: {{op: mix, from: [both, general], share: 0.2}}
  parted: {{op: split, from: mixed, validation: 0.1, by: "{{{{ topic | default(id) }}}}"}}
  out: {{op: export, from: parted, to: "{folder}/out/train.jsonl"}}
  last: {{op: sample, from: out, n: 10}}
"""


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def project(tmp_path):
    return made(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A project that has run; tests that take it change nothing of it."""
    found = made(tmp_path_factory.mktemp("finished"))
    found.results = found.run()
    return found


def made(tmp_path):
    raw = [{"question": f"What is {n}?", "answer": f"It is {n}.", "topic": f"t{n % 4}"} for n in range(100)]
    raw += [{"question": f"what IS {n}?", "answer": "again", "topic": "t9"} for n in range(10)]
    write(tmp_path / "raw.jsonl", raw)
    write(tmp_path / "general.jsonl", [{"question": f"General {n}?", "answer": f"G {n}."} for n in range(300)])
    write(tmp_path / "bench.jsonl", [{"question": f"What is  {n}?", "answer": "secret"} for n in range(90, 95)])
    return Project(tmp_path)


class Project:
    def __init__(self, folder, graph=GRAPH):
        self.folder, self.graph = folder, graph
        self.store = Store(folder / "store.duckdb")
        self.file = folder / "tables.yaml"

    def spec(self):
        self.file.write_text((HEAD + self.graph).format(folder=self.folder))
        return load_spec(self.file)

    def run(self):
        return run_graph(self.spec(), self.store)

    def rows(self, name):
        return self.store.outcomes(step_fingerprints(self.spec(), self.store)[name])


def by_reason(result):
    return {f"{action} {reason}": n for (action, reason), n in result.counts.items()}


def test_every_step_accounts_for_its_rows(finished):
    project, results = finished, finished.results
    assert by_reason(results["clean"]) == {
        "kept ok": 95, "dropped duplicate": 10, "dropped contaminated": 5, "dropped reference_set": 5
    }  # fmt: skip
    assert by_reason(results["part"])["kept ok"] == round(95 * 0.5)
    assert by_reason(results["rest"]) == {"changed ok": 47, "dropped not_selected": 48}
    assert by_reason(results["both"]) == {"changed ok": 95}
    mixed = by_reason(results["mixed"])
    assert mixed == {"kept ok": 95 + 24, "dropped not_taken": 276}
    assert results["parted"].rows == 119
    assert by_reason(results["last"])["kept ok"] == 10
    loud = Counter(o.example.meta.get("loud") for o in project.rows("mixed") if o.example)
    assert loud == {"True": 47, "False": 48, None: 24}
    first = next(o for o in project.rows("both") if o.example.meta["loud"] == "True")
    assert first.example.candidates == (first.example.answer, first.example.answer.upper())
    assert first.example.meta["letters"] == len(first.example.answer)


def test_splits_leave_the_later_steps(finished):
    project, results = finished, finished.results
    parted = project.rows("parted")
    train = [o.example_id for o in parted if o.example.split == "train"]
    assert results["out"].rows == len(train) < 119
    topics = {o.example.meta.get("topic") for o in parted if o.example.split == "validation"} - {None}
    assert not topics & {o.example.meta.get("topic") for o in parted if o.example.split == "train"}


def test_a_second_run_does_nothing_and_the_plan_says_so(finished):
    project = finished
    written = (project.folder / "out" / "train.jsonl").stat().st_mtime_ns
    assert {step.status for step in plan(project.spec(), project.store)} == {"stands"}
    assert all(result.ran == 0 for result in project.run().values())
    assert (project.folder / "out" / "train.jsonl").stat().st_mtime_ns == written


def test_a_plan_writes_no_file(project):
    found = {step.name: step for step in plan(project.spec(), project.store)}
    assert not (project.folder / "out").exists()
    assert (found["clean"].rows, found["last"].status) == (115, "runs")


def test_what_was_exported_is_what_the_step_hands_on(finished):
    project = finished
    frame = pd.read_json(project.folder / "out" / "train.jsonl", lines=True)
    handed = [o.example for o in project.rows("parted") if o.example.split == "train"]
    assert list(frame["refinery_id"]) == [example.id for example in handed]
    assert [turns[-1]["content"] for turns in frame["messages"]] == [example.response for example in handed]
    assert set(frame["refinery_step"]) == {"parted"}
    assert json.loads(frame["refinery_scores"][0])["split"] == "train"


def test_what_changed_runs_again_and_no_more(project):
    project.run()
    (project.folder / "out" / "train.jsonl").unlink()
    assert "train.jsonl is gone" in str([step.why for step in plan(project.spec(), project.store)])
    results = project.run()
    assert (project.folder / "out" / "train.jsonl").exists()
    assert {name: result.ran for name, result in results.items() if result.ran} == {"out": results["out"].rows}

    before = {o.example_id: o.action for o in project.rows("part")}
    with (project.folder / "raw.jsonl").open("a") as file:
        for n in range(10):
            file.write(json.dumps({"question": f"New {n}?", "answer": "new", "topic": "t1"}) + "\n")
    project.run()
    after = {o.example_id: o.action for o in project.rows("part")}
    assert len(after) == len(before) + 10
    assert sum(after[row_id] != action for row_id, action in before.items()) <= 10


def test_the_command_line_exports_any_step(finished):
    project = finished
    call = lambda *args: CliRunner().invoke(app, ["export", str(project.file), *args])  # noqa: E731
    folder = project.folder / "set"
    result = call("parted", "--to", str(folder), "--license", "mit")
    assert result.exit_code == 0, result.output
    rows = Counter(o.example.split for o in project.rows("parted"))
    assert f"wrote {rows['train']} train, {rows['validation']} validation rows" in result.output
    card = (folder / "README.md").read_text()
    assert "| clean | deduplicate | 115 | 95 |" in card.replace(" 0 |", " 0 |")
    assert "reference_set 5" in card
    assert "`general`: path" in card
    assert len(pd.read_parquet(folder / "data" / "validation.parquet")) == rows["validation"]
    assert call("clean", "--to", str(project.folder / "c.parquet")).exit_code == 0
    assert len(pd.read_parquet(project.folder / "c.parquet")) == 95


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["cleen", "--to", "x.jsonl"], 'no step "cleen" (did you mean "clean"?)'),
        (["clean", "--to", "x.txt"], "--format is one of jsonl, parquet, hf"),
        (["clean", "--to", "x.jsonl", "--split", "dev"], 'no split "dev"'),
        (["clean", "--to", "x.jsonl", "--push", "a/b"], "--push goes with --format hf"),
        (["clean", "--to", "RAW"], "is what the rows were read from"),
    ],
)
def test_what_the_command_line_refuses(finished, args, message):
    project = finished
    args = [str(project.folder / "raw.jsonl") if arg == "RAW" else arg for arg in args]
    result = CliRunner().invoke(app, ["export", str(project.file), *args])
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)


def test_a_step_that_the_spec_has_changed_is_not_exported(finished):
    changed = finished.folder / "changed.yaml"
    changed.write_text((HEAD + GRAPH.replace("share: 0.5", "share: 0.4")).format(folder=finished.folder))
    for step, stale in (("part", "part"), ("last", "(part|rest|both|mixed|parted|out|last)")):
        result = CliRunner().invoke(app, ["export", str(changed), step, "--to", str(finished.folder / "x.jsonl")])
        assert re.search(f"step {stale} is not as the spec has it now", str(result.exception))


# -- steps that ask a model -------------------------------------------------------------------------------------------


MADE = """
  asked: {{op: questions, from: source, kinds: [direct], n: 2, form: lines, text: "{{{{ question }}}}"}}
  invented: {{op: synthesize, from: asked, n: 6, min_cosine: null, min_words: 1}}
  all: {{op: mix, from: [asked, invented]}}
"""


class Writer:
    identity = "writer"
    fail = None

    async def generate(self, messages, sampling, sample=0):
        text = messages if isinstance(messages, str) else messages[-1]["content"]
        if self.fail and self.fail in text:
            raise RowError("server_error", transient=True)
        if text == "<user>":
            return Reply(f"Invented {sample}?", "stop", 1, 1)
        if "two lines" in text:
            name = text.split("Read this text:")[1].split()[2]
            return Reply(f"Q: Who is {name}\nA: It is.\nQ: And which else, {name}\nA: None.", "stop", 1, 1)
        return Reply(f"Answer to {text}", "stop", 1, 1)

    async def user_slot(self):
        return "<user>"

    async def close(self):
        pass


@pytest.fixture
def writer(monkeypatch):
    found = Writer()
    monkeypatch.setattr(models, "open_model", lambda spec, name="", known="": found)
    return found


def test_made_rows_flow_through_the_graph_and_name_their_parents(project, writer):
    project.graph = MADE
    write(project.folder / "raw.jsonl", [{"question": f"What is {n}?", "answer": f"It is {n}."} for n in range(5)])
    results = project.run()
    assert by_reason(results["asked"]) == {"dropped expanded": 5, "created ok": 10}
    assert by_reason(results["invented"]) == {"dropped demonstration": 10, "created ok": 6}
    assert by_reason(results["all"]) == {"kept ok": 16}
    sources = {o.example_id for o in project.rows("source")}
    assert {o.example.parents[0] for o in project.rows("asked") if o.example} == sources
    assert all(result.ran == 0 for result in project.run().values())


def test_a_transient_failure_is_asked_again_by_the_next_run(project, writer):
    project.graph = MADE
    write(project.folder / "raw.jsonl", [{"question": f"What is {n}?", "answer": f"It is {n}."} for n in range(5)])
    writer.fail = "What is 3"
    results = project.run()
    assert by_reason(results["asked"]) == {"dropped expanded": 4, "created ok": 8, "dropped server_error": 1}
    writer.fail = None
    results = project.run()
    assert by_reason(results["asked"]) == {"dropped expanded": 5, "created ok": 10}
    assert by_reason(results["all"]) == {"kept ok": 16}


def carded(more):
    """The graph with its last export as a Hugging Face folder, with these parameters."""
    return GRAPH.replace('to: "{folder}/out/train.jsonl"', f'to: "{{folder}}/set", format: hf, {more}')


def test_a_card_says_what_the_spec_says_after_any_change_and_back(project):
    """Rows, files and fingerprints are the same each time: only the card tells whose licences they are."""

    def lines(license, sources):
        project.graph = carded(f"license: {license}, source_licenses: {{{{{sources}}}}}")
        project.run()
        card = (project.folder / "set" / "README.md").read_text()
        listed = [line.split("; ")[-1] for line in card.splitlines() if line.startswith(("- `general`", "- `bench`"))]
        return card.split("---\n")[1].splitlines()[0], sorted(listed)

    first = ("mit", "general: cc-by-4.0, bench: apache-2.0")
    expected = ("license: mit", ["licence: apache-2.0", "licence: cc-by-4.0"])
    assert lines(*first) == expected
    assert lines("mit", "general: gpl-3.0") == ("license: mit", ["licence: gpl-3.0", "licence: unknown"])
    assert lines(*first) == expected
    assert lines("gpl-3.0", first[1]) == ("license: gpl-3.0", expected[1])
    assert lines(*first) == expected
    assert {name for name, result in project.run().items() if result.ran} == set(), "what it says stands"


def test_a_renamed_source_keeps_its_licence(project):
    text = (HEAD + carded("source_licenses: {{general: mit}}")).format(folder=project.folder)
    for name in ("general", "wide", "general"):
        project.file.write_text(text.replace("general", name).replace(f"{name}.jsonl", "general.jsonl"))
        run_graph(load_spec(project.file), project.store)
        card = (project.folder / "set" / "README.md").read_text()
        (line,) = [line for line in card.splitlines() if line.endswith("licence: mit")]
        assert line.startswith(f"- `{name}`: ")
