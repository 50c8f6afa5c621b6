"""`refinery show`, `status` and `runs` against what was run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from refinery.store import Store
from tests.cli_tools import call, project
from tests.models.server import serve

ROOT = Path(__file__).parent.parent
VIEWS = [
    ("show", "spec.yaml"),
    ("show", "spec.yaml", "agrees", "-n", "20"),
    ("show", "spec.yaml", "--reason", "disagrees"),
    ("show", "spec.yaml", "--search", "rule 7 OF"),
    ("show", "spec.yaml", "fused", "--action", "kept"),
    ("status", "spec.yaml"),
    ("runs",),
    ("plan", "spec.yaml"),
    ("diff", "spec.yaml"),
    ("doctor", "spec.yaml"),
]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A folder in which a small spec has been refined."""
    folder = tmp_path_factory.mktemp("ran")
    with pytest.MonkeyPatch.context() as patch, serve(answer="play") as server:
        patch.chdir(folder)
        project(folder, server.url)
        path = folder / "spec.yaml"
        path.write_text(path.read_text() + "  few: {op: check_answer, from: fused, on_error: drop, fallback: drop}\n")
        assert call("run", "spec.yaml", "--stage", "refine").code == 0
        yield folder


@pytest.fixture(autouse=True)
def _there(ran, monkeypatch):
    monkeypatch.chdir(ran)


@pytest.fixture
def store(ran):
    return Store(ran / "runs/small/refinery.duckdb")


@pytest.mark.parametrize("view", VIEWS, ids=" ".join)
def test_every_view_fits_80_columns_and_is_valid_json(view):
    done = call(*view)
    assert done.code == 0, done.err
    assert done.out.strip() and max(len(line) for line in done.out.splitlines()) <= 80
    assert isinstance(call(*view, "--json").json, dict)


def test_the_funnel_adds_up(store):
    steps = call("show", "spec.yaml", "--json").json["steps"]
    assert [step["name"] for step in steps] == ["source", "rewritten", "agrees", "fused", "few"]
    counted = store.query(
        "SELECT s.name, o.action, count(*) AS n FROM outcomes o JOIN steps s ON s.fingerprint = o.step GROUP BY ALL"
    )
    for step in steps:
        assert {a: n for a, n in step["actions"].items() if n} == {
            row["action"]: row["n"] for row in counted if row["name"] == step["name"]
        }
        assert step["rows"] == 20 == sum(part["rows"] for part in step["reasons"])


def test_rows_are_found_by_reason_action_and_text(store):
    steps = {step["name"]: step for step in call("show", "spec.yaml", "--json").json["steps"]}
    gone = steps["few"]["actions"]["dropped"]
    assert gone > 0  # else nothing here is tested
    found = call("show", "spec.yaml", "few", "--dropped", "-n", "50", "--json").json
    assert found["total"] == gone == len(found["rows"])
    for row in found["rows"]:  # a dropped row is shown as it came in
        assert row["response"] is None and row["before"] and row["question"].startswith("What does rule")
    word = found["rows"][0]["before"].upper()
    hits = call("show", "spec.yaml", "--search", word, "--json").json
    assert [row["id"] for row in hits["rows"]] == [found["rows"][0]["id"]]
    assert hits["rows"][0]["step"] == "few"
    everywhere = call("show", "spec.yaml", "--reason", "disagrees", "-n", "50", "--json").json
    assert everywhere["total"] == sum(
        part["rows"] for step in steps.values() for part in step["reasons"] if part["reason"] == "disagrees"
    )
    exactly = call("show", "spec.yaml", "source", "--search", "rule 7 of", "--json").json
    assert [row["reference"] for row in exactly["rows"]] == ["Rule 7 asks for code 49"]


def test_a_row_is_shown_with_its_whole_history():
    row = call("show", "spec.yaml", "source", "-n", "1", "--json").json["rows"][0]
    way = call("show", "spec.yaml", "--row", row["id"][:10], "--json").json
    assert way["id"] == row["id"] and way["made_from_it"] == []
    assert [step["step"] for step in way["history"]] == ["source", "rewritten", "agrees", "fused", "few"]
    assert way["history"][1]["scores"]["valid"] == 2
    for earlier, later in zip(way["history"], way["history"][1:], strict=False):
        assert later["before"] == earlier["response"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("show", "spec.yaml", "fusd"), 'no step "fusd" in refinery.duckdb (did you mean "fused"?)'),
        (("show", "spec.yaml", "--action", "keept"), 'no action "keept" (did you mean "kept"?)'),
        (
            ("show", "spec.yaml", "--reason", "disagres"),
            'no row with the reason "disagres" (did you mean "disagrees"?)',
        ),
        (("show", "spec.yaml", "--row", "zz"), 'no row whose id starts with "zz"'),
        (("show", "spec.yaml", "--row", ""), ""),
        (("show", "none.yaml"), "none.yaml"),
        (("runs", "nowhere"), "nowhere: no such folder, spec or store"),
    ],
)
def test_mistakes_are_one_line(args, message):
    done = call(*args)
    if message:
        assert (done.code, done.out) == (2, "")
        assert done.err.startswith("error: ") and done.err.count("\n") == 1 and message in done.err
    else:
        assert done.code == 0  # an empty --row is none


def test_status_tells_a_run_that_goes_on_from_one_that_was_killed(ran, store):
    assert call("status", "spec.yaml", "--json").json["run"]["status"] == "complete"
    assert call("status", "spec.yaml", "--json").json["running"] is None
    hold = """
import sys, time
from refinery.store import Store
store = Store(sys.argv[1])
with store.run_lock():
    print(store.start_run("small", "", "", {}), flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", hold, str(store.path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        assert process.stdout and process.stdout.readline()
        found = call("status", "spec.yaml", "--json").json
        assert found["running"]["pid"] == process.pid and found["run"]["status"] == "running"
        assert "running for" in call("status", "spec.yaml").out
    finally:
        process.kill()
        process.wait()
    found = call("status", "spec.yaml", "--json").json
    assert found["running"] is None and found["run"]["status"] == "killed"
    assert [run["status"] for run in call("runs", "--json").json["runs"]] == ["killed", "complete"]
    assert "goes on where it stopped" in call("status", "spec.yaml").out


def test_status_shows_checkpoints_and_mean_scores(ran, store):
    from refinery.records import Score

    for seed, value in ((0, 0.5), (1, 0.7)):
        store.start_checkpoint(f"c{seed}", "r", "sft", "sft", {}, seed, "", "", "x", "final")
        store.finish_checkpoint(f"c{seed}", {})
        store.add_scores([Score(f"c{seed}", "heldout", "accuracy", value, 0.4, 0.8, 10, "f")])
    found = call("status", "spec.yaml", "--json").json
    assert [(row["name"], row["seed"]) for row in found["checkpoints"]] == [("sft", 0), ("sft", 1)]
    assert [row["value"] for row in found["scores"]] == [0.5, 0.7]
    assert "0.600" in call("status", "spec.yaml").out
    assert json.dumps(found)
