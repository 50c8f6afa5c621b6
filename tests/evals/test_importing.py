"""Evaluations made elsewhere: real lm-eval output made here, and logs that inspect_ai 0.3.285 wrote."""

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from evals import harness
from evals.comparable import UNKNOWN
from evals.comparing import Arm, Run, compare
from evals.importing import read, short_name, write
from refinery.errors import UserError
from refinery.lab import BASE
from refinery.spec_models import EvaluateSpec
from refinery.store import Store
from tests.cli_tools import call

LOGS = Path(__file__).parent / "logs"
WEAK, STRONG = LOGS / "inspect_sums_weak.eval", LOGS / "inspect_sums_strong.json"
TASKS = ["lab_clinic", "lab_facts", "lab_choice"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "s.duckdb")


# ---- lm-eval


def run_lm_eval(out: Path, model: Path, **more: Any) -> None:
    """As its command line does with --log_samples."""
    from lm_eval import evaluator
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.tasks import TaskManager

    tracker = EvaluationTracker(output_path=str(out))
    found = evaluator.simple_evaluate(
        model="hf",
        model_args=f"pretrained={model},dtype=float32",
        tasks=TASKS,
        task_manager=TaskManager(include_path="evals/benchmarks/lab_tasks", include_defaults=False),
        device="cpu",
        bootstrap_iters=0,
        evaluation_tracker=tracker,
        apply_chat_template=True,
        fewshot_as_multiturn=True,
        **{"batch_size": 8, "limit": 12, **more},
    )
    samples = found.pop("samples")
    tracker.save_results_aggregated(results=found, samples=samples)
    for task in TASKS:
        tracker.save_results_samples(task_name=task, samples=samples[task])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pytest.importorskip("lm_eval")
    root = tmp_path_factory.mktemp("lm_eval")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lm_eval.evaluator.add_env_info", add_versions)  # the real one runs pip for a minute
        run_lm_eval(root / "lab", BASE)
        run_lm_eval(root / "worse", disturbed(root / "weights"))
        run_lm_eval(root / "other", BASE, batch_size=4, limit=6)
    return {name: root / name for name in ("lab", "worse", "other")}


def disturbed(folder: Path) -> Path:
    """The lab's model, hurt: another set of weights behind the same template."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(BASE, folder)
    (file,) = folder.glob("*.safetensors")
    weights = load_file(file)
    generator = torch.Generator().manual_seed(0)
    hurt = {k: w + 0.3 * w.std() * torch.randn(w.shape, generator=generator).to(w.dtype) for k, w in weights.items()}
    save_file(hurt, file, metadata={"format": "pt"})
    return folder


def add_versions(storage: dict[str, Any]) -> None:
    import importlib.metadata

    storage["lm_eval_version"] = importlib.metadata.version("lm-eval")


def arm(store: Store, name: str) -> Arm:
    rows = [row for row in store.checkpoints() if row["name"] == name]
    return Arm(name, [Run(store, row["fingerprint"], None) for row in rows])


def test_lm_eval_scores_and_items_are_its_own(folders: dict[str, Path], store: Store) -> None:
    (made,) = write(store, read(folders["lab"]), "elsewhere")
    (file,) = folders["lab"].rglob("results_*.json")
    told = json.loads(file.read_text())
    scores = {s.benchmark: s for s in store.scores(checkpoint=made.checkpoint)}
    assert {name: s.value for name, s in scores.items()} == {t: told["results"][t]["acc,none"] for t in TASKS}
    assert scores["lab_choice"].settings["chance"] == pytest.approx(0.25, abs=0.1)
    (samples,) = folders["lab"].rglob("samples_lab_facts_*.jsonl")
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    mine = {s.item: (s.value, s.prompt, s.response) for s in store.samples(benchmark="lab_facts")}
    assert mine == {
        r["prompt_hash"][:24]: (r["acc"], r["arguments"]["gen_args_0"]["arg_0"], r["resps"][0][0]) for r in rows
    }
    settings = scores["lab_facts"].settings
    assert settings["harness"].startswith("lm-eval 0.4") and settings["batch_size"] == 8 and settings["limit"] == 12
    assert (settings["dtype"], settings["device"], settings["backend"], settings["shots"]) == (
        "float32",
        "cpu",
        "hf",
        0,
    )
    assert {key for key, value in settings.items() if value == UNKNOWN} == {"task", "generation"}


def test_imports_of_one_tool_are_comparable(folders: dict[str, Path], store: Store) -> None:
    write(store, read(folders["lab"]), "good")
    write(store, read(folders["worse"]), "poor")
    found = compare(arm(store, "poor"), arm(store, "good"), {})
    by_name = {line.name: line for line in found.lines}
    assert len(by_name) == 3 and by_name["lab_choice"].n == 12 and not by_name["lab_choice"].warnings
    assert by_name["lab_facts"].warnings == ("generation unknown on both sides",)
    told = {
        n: next(json.loads(p.read_text())["results"] for p in folders[n].rglob("results_*.json"))
        for n in ("lab", "worse")
    }
    by_hand = {t: told["lab"][t]["acc,none"] - told["worse"][t]["acc,none"] for t in TASKS}
    assert {n: line.difference.value for n, line in by_name.items()} == pytest.approx(by_hand) and any(by_hand.values())


def test_the_same_model_evaluated_here_and_there_is_the_same(folders: dict[str, Path], store: Store) -> None:
    """What ranks choices is settled by the prompts; what writes hangs on the checkpoint's generation settings, which
    lm-eval does not log: refused until somebody accepts it."""
    harness.evaluate("here", str(BASE), TASKS, EvaluateSpec(limit=12, batch_size=8), store=store)
    write(store, read(folders["lab"]), "there")
    here = Arm("here", [Run(store, "here", None)])
    found = compare(here, arm(store, "there"), {})
    assert [line.name for line in found.lines] == ["lab_choice"]
    assert set(found.refused) == {"lab_clinic", "lab_facts"} and "generation unknown" in found.refused["lab_facts"]
    found = compare(here, arm(store, "there"), {}, accept=["generation"])
    assert len(found.lines) == 3
    assert all(c.lost == c.gained == 0 for line in found.lines for c in line.changes)


def test_other_settings_there_are_named(folders: dict[str, Path], store: Store) -> None:
    write(store, read(folders["lab"]), "one")
    write(store, read(folders["other"]), "two")
    found = compare(arm(store, "one"), arm(store, "two"), {})
    assert not found.lines
    assert (
        "batch_size 4 instead of 8" in found.refused["lab_facts"]
        and "limit 6 instead of 12" in found.refused["lab_facts"]
    )


def test_without_samples_there_are_scores_and_no_comparison(
    folders: dict[str, Path], store: Store, tmp_path: Path
) -> None:
    (file,) = folders["lab"].rglob("results_*.json")
    shutil.copy(file, tmp_path / file.name)
    (made,) = write(store, read(tmp_path), "alone")
    assert {s.benchmark for s in made.scores} == set(TASKS) and made.n_samples == 0
    (note,) = made.notes  # once for all of them
    assert note.startswith(f"{', '.join(sorted(TASKS))}: no samples file") and "--log_samples --output_path" in note
    write(store, read(folders["lab"]), "whole")
    found = compare(arm(store, "alone"), arm(store, "whole"), {}, accept=["generation"])
    assert found.refused["lab_choice"] == "alone kept no scores of single items"


def test_of_two_results_the_later_counts(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["lab"], tmp_path / "both")
    (file,) = (tmp_path / "both").rglob("results_*.json")
    told = json.loads(file.read_text())
    told["date"] -= 1000
    told["results"]["lab_facts"]["acc,none"] = 0.123
    file.with_name("results_2020-01-01.json").write_text(json.dumps(told))
    found = {each.benchmark: each for each in read(tmp_path / "both")}
    assert found["lab_facts"].file == str(file) and "is older and was left out" in found["lab_facts"].notes[0]


def test_a_result_file_of_another_name_and_other_json_beside_it(folders: dict[str, Path], tmp_path: Path) -> None:
    """lm-eval with --output_path x.json writes x_TIME.json; a checkpoint's own files are no results."""
    shutil.copytree(folders["lab"], tmp_path / "named")
    (file,) = (tmp_path / "named").rglob("results_*.json")
    file.rename(file.with_name(file.name.replace("results_", "mine_")))
    (tmp_path / "named" / "config.json").write_text("{}")
    (tmp_path / "named" / "broken.json").write_text("{")
    found = read(tmp_path / "named")
    assert {each.benchmark for each in found} == set(TASKS) and all(each.samples for each in found)


def test_a_group_is_one_benchmark_of_all_its_tasks(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["lab"], tmp_path / "group")
    (file,) = (tmp_path / "group").rglob("results_*.json")
    told = json.loads(file.read_text())
    told["group_subtasks"] = {"lab": ["lab_facts", "inner"], "inner": ["lab_clinic"]}
    file.write_text(json.dumps(told))
    found = {each.benchmark: each for each in read(tmp_path / "group")}
    assert set(found) == {"lab", "lab_choice"}
    assert found["lab"].scores[0].n == 24 and {s.item.split("/")[0] for s in found["lab"].samples} == {
        "lab_facts",
        "lab_clinic",
    }


# ---- inspect_ai


def test_inspect_logs_of_both_formats(store: Store) -> None:
    write(store, read(WEAK))
    write(store, read(STRONG))
    values = {(s.checkpoint, s.metric): s.value for s in store.scores()}
    names = {row["fingerprint"]: row["name"] for row in store.checkpoints()}
    told = {(names[c], m): v for (c, m), v in values.items()}
    assert told == {("weak", "match"): 8 / 12, ("weak", "includes"): told["weak", "includes"],
                    ("strong", "match"): 11 / 12, ("strong", "includes"): 11 / 12}  # fmt: skip
    shown = next(s for s in store.samples() if s.prompt == "What is 5 + 6?" and names[s.checkpoint] == "strong")
    assert (shown.target, shown.response, shown.value) == ("11", "0", 0.0)
    settings = store.scores()[0].settings
    assert (settings["task_version"], settings["max_tokens"], settings["epochs"]) == ("2", 16, 1)
    assert settings["harness"] == "inspect_ai 0.3.285" and settings["chat_template"] == UNKNOWN


def test_inspect_logs_are_compared_item_by_item_with_what_is_unknown_said(store: Store) -> None:
    write(store, read(WEAK))
    write(store, read(STRONG))
    (line,) = compare(arm(store, "weak"), arm(store, "strong"), {}).lines
    assert line.difference.value == pytest.approx(3 / 12)
    (changes,) = line.changes
    assert (changes.lost, changes.gained) == (1, 4)  # 5 alone; 0, 3, 6, 9
    assert "dtype unknown on both sides" in line.warnings and not any("chat_template" in w for w in line.warnings)


def test_a_log_that_broke_off_is_refused(tmp_path: Path) -> None:
    told = json.loads(STRONG.read_text())
    told["status"] = "error"
    (tmp_path / "log.json").write_text(json.dumps(told))
    with pytest.raises(UserError, match="did not come to its end"):
        read(tmp_path / "log.json")
    with zipfile.ZipFile(tmp_path / "cut.eval", "w") as archive:
        archive.writestr("_journal/start.json", "{}")
    with pytest.raises(UserError, match="without its header"):
        read(tmp_path / "cut.eval")


def test_a_log_packed_the_older_way_reads_the_same(tmp_path: Path) -> None:
    told = json.loads(STRONG.read_text())
    samples = told.pop("samples")
    with zipfile.ZipFile(tmp_path / "older.eval", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.json", json.dumps(told))
        for sample in samples:
            archive.writestr(f"samples/{sample['id']}_epoch_1.json", json.dumps(sample))
    (one,), (two,) = read(tmp_path / "older.eval"), read(STRONG)
    assert one.scores == two.scores and one.samples == two.samples


def test_values_of_inspect(tmp_path: Path) -> None:
    """Letters, numbers, words, parts by name; epochs are averaged; what is no number is left out and counted."""
    told = json.loads(STRONG.read_text())
    given = ["C", "I", "P", 0.25, True, "no", {"a": 1, "b": 0}, "who knows", "N", "0.75"]
    told["samples"] = [{"id": n, "epoch": 1, "input": f"q{n}", "target": ["x", "y"], "scores": {"s": {"value": v}}}
                       for n, v in enumerate(given)]  # fmt: skip
    told["samples"].append({**told["samples"][0], "epoch": 2, "scores": {"s": {"value": "I"}}})
    (tmp_path / "log.json").write_text(json.dumps(told))
    (found,) = read(tmp_path / "log.json")
    values = {s.prompt: s.value for s in found.samples if s.metric == "s"}
    assert values == {"q0": 0.5, "q1": 0, "q2": 0.5, "q3": 0.25, "q4": 1, "q5": 0, "q8": 0, "q9": 0.75}
    assert {s.metric: s.n for s in found.scores} == {"s": 8, "s/a": 1, "s/b": 1}
    assert found.notes == ["1 samples have no score that is a number and were left out"]
    assert found.samples[0].target == "x\ny"


# ---- both


def test_what_is_no_evaluation_is_refused(tmp_path: Path, store: Store) -> None:
    with pytest.raises(UserError, match="no such file"):
        read(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds neither"):
        read(tmp_path)
    (tmp_path / "results_x.json").write_text("{}")
    with pytest.raises(UserError, match="neither a result file of lm-eval"):
        read(tmp_path)
    (tmp_path / "results_x.json").write_text("{")
    with pytest.raises(UserError, match="no JSON"):
        read(tmp_path)
    (tmp_path / "x.eval").write_text("not a zip")
    with pytest.raises(UserError, match="no inspect_ai log"):
        read(tmp_path / "x.eval")


def test_names(store: Store) -> None:
    assert short_name("/models/Qwen2.5-7B/") == "Qwen2.5-7B" and short_name("org/my model") == "my_model"
    with pytest.raises(UserError, match="--name is for one model, but there are 2"):
        write(store, [*read(WEAK), *read(STRONG)], "both")
    write(store, read(WEAK), "one")
    with pytest.raises(UserError, match=r"one is mockllm/weak in s\.duckdb, not mockllm/strong"):
        write(store, read(STRONG), "one")
    store.start_checkpoint("f", "", "own", "sft", {}, 0, "", "", "", "final")
    with pytest.raises(UserError, match="has a checkpoint of its own called own"):
        write(store, read(WEAK), "own")


def test_imports_with_seeds_are_the_runs_of_one_method(store: Store) -> None:
    for seed in (0, 1):
        write(store, read(WEAK), "method", seed)
    assert [row["seed"] for row in store.checkpoints()] == [0, 1] and len({s.checkpoint for s in store.scores()}) == 2


def test_the_verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for log in (WEAK, STRONG):
        done = call("import", str(log), str(tmp_path / "s.duckdb"))
        assert done.code == 0, done.err
        assert max(map(len, done.out.splitlines()[1:-1])) <= 80 and "chat_template" in done.out
    found = call("compare", str(tmp_path / "s.duckdb"), "weak", "strong", "--json").json["comparisons"][0]
    assert found["benchmarks"][0]["difference"]["value"] == pytest.approx(0.25)
    done = call("compare", str(tmp_path / "s.duckdb"), "weak", "strong")
    assert done.code == 0 and "sums: dtype unknown on both sides" in done.out
    assert max(map(len, done.out.splitlines())) <= 80
    done = call("import", str(tmp_path / "nothing"), str(tmp_path / "s.duckdb"))
    assert done.code == 2 and "no such file" in done.err
