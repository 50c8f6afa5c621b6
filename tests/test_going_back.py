"""A run that goes back to an earlier setting: its steps stand, and everything speaks of them again."""

import json

import duckdb
import pytest

from tests.cli_tools import call, project
from tests.models.server import serve

KINDS = {"jsonl": "out.jsonl", "parquet": "out.parquet", "hf": "out"}
LAST = "  few: {{op: check_answer, from: fused, kind: {kind}, on_error: drop, fallback: drop}}\n"
EXPORT = "  written: {{op: export, from: few, format: {format}, to: {to}}}\n"


@pytest.fixture(params=KINDS)
def back(request, tmp_path, monkeypatch):
    """A folder in which a spec ran, then with another check, then as at first; and what each run left."""
    monkeypatch.chdir(tmp_path)
    with serve(answer="play") as server:
        path = project(tmp_path, server.url)
        text = path.read_text() + EXPORT.format(format=request.param, to=KINDS[request.param])
        wrote, shown = [], []
        for kind in ("last_word", "contains", "last_word"):
            path.write_text(text + LAST.format(kind=kind))
            done = call("run", "spec.yaml", "--stage", "refine")
            assert done.code == 0, done.err
            wrote.append(rows(tmp_path))
            shown.append(call("show", "spec.yaml", "--json").json["steps"])
        yield Back(tmp_path, wrote, shown, server)


class Back:
    def __init__(self, folder, wrote, shown, server):
        self.folder, self.wrote, self.shown, self.server = folder, wrote, shown, server


def rows(folder):
    """(fingerprint, id) of every row that was exported."""
    file = next(each for each in (folder / "out.jsonl", folder / "out.parquet", folder / "out/data/train.parquet")
                if each.exists())  # fmt: skip
    if file.suffix == ".jsonl":
        found = [json.loads(line) for line in file.read_text().splitlines()]
        return [(row["refinery_fingerprint"], row["refinery_id"]) for row in found]
    return duckdb.sql(f"SELECT refinery_fingerprint, refinery_id FROM '{file}'").fetchall()


def test_a_file_holds_the_rows_of_the_variant_that_ran_last(back):
    assert back.wrote[0] == back.wrote[2] != back.wrote[1]
    steps = call("plan", "spec.yaml", "--json").json["steps"]
    assert {step["status"] for step in steps} == {"stands"}


def test_every_view_speaks_of_it(back):
    assert back.shown[0] == back.shown[2] != back.shown[1]
    counts = {step["name"]: step["actions"] for step in back.shown[0]}
    status = call("status", "spec.yaml", "--json").json["steps"]
    assert {step["name"]: {action: step[action] for action in counts["few"]} for step in status} == counts
    few = call("show", "spec.yaml", "few", "--action", "kept", "-n", "50", "--json").json
    assert few["total"] == len(back.wrote[0])
    done = call("export", "spec.yaml", "few", "--to", "again.jsonl")
    assert done.code == 0, done.err
    assert len((back.folder / "again.jsonl").read_text().splitlines()) == len(back.wrote[0])
    found = call("diff", "spec.yaml", "--json").json
    assert found["changes"] == [] and {step["what"] for step in found["steps"]} == {"stands"}


def test_a_diff_knows_what_an_earlier_run_made(back):
    text = (back.folder / "spec.yaml").read_text()
    (back.folder / "spec.yaml").write_text(text.replace("kind: last_word, on_error", "kind: contains, on_error"))
    steps = {step["name"]: step for step in call("diff", "spec.yaml", "--json").json["steps"]}
    assert (steps["few"]["what"], steps["few"]["why"]) == ("stands", ["made by an earlier run"])
    done = call("export", "spec.yaml", "few", "--to", "again.jsonl")
    assert (done.code, done.err.count("\n")) == (2, 1) and "refinery run brings it up to date" in done.err
    assert call("run", "spec.yaml", "--stage", "refine").code == 0
    assert rows(back.folder) == back.wrote[1]
    done = call("export", "spec.yaml", "few", "--to", "again.jsonl")
    assert done.code == 0, done.err


def test_what_reads_the_store_alone_does_without_the_source(back):
    (back.folder / "rows.jsonl").unlink()
    assert call("show", "spec.yaml", "--json").json["steps"] == back.shown[2]
    assert call("status", "spec.yaml").code == 0
    done = call("export", "spec.yaml", "few", "--to", "again.jsonl")
    assert done.code == 0, done.err
    done = call("plan", "spec.yaml")
    assert done.code == 2 and "there is no file rows.jsonl" in done.err
