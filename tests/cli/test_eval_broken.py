"""Weights from elsewhere that cannot be loaded or compared: the others are scored, and the end says so."""

import json
import shutil
from pathlib import Path

import pytest

from refinery.lab import BASE
from refinery.store import Store
from tests.cli_tools import call

ASKED = ("--base", "lab", "--general", "lab_facts", "--limit", "4", "--set", "evaluate.movement=0")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """same and cut: the base, whole and cut short; lora: an adapter of nothing that names another base; retold: the
    base with another chat template."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("made")
    for name in ("same", "cut", "retold"):
        shutil.copytree(BASE, folder / name)
    with (folder / "cut" / "model.safetensors").open("r+b") as file:
        file.truncate(100_000)
    template = folder / "retold" / "chat_template.jinja"
    template.write_text("{# told otherwise #}" + template.read_text())
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(BASE), LoraConfig(r=2, target_modules="all-linear"))
    adapted.peft_config["default"].base_model_name_or_path = "org/other-base"
    adapted.save_pretrained(folder / "lora")
    return folder


@pytest.fixture(scope="module")
def evaluated(made) -> Path:
    weights = [f"{made}/{name}" for name in ("same", "cut", "lora")]
    done = call("eval", *weights, *ASKED, "--out", f"{made}/out")
    assert done.code == 2 and "Traceback" not in done.err
    before, after = done.err.split("evaluate: checkpoints", 1)
    assert f"failed: cut={made}/cut: model.safetensors is cut short" in before, "it is said before anything is scored"
    assert "error: 1 checkpoints failed, the others stand:\ncut=" in after
    warned = "lora is an adapter that was trained on org/other-base"
    assert f"warning: {warned}" in before and f"note: {warned}" in done.out
    assert "Damage" not in done.out and "lab_facts 0.0" in done.out, "equal weights changed nothing"
    assert max(map(len, [line for line in done.out.splitlines() if line.startswith(("│", "┃", "┏"))])) <= 80
    return made / "out"


def test_one_bad_checkpoint_leaves_the_others_alone(evaluated):
    store = Store(evaluated / "refinery.duckdb", read_only=True)
    names = {row["fingerprint"]: row["name"] for row in store.checkpoints()}
    assert {names[score.checkpoint] for score in store.scores(benchmark="lab_facts")} == {"base", "same", "lora"}
    page = (evaluated / "report.md").read_text()
    assert "trained on org/other-base" in page and "same" in page


def test_a_run_is_named_by_its_folder_or_its_store(evaluated, tmp_path, monkeypatch):
    """From any folder, as compare takes it; where there is no eval.yaml the store knows what it was run with."""
    monkeypatch.chdir(tmp_path)
    for number, named in enumerate((evaluated, evaluated / "refinery.duckdb", evaluated / "eval.yaml")):
        done = call("report", str(named), "--format", "md", "--out", str(tmp_path / str(number)))
        assert done.code == 0, done.err
    pages = [(tmp_path / str(number) / "report.md").read_text() for number in range(3)]
    assert pages[0] == pages[1] == pages[2]
    shutil.copytree(evaluated, tmp_path / "runs" / "moved")
    (tmp_path / "runs" / "moved" / "eval.yaml").unlink()
    assert call("report", "moved", "--format", "md").code == 0
    assert "lora" in (tmp_path / "runs" / "moved" / "report.md").read_text()
    (tmp_path / "empty").mkdir()
    refused = call("report", "empty")
    assert refused.code == 2 and refused.err == (
        "error: empty: holds no store of a run; name the spec, or a folder with refinery.duckdb in it\n"
    )


def test_an_import_goes_into_a_folder_as_into_its_store(evaluated, tmp_path):
    shutil.copytree(evaluated, tmp_path / "copy")
    given = Path(__file__).parents[1] / "evals" / "logs" / "inspect_sums_strong.json"
    done = call("import", str(given), str(tmp_path / "copy"), "--name", "brought")
    assert done.code == 0, done.err
    rows = Store(tmp_path / "copy" / "refinery.duckdb", read_only=True).checkpoints()
    assert [row["name"] for row in rows if row["role"] == "imported"] == ["brought"]


def test_the_doctor_looks_at_checkpoints_and_needs_no_source(evaluated, made):
    done = call("doctor", str(evaluated / "eval.yaml"), "--json")
    assert done.code == 2, done.err
    found = {each["what"]: (each["level"], each["message"]) for each in done.json["findings"]}
    assert found["checkpoints.same"] == ("ok", f"{made}/same is here and whole")
    assert found["checkpoints.cut"][0] == "fail" and "cut short" in found["checkpoints.cut"][1]
    assert found["checkpoints.lora"][0] == "warn" and "org/other-base" in found["checkpoints.lora"][1]
    assert "source" not in found


def test_where_nothing_can_be_compared_the_end_says_why_and_what_to_do(made):
    done = call("eval", f"{made}/retold", *ASKED, "--out", f"{made}/apart")
    assert done.code == 2
    assert "note: retold: lab_facts left out" in done.out and "chat_template" in done.out
    (line,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    store = f"{made}/apart/refinery.duckdb"
    assert f"nothing could be compared, as the notes say: `refinery compare {store} --accept chat_template`" in line
    assert (made / "apart" / "report.md").exists()
    compared = call("compare", store, "--accept", "chat_template", "--json")
    assert compared.code == 0, compared.err
    assert [each["name"] for each in json.loads(compared.out)["comparisons"][0]["benchmarks"]] == ["lab_facts"]


def test_where_every_checkpoint_is_bad_nothing_is_scored(made):
    done = call("eval", f"{made}/cut", *ASKED, "--out", f"{made}/none")
    assert done.code == 2 and done.err.count("\n") == 1 and "cut short" in done.err
    assert Store(made / "none" / "refinery.duckdb", read_only=True).scores() == []
