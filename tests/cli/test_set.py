"""`--set`: every verb that reads a spec takes it, and sees what the run saw."""

import pytest
import typer

from refinery.cli import app
from tests.cli_tools import call, project

SPEC = """
name: small
source: {{path: rows.jsonl, split: {{train: 1.0, validation: 0, test: 0}}}}
graph: {{short: {{op: length_filter, from: source, max: 500}}}}
"""
ELSEWHERE = ("--set", "store=elsewhere/s.duckdb")
VERBS = {
    "status": (),
    "show": (),
    "runs": (),
    "diff": (),
    "plan": (),
    "doctor": (),
    "export": ("short", "--to", "out.jsonl"),
    "diagnose": ("--sweep", "max"),
    "label": ("short", "--to", "page.html"),
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        project(folder, "", spec=SPEC)
        assert call("run", "spec.yaml", "--stage", "refine", *ELSEWHERE).code == 0
    return folder


def test_every_verb_that_reads_a_spec_has_it():
    commands = typer.main.get_command(app).commands
    without = {name for name, command in commands.items() if not any("--set" in p.opts for p in command.params)}
    assert without == {"init", "schema"}


@pytest.mark.parametrize("verb", VERBS)
def test_it_finds_the_store_of_the_run(ran, monkeypatch, verb):
    monkeypatch.chdir(ran)
    missing = call(verb, "spec.yaml", *VERBS[verb])
    there = call(verb, "spec.yaml", *VERBS[verb], *ELSEWHERE)
    absent = "refinery.duckdb: no such" in missing.err or "no store" in missing.err
    assert absent or verb in ("plan", "doctor"), missing.err
    nothing = ("no threshold", "there is nothing to prefer")  # the store was read: it holds no such thing
    assert there.code == 0 or any(words in there.err for words in nothing), there.err


def test_a_store_has_no_keys_to_override(ran, monkeypatch):
    monkeypatch.chdir(ran)
    for verb, rest in VERBS.items():
        if verb not in ("diff", "plan", "doctor"):
            done = call(verb, "elsewhere/s.duckdb", *rest, *ELSEWHERE)
            assert done.code == 2 and "--set overrides a key of a spec, and elsewhere/s.duckdb is a store" in done.err


def test_diff_overrides_the_new_spec(ran, monkeypatch):
    monkeypatch.chdir(ran)
    done = call("diff", "spec.yaml", *ELSEWHERE, "--set", "graph.short.max=400", "--json").json
    assert ("graph.short.max", 500, 400) in [(each["key"], each["old"], each["new"]) for each in done["changes"]]
    done = call("diff", "spec.yaml", "spec.yaml", "--set", "graph.short.max=400", "--json").json
    assert [(each["key"], each["new"]) for each in done["changes"]] == [("graph.short.max", 400)]
