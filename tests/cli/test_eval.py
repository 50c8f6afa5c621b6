"""Weights that another tool made, evaluated beside their base: scores against lm-eval run alone on the same weights."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from refinery.errors import UserError
from refinery.lab import BASE
from refinery.store import Store
from tests.cli_tools import call

BENCHMARKS = ("--domain", "lab_clinic", "--general", "lab_facts,lab_sums", "--limit", "8")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """full: the base with noise in it; lora: a random adapter, written by peft with a base path that is not here."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("weights")
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(BASE)
        with torch.no_grad():
            for tensor in model.parameters():
                tensor += 0.05 * torch.randn_like(tensor)
        model.save_pretrained(folder / f"full{seed}")
        tokenizer.save_pretrained(folder / f"full{seed}")
    model = AutoModelForCausalLM.from_pretrained(BASE)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    adapted.peft_config["default"].base_model_name_or_path = "/elsewhere/base"
    adapted.save_pretrained(folder / "lora")
    merged = adapted.merge_and_unload()
    merged.save_pretrained(folder / "merged")
    tokenizer.save_pretrained(folder / "merged")
    return folder


@pytest.fixture(scope="module")
def evaluated(weights, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out")
    named = (f"noisy={weights}/full0", f"noisy={weights}/full1", f"adapter={weights}/lora", f"{weights}/merged")
    done = call("eval", *named, "--base", "lab", *BENCHMARKS, "--out", str(out))
    assert done.code == 0, done.err
    assert "noisy" in done.out and "html report" in done.out
    return out


def scores(folder: Path) -> dict[tuple[str, int], dict[str, float]]:
    store = Store(folder / "refinery.duckdb", read_only=True)
    rows = {row["fingerprint"]: (row["name"], row["seed"]) for row in store.checkpoints()}
    found: dict[tuple[str, int], dict[str, float]] = {}
    for score in store.scores():
        if not score.benchmark.startswith(("movement/", "answers/")):
            found.setdefault(rows[score.checkpoint], {})[score.benchmark] = score.value
    return found


def test_every_weight_is_scored_as_lm_eval_alone_scores_it(weights, evaluated):
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    from evals.benchmarks import lab

    found = scores(evaluated)
    assert set(found) == {("base", 0), ("noisy", 0), ("noisy", 1), ("adapter", 0), ("merged", 0)}
    assert found["adapter", 0] == found["merged", 0], "an adapter is its base with the adapter added"
    assert 0 < found["noisy", 0]["lab_facts"] < 1
    tasks = TaskManager(include_path=str(Path(lab.__file__).parent / "lab_tasks"), include_defaults=False)
    alone = simple_evaluate(
        "hf",
        model_args=f"pretrained={weights}/full0,dtype=float32",
        tasks=["lab_facts"],
        task_manager=tasks,
        limit=8,
        apply_chat_template=True,
        batch_size=32,
        bootstrap_iters=0,
        device="cpu",
    )
    (value,) = [v for key, v in alone["results"]["lab_facts"].items() if key.startswith("acc,")]
    assert value == found["noisy", 0]["lab_facts"]


def test_how_far_each_has_moved(evaluated):
    store = Store(evaluated / "refinery.duckdb", read_only=True)
    names = {row["fingerprint"]: row["name"] for row in store.checkpoints()}
    found: dict[str, dict[tuple[str, str], list[float]]] = {}
    for score in store.scores():
        if score.benchmark.startswith("movement/"):
            found.setdefault(names[score.checkpoint], {}).setdefault((score.benchmark, score.metric), []).append(
                score.value
            )
            assert len(store.samples(score.checkpoint, score.benchmark)) > 0 or score.benchmark == "movement/weights"
    assert set(found) == {"noisy", "adapter", "merged"}, "the base has not moved from itself"
    for name, values in found["adapter"].items():
        assert values == pytest.approx(found["merged"][name], abs=1e-5)
    assert all(value > 0 for value in found["noisy"]["movement/general", "forward_kl"])
    assert len(found["noisy"]["movement/weights", "relative_distance"]) == 2
    assert "How far they moved" in (evaluated / "report.html").read_text()


def test_all_seeds_of_a_name_count(evaluated):
    """noisy has two, the others one: none is thrown away because another has fewer."""
    text = (evaluated / "report.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    (head,) = [place for place, row in enumerate(rows) if row[-1] == "Seeds"]
    seeds = {row[0].strip("`"): row[-1] for row in rows[head + 2 : head + 6]}
    assert seeds == {"base": "none", "noisy": "2", "adapter": "1", "merged": "1"}
    assert "One training of adapter, merged: the intervals speak of test items alone" in text
    assert "2 trainings of noisy say little" in text and "per method" not in text


def test_what_is_no_version_of_the_base_is_scored_and_reported_all_the_same(weights, tmp_path, monkeypatch):
    """It is the base's vocabulary with other words: its movement alone is left out, and said to be."""

    def other(*_):
        raise UserError("its vocabulary is another")

    monkeypatch.setattr("evals.movement.vocabulary", other)
    benchmarks = ("--domain", "lab_clinic", "--general", "lab_facts", "--limit", "2")
    done = call("eval", f"mine={weights}/full0", "--base", "lab", *benchmarks, "--out", str(tmp_path / "out"))
    assert done.code == 0, done.err
    assert "mine seed 0: how far it moved was not measured: its vocabulary is another" in done.out + done.err
    assert (tmp_path / "out" / "report.html").exists()


def test_the_spec_it_wrote_says_the_same_and_runs(evaluated, weights):
    spec = yaml.safe_load((evaluated / "eval.yaml").read_text())
    assert spec["checkpoints"]["noisy"] == [f"{weights}/full0", f"{weights}/full1"] and spec["evaluate"]["limit"] == 8
    before = scores(evaluated)
    done = call("run", str(evaluated / "eval.yaml"))
    assert done.code == 0, done.err
    assert scores(evaluated) == before
    page = (evaluated / "report.html").read_text()
    assert "Forgetting per benchmark" in page and "Refinement funnel" not in page and "noisy" in page


def test_weights_that_changed_in_their_place_are_measured_anew(weights, tmp_path):
    """What stood in the folder before is neither averaged in nor compared."""
    shutil.copytree(weights / "full0", tmp_path / "w")
    command = ("eval", f"mine={tmp_path}/w", "--base", "lab", "--general", "lab_facts", "--limit", "8")
    command += ("--out", str(tmp_path / "out"), "--set", "evaluate.movement=0")
    assert call(*command).code == 0
    shutil.copytree(weights / "full1", tmp_path / "w", dirs_exist_ok=True)
    assert call(*command).code == 0
    store = Store(tmp_path / "out" / "refinery.duckdb", read_only=True)
    rows = [row for row in store.checkpoints() if row["name"] == "mine"]
    assert sorted(row["role"] for row in rows) == ["final", "former"]
    (now,) = [row["fingerprint"] for row in rows if row["role"] == "final"]
    (score,) = store.scores(now, "lab_facts")
    told = call("status", str(tmp_path / "out" / "eval.yaml"), "--json").json
    assert [each["value"] for each in told["scores"] if each["name"] == "mine"] == [score.value]
    done = call("compare", str(tmp_path / "out" / "eval.yaml"), "--json")
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("a=x",), "name what to measure"),
        (("one/w", "two/w", *BENCHMARKS), "would both be called w: write NAME="),
        (("a b=x", *BENCHMARKS), '"a b" cannot be a name'),
        (("a=./nowhere", *BENCHMARKS), "there is no folder ./nowhere"),
        (("w_nope", *BENCHMARKS), 'there is no folder w_nope (did you mean "w_noise"?)'),
        (("here/w_nope", *BENCHMARKS), 'there is no folder here/w_nope (did you mean "w_noise"?)'),
        (("a=org/x", "--domain", "lab_clinc"), 'there is no benchmark "lab_clinc" (did you mean "lab_clinic"?)'),
    ],
)
def test_what_can_be_mended_is_one_line(tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w_noise").mkdir()
    (tmp_path / "here" / "w_noise").mkdir(parents=True)
    done = call("eval", *args, "--base", "lab", "--out", str(tmp_path / "out"))
    assert done.code == 2 and message in done.err and "Traceback" not in done.err
    assert "no folder" not in message or not (tmp_path / "out").exists()


def test_the_last_settings_are_those_that_report_and_compare_show(weights, tmp_path):
    command = ("eval", f"mine={weights}/full0", "--base", "lab", "--general", "lab_facts", "--out", str(tmp_path))
    command += ("--set", "evaluate.movement=0", "--set", "evaluate.max_tokens=16")
    for limit in (6, 9, 6):
        done = call(*command, "--limit", str(limit), "--force")
        assert done.code == 0, done.err
        told = call("compare", str(tmp_path / "eval.yaml"), "--json").json
        assert [line["n"] for line in told["comparisons"][0]["benchmarks"]] == [limit]
        report = call("report", str(tmp_path / "eval.yaml"), "--format", "json", "--out", str(tmp_path))
        assert report.code == 0, report.err
        numbers = json.loads((tmp_path / "report.json").read_text())["numbers"]
        assert {row["items"] for row in numbers if row["benchmark"] == "lab_facts"} == {limit}
