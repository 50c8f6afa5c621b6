"""The spec that `refinery eval` writes: nothing is put over another's, and mistakes leave nothing behind."""

import shutil
from pathlib import Path

import pytest
import yaml

from refinery.lab import BASE
from tests.cli_tools import call

LIKE_BASE = ("--general", "lab_facts", "--limit", "4", "--set", "evaluate.movement=0")


@pytest.fixture(scope="module")
def done_once(tmp_path_factory) -> tuple[Path, Path]:
    """(folder of a copy of the base, folder in which it was evaluated against the base)."""
    folder = tmp_path_factory.mktemp("once")
    shutil.copytree(BASE, folder / "same")
    done = call("eval", f"same={folder}/same", "--base", "lab", *LIKE_BASE, "--out", f"{folder}/out")
    assert done.code == 0, done.err
    assert done.out.rstrip().splitlines()[-2:] == [
        f"next: refinery report {folder}/out/eval.yaml --format latex  (or csv, json, html, markdown)",
        f'      refinery compare {folder}/out/eval.yaml --fail-if "general_mean < -2pp"',
    ]
    return folder / "same", folder / "out"


def test_another_evaluation_is_not_put_over_one_that_stands(done_once):
    weights, out = done_once
    spec, page = (out / "eval.yaml").read_text(), (out / "report.md").read_text()
    other = ("eval", f"same={weights}", "--base", "lab-small", *LIKE_BASE, "--out", str(out))
    refused = call(*other)
    assert refused.code == 2 and refused.err.count("\n") == 1
    assert f"{out}/eval.yaml exists and differs (model lab, now lab-small)" in refused.err
    assert "--out" in refused.err and "--force" in refused.err
    assert ((out / "eval.yaml").read_text(), (out / "report.md").read_text()) == (spec, page)


def test_the_same_command_goes_on_and_its_gates_are_judged(done_once):
    """A copy of the base loses nothing, so its difference is exactly 0."""
    weights, out = done_once
    same = ("eval", f"same={weights}", "--base", "lab", *LIKE_BASE, "--out", str(out))
    failed = call(*same, "--fail-unless", "general_mean > 2pp")
    assert failed.code == 1, failed.err
    assert "FAILED: --fail-unless general_mean > 2pp (base -> same)" in failed.out
    passed = call(*same, "--fail-if", "lab_facts < -2pp")
    assert passed.code == 0 and "passed: --fail-if lab_facts < -2pp" in passed.out


def test_force_puts_the_new_spec_in_place(done_once, tmp_path):
    weights, out = done_once
    shutil.copytree(out, tmp_path / "out")
    asked = ("--general", "lab_facts", "--limit", "3", "--set", "evaluate.movement=0", "--out", f"{tmp_path}/out")
    done = call("eval", f"same={weights}", "--base", "lab", *asked, "--force")
    assert done.code == 0, done.err
    assert yaml.safe_load((tmp_path / "out" / "eval.yaml").read_text())["evaluate"]["limit"] == 3


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ("--domain", "lab_clinic,lab_fact"),
            'error: --domain: there is no benchmark "lab_fact" (did you mean "lab_facts"?)\n',
        ),
        (("--general", "humaneval"), "in a sandbox (--set evaluate.run_code=true)\n"),
        (("--general", "lab_facts", "--backend", "here"), 'error: --backend: there is no served model "here"'),
        (("--general", "lab_facts", "--fail-if", "lab_sums < 0pp"), 'error: gate "lab_sums < 0pp": no lab_sums'),
        (("--general", "lab_facts", "--set", "evaluate.wrong=1"), 'error: --set:1:1: unknown key "wrong"'),
    ],
)
def test_a_mistake_names_its_option_and_writes_nothing(tmp_path, args, message):
    done = call("eval", f"a={BASE}", "--base", "lab", *args, "--out", f"{tmp_path}/out")
    assert done.code == 2 and message in done.err and "eval.yaml" not in done.err
    assert not (tmp_path / "out").exists()


def test_a_weights_file_is_answered_with_its_folder(tmp_path):
    file = f"{BASE}/model.safetensors"
    done = call("eval", f"a={file}", "--base", "lab", "--general", "lab_facts", "--out", f"{tmp_path}/out")
    assert done.code == 2 and done.err == f"error: {file}: this is a file: give its folder, {BASE}\n"


def test_what_can_be_measured_has_suites_first(tmp_path):
    done = call("eval", f"a={BASE}", "--base", "lab", "--out", f"{tmp_path}/out")
    lines = done.err.splitlines()
    assert done.code == 2 and lines[1] == "suites:" and lines[2].split(None, 1)[0] == "general"
    at = lines.index("benchmarks, besides any task of lm-eval:")
    assert "  math       gsm8k, math500" in lines[:at]
    assert "lab_clinic" in " ".join(lines[at:]) and "heldout" not in done.err and max(map(len, lines)) <= 80
