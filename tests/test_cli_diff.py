"""`refinery diff` against what `refinery plan` would run."""

import pytest

from tests.cli_tools import call, project
from tests.models.server import serve


@pytest.fixture
def ran(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with serve(answer="play") as server:
        project(tmp_path, server.url)
        assert call("run", "spec.yaml", "--stage", "refine").code == 0
        yield tmp_path


def edited(folder, old, new):
    text = (folder / "spec.yaml").read_text()
    assert old in text
    (folder / "new.yaml").write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "runs"),
    [
        ("samples: 2", "samples: 2", {}),
        ("samples: 2", "samples: 3", {"rewritten": "directly", "agrees": "indirectly", "fused": "indirectly"}),
        ("rounds: 2", "rounds: 3", {"fused": "directly"}),
        ("kind: last_word", "kind: contains", {"agrees": "directly", "fused": "indirectly"}),
        ("model: judge,", "model: other,", {"fused": "directly"}),
        ("timeout: 20", "timeout: 30", {}),
        ("Known:", "Known is:", {"rewritten": "directly", "agrees": "indirectly", "fused": "indirectly"}),
        ("name: small", "name: small\nseed: 1", {s: "directly" for s in ("rewritten", "agrees", "fused")}),
    ],
)
def test_it_names_the_steps_that_a_plan_would_run(ran, old, new, runs):
    edited(ran, old, new)
    found = call("diff", "spec.yaml", "new.yaml", "--json").json
    assert {step["name"]: step["how"] for step in found["steps"] if step["what"] == "runs"} == runs
    if "seed" not in new:  # which also shuffles the split
        (ran / "spec.yaml").write_text((ran / "new.yaml").read_text())
        planned = call("plan", "spec.yaml", "--json").json["steps"]
        assert {step["name"] for step in planned if step["status"] == "runs"} == set(runs)
        against = call("diff", "spec.yaml", "--json").json
        assert against["changes"] == found["changes"] and against["steps"] == found["steps"]


def test_changed_keys_old_to_new_and_texts_line_by_line(ran):
    edited(ran, "samples: 2", 'samples: 3, system: "one\\ntwo\\nthree"')
    (ran / "spec.yaml").write_text((ran / "new.yaml").read_text())
    edited(ran, "ne\\ntwo", "ne\\n2")
    done = call("diff", "spec.yaml", "new.yaml")
    assert "graph.rewritten.system:" in done.out
    assert [line.strip() for line in done.out.splitlines()[2:6]] == ["one", "-two", "+2", "three"]
    done = call("diff", "spec.yaml")
    assert "graph.rewritten.samples: 2 -> 3" in done.out and "+ graph.rewritten.system: one two three" in done.out


def test_a_renamed_step_stands_and_a_removed_one_is_gone(ran):
    edited(ran, "agrees", "right")
    steps = {step["name"]: step for step in call("diff", "spec.yaml", "new.yaml", "--json").json["steps"]}
    assert steps["right"]["what"] == steps["fused"]["what"] == "stands"
    assert steps["right"]["why"] == ["as agrees, under another name"]
    assert steps["agrees"]["what"] == "is gone"


def test_edited_rows_run_everything(ran):
    (ran / "rows.jsonl").write_text((ran / "rows.jsonl").read_text().replace("Sundays", "Mondays"))
    steps = {step["name"]: step for step in call("diff", "spec.yaml", "--json").json["steps"]}
    assert (steps["source"]["what"], steps["source"]["why"]) == ("runs", ["its rows changed"])
    assert {step["how"] for name, step in steps.items() if name != "source"} == {"indirectly"}


def test_the_last_run_is_taken_with_its_overrides(ran):
    call("run", "spec.yaml", "--stage", "refine", "--set", "graph.fused.rounds=1")
    found = call("diff", "spec.yaml", "--json").json
    assert [(change["key"], change["old"], change["new"]) for change in found["changes"]] == [
        ("graph.fused.rounds", 1, 2)
    ]


def test_methods_train_again_where_their_rows_or_settings_differ(ran):
    train = """
train:
  data: fused
  methods:
    sft_raw: {method: sft, data: source}
    sft_fused: {method: sft}
    raft: {method: raft}
"""
    (ran / "spec.yaml").write_text((ran / "spec.yaml").read_text() + train)
    edited(ran, "rounds: 2", "rounds: 3")
    methods = {each["name"]: each for each in call("diff", "spec.yaml", "new.yaml", "--json").json["methods"]}
    assert {name: (each["what"], each["how"]) for name, each in methods.items()} == {
        "sft_raw": ("stands", ""),
        "sft_fused": ("runs", "indirectly"),
        "raft": ("runs", "indirectly"),
    }
    edited(ran, "{method: raft}", "{method: raft, epochs: 1}")
    methods = {each["name"]: each for each in call("diff", "spec.yaml", "new.yaml", "--json").json["methods"]}
    assert {name: each["what"] for name, each in methods.items()} == {
        "sft_raw": "stands",
        "sft_fused": "stands",
        "raft": "runs",
    }
    assert methods["raft"]["why"] == ["epochs"]


def test_without_a_run_there_is_nothing_to_compare_with(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    project(tmp_path, "http://127.0.0.1:9/v1")
    done = call("diff", "spec.yaml")
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)


def test_a_step_that_was_interrupted_does_not_stand(ran):
    from refinery.store import Store

    store = Store(ran / "runs/small/refinery.duckdb")
    row = store.last_step("agrees")
    store.replace("steps", [{**row, "status": "running", "finished_at": None}], ["fingerprint"])
    steps = {step["name"]: step for step in call("diff", "spec.yaml", "--json").json["steps"]}
    assert (steps["agrees"]["what"], steps["agrees"]["why"]) == ("runs", ["not finished"])
    assert steps["rewritten"]["what"] == steps["fused"]["what"] == "stands"
