"""What is said of steps before anything runs: zeros that pass, and shares that cannot be reached."""

import json
from pathlib import Path

import pytest

from refinery.advice import step_notes
from refinery.spec import load_spec
from tests.cli_tools import call, project
from tests.models.server import serve

FUSED = """
source: {lab: clinic, limit: 20}
graph:
  rewritten: {op: rewrite, from: source}
  fused: {op: fuse, from: rewritten%s}
%s
"""
MIXED = """
name: small
models:
  self: {{backend: openai, model: writer, base_url: "{url}", retries: 0, timeout: 20}}
source: {{path: rows.jsonl, split: {{train: 1.0, validation: 0, test: 0}}}}
sources: {{general: {{path: general.jsonl}}}}
graph:
  rewritten: {{op: rewrite, from: source, on_error: drop, prompt: "{{{{ question }}}}"}}
  mixed: {{op: mix, from: [rewritten, general], share: 0.5}}
  short: {{op: length_filter, from: mixed, max: 5000}}
"""


@pytest.mark.parametrize(
    ("more", "later", "warned"),
    [
        ("", "", True),
        (", min_score: 0.5", "", False),
        ("", "  right: {op: check_answer, from: fused}", False),
        ("", "  few: {op: length_filter, from: fused, max: 9}\n  right: {op: check_answer, from: few}", False),
        ("", "  right: {op: check_answer, from: rewritten}", True),
        ("", "  graded: {op: judge, from: fused}", True),
        ("", "  graded: {op: judge, from: fused, min_score: 3}", False),
    ],
)
def test_fuse_that_lets_zeros_through_is_noted(tmp_path, monkeypatch, more, later, warned):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spec.yaml").write_text(FUSED % (more, later))
    assert any("min_score" in note for note in step_notes(load_spec("spec.yaml"), "fused")) == warned
    said = [line for line in call("validate", "spec.yaml").out.splitlines() if "min_score" in line]
    assert len(said) == warned and all(line.startswith("note: fused (fuse): ") for line in said)


@pytest.fixture
def mixed(tmp_path, monkeypatch):
    """20 rows, rewritten, and half as many of another source: too few for a share of one half."""
    monkeypatch.chdir(tmp_path)
    with serve(answer="play") as server:
        project(tmp_path, server.url, spec=MIXED)
        general(10)
        yield tmp_path


def general(count):
    rows = [{"question": f"What is {n}?", "answer": f"It is {n}"} for n in range(count)]
    Path("general.jsonl").write_text("\n".join(map(json.dumps, rows)))


STOPS = "mix: general has 10 rows and 20 are needed for the share"


def planned():
    return {step["name"]: step for step in call("plan", "spec.yaml", "--json").json["steps"]}


def doctored():
    found = call("doctor", "spec.yaml", "--json").json["findings"]
    return [each for each in found if each["what"] == "step mixed"]


def test_a_share_that_cannot_be_reached_is_foretold(mixed):
    step = planned()["mixed"]
    assert STOPS in step["stops"] and step["stops_if"] == "all 20 rows of rewritten come through"
    assert "mixed: the run may stop here, if all 20" in call("plan", "spec.yaml").out
    (found,) = doctored()
    assert found["level"] == "warn" and STOPS in found["message"]
    done = call("run", "spec.yaml", "--stage", "refine")
    assert done.code == 2 and STOPS in done.err


def test_it_is_sure_where_rows_are_known(mixed):
    assert call("run", "spec.yaml", "--stage", "refine").code == 2  # rewritten is stored now
    step = planned()["mixed"]
    assert STOPS in step["stops"] and step["stops_if"] == ""
    assert "mixed: the run will stop here: mix: general" in call("plan", "spec.yaml").out
    (found,) = doctored()
    assert found["level"] == "fail"


def test_of_sources_alone_it_is_sure_at_once(mixed):
    text = (mixed / "spec.yaml").read_text()
    (mixed / "spec.yaml").write_text(text.replace("[rewritten, general]", "[source, general]"))
    assert planned()["mixed"]["stops_if"] == "" and STOPS in planned()["mixed"]["stops"]
    assert not (mixed / "runs").exists()


def test_nothing_is_foretold_where_there_are_enough(mixed):
    general(20)
    assert planned()["mixed"]["stops"] == "" and doctored() == []
    assert call("run", "spec.yaml", "--stage", "refine").code == 0
    assert planned()["mixed"]["stops"] == "" and planned()["mixed"]["status"] == "stands"
