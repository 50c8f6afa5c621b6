"""Why a step would run again, as `plan` (against the store) and `diff` (against the last run's spec) say it."""

from pathlib import Path

import pytest

from refinery.differing import difference, prints
from refinery.ops import check_answer
from refinery.reasons import why_step
from refinery.spec import load_spec
from refinery.steps import resolve, start
from refinery.store import Store
from tests.cli_tools import SPEC, call, project
from tests.models.server import serve

LONG = SPEC.replace("  fused:", "  both: {{op: mix, from: [source, agrees]}}\n  fused:")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reasons")
    with pytest.MonkeyPatch.context() as patch, serve(answer="play") as server:
        patch.chdir(folder)
        project(folder, server.url, rows=6, spec=LONG)
        assert call("run", "spec.yaml", "--stage", "refine").code == 0
        yield folder


@pytest.fixture
def ran(made, monkeypatch):
    monkeypatch.chdir(made)
    return made


def told(folder: Path, *edits: tuple[str, str]) -> tuple[dict, dict]:
    """(plan's reasons, diff's reasons) of the steps that would run, once the spec is edited."""
    text = (folder / "spec.yaml").read_text()
    try:
        edited = text
        for old, new in edits:
            assert old in edited
            edited = edited.replace(old, new)
        (folder / "spec.yaml").write_text(edited)
        planned, differing = call("plan", "spec.yaml", "--json"), call("diff", "spec.yaml", "--json")
    finally:
        (folder / "spec.yaml").write_text(text)
    assert planned.code == differing.code == 0, planned.err + differing.err
    return (
        {step["name"]: step["why"] for step in planned.json["steps"] if step["status"] == "runs"},
        {step["name"]: (step["how"], step["why"]) for step in differing.json["steps"] if step["what"] == "runs"},
    )


DIRECT, BELOW = "directly", "indirectly"


@pytest.mark.parametrize(
    ("edits", "planned", "differing"),
    [
        pytest.param(
            [("from: agrees\n", "from: rewritten\n")],
            {"fused": ["from: agrees -> rewritten"]},
            {"fused": (DIRECT, ["from: agrees -> rewritten"])},
            id="from",
        ),
        pytest.param(
            [("[source, agrees]", "[agrees, source]")],
            {"both": ["from: source, agrees -> agrees, source"]},
            {"both": (DIRECT, ["from: source, agrees -> agrees, source"])},
            id="order of from",
        ),
        pytest.param(
            [("[source, agrees]", "[source, rewritten, agrees]"), ("last_word", "contains")],
            {
                "agrees": ["kind: last_word -> contains"],
                "both": ["from: source, agrees -> source, rewritten, agrees", "upstream agrees changed"],
                "fused": ["upstream agrees changed"],
            },
            {
                "agrees": (DIRECT, ["kind"]),
                "both": (DIRECT, ["from: source, agrees -> source, rewritten, agrees"]),
                "fused": (BELOW, ["reads agrees"]),
            },
            id="from and what it reads",
        ),
        pytest.param(
            [("last_word", "contains")],
            {
                "agrees": ["kind: last_word -> contains"],
                "both": ["upstream agrees changed"],
                "fused": ["upstream agrees changed"],
            },
            {"agrees": (DIRECT, ["kind"]), "both": (BELOW, ["reads agrees"]), "fused": (BELOW, ["reads agrees"])},
            id="one of two that it reads",
        ),
        pytest.param(
            [("op: check_answer, from: rewritten, kind: last_word", "op: length_filter, from: rewritten, max: 500")],
            {
                "agrees": ["op: check_answer -> length_filter"],
                "both": ["upstream agrees changed"],
                "fused": ["upstream agrees changed"],
            },
            {
                "agrees": (DIRECT, ["op check_answer -> length_filter"]),
                "both": (BELOW, ["reads agrees"]),
                "fused": (BELOW, ["reads agrees"]),
            },
            id="op",
        ),
        pytest.param(
            [("model: judge,", "model: other,")],
            {"fused": ["model judge changed"]},
            {"fused": (DIRECT, ["model judge"])},
            id="model",
        ),
        pytest.param(
            [("agrees", "right"), ("rounds: 2", "rounds: 3")],
            {"fused": ["rounds: 2 -> 3"]},
            {"fused": (DIRECT, ["rounds"])},
            id="a renamed step below an edit",
        ),
        pytest.param([("agrees", "right")], {}, {}, id="a renamed step"),
        pytest.param(
            [("{{ question }} {{ rewrite }} {{ answer }}", "{{ question }} {{ rewrite }} {{ answer }}!")],
            {"fused": ["prompt changed"]},
            {"fused": (DIRECT, ["prompt"])},
            id="the end of a long text",
        ),
        pytest.param(
            [("{train: 1.0, validation: 0, test: 0}", "{train: 0.5, validation: 0, test: 0.5}")],
            {
                "source": ["split.train: 1.0 -> 0.5", "split.test: 0.0 -> 0.5"],
                "rewritten": ["upstream source changed"],
                "agrees": ["upstream rewritten changed"],
                "both": ["upstream source, agrees changed"],
                "fused": ["upstream agrees changed"],
            },
            None,
            id="a nested key of a source",
        ),
    ],
)
def test_the_reason_is_what_was_edited(ran, edits, planned, differing):
    found = told(ran, *edits)
    assert found[0] == planned
    assert differing is None or found[1] == differing


def test_a_version_is_named(ran, monkeypatch):
    monkeypatch.setattr(check_answer, "VERSION", 99)
    planned, differing = told(ran)
    assert planned["agrees"] == ["check_answer version 2 -> 99"]
    assert differing["agrees"] == (DIRECT, ["check_answer version 2 -> 99"])
    assert planned["fused"] == ["upstream agrees changed"] and differing["fused"] == (BELOW, ["reads agrees"])


@pytest.fixture
def other_print(ran):
    """The step as the store has it, under another fingerprint and with other keys; put back afterwards."""
    store = Store(ran / "runs/small/refinery.duckdb")
    row = store.last_step("agrees")
    names = store.query("SELECT * FROM names WHERE name = 'agrees'")

    def change(**keys):
        store.replace("steps", [{**row, "fingerprint": "elsewhere", **keys}], ["fingerprint"])
        store.replace("names", [{"name": "agrees", "step": "elsewhere"}], ["name"])

    yield row, change
    store.replace("names", names, ["name"])


def test_a_parameter_that_an_op_did_not_have_yet_is_no_reason(ran, other_print):
    row, change = other_print
    change(params={key: value for key, value in row["params"].items() if key != "tolerance"} | {"kind": "exact"})
    planned, _ = told(ran, ("kind: last_word", "kind: contains"))
    assert planned["agrees"] == ["kind: exact -> contains"]


def test_nothing_else_is_left_but_the_seed(ran, other_print):
    _, change = other_print
    change(params={**other_print[0]["params"], "kind": "contains"})
    planned, _ = told(ran, ("kind: last_word", "kind: contains"))
    assert planned["agrees"] == ["seed changed"]


def test_a_rewriter_that_learns_from_other_rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = """
source: {lab: clinic, limit: 20}
rewriters: {writer: {method: rewriting_agent, data: first}}
graph:
  first: {op: length_filter, from: source, max: 50}
  written: {op: rewrite, from: source, model: writer}
"""
    Path("a.yaml").write_text(text)
    Path("b.yaml").write_text(text.replace("50", "40"))
    old, new = load_spec("a.yaml"), load_spec("b.yaml")
    found = difference(old, new, prints(old, {"source": "s"}), {"source": "s"})
    assert [(step.name, step.how, step.why) for step in found.steps if step.what == "runs"] == [
        ("first", DIRECT, ["max"]),
        ("written", BELOW, ["model writer learns from first"]),
    ]


def test_methods_of_renamed_steps_stand_and_other_stages_train_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = """
source: {lab: clinic, limit: 20}
graph:
  first: {op: length_filter, from: source, max: 50}
train:
  stages: [{name: one, data: source}]
  methods: {plain: {method: sft, data: first}}
"""
    Path("a.yaml").write_text(text)
    old = load_spec("a.yaml")

    def methods(*edits):
        edited = text
        for before, after in edits:
            edited = edited.replace(before, after)
        Path("b.yaml").write_text(edited)
        found = difference(old, load_spec("b.yaml"), prints(old, {"source": "s"}), {"source": "s"})
        return [(each.what, each.how, each.why) for each in found.methods]

    assert methods(("first", "short")) == [("stands", "", [])]
    assert methods(("data: first", "data: source")) == [("runs", DIRECT, ["data: first -> source"])]
    assert methods(("{name: one, data: source}", "{name: one, data: first}")) == [("runs", DIRECT, ["stages"])]


def test_an_encoder_that_changed_in_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("enc").mkdir()
    Path("enc/config.json").write_text("{}")
    Path("enc/model.safetensors").write_text("")
    text = """
source: {lab: clinic, limit: 20}
graph: {close: {op: semantic_filter, from: source, encoder: enc}}
"""
    Path("a.yaml").write_text(text)
    spec, store = load_spec("a.yaml"), Store(tmp_path / "s.duckdb")
    before = prints(spec, {"source": "s"})
    (step,) = resolve(spec, {"source": "s"})
    start(store, step, "r")
    stored = {"close": store.last_step("close")}
    Path("enc/config.json").write_text('{"hidden_size": 4}')
    (step,) = resolve(spec, {"source": "s"})
    assert why_step(step, store, []) == ["seed or encoder enc changed"]
    found = difference(spec, spec, before, {"source": "s"}, stored)
    assert [each.why for each in found.steps if each.what == "runs"] == [["encoder enc"]]
