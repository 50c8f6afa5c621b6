"""Scores in the store are lm-eval's own, stand until a setting changes, and no task file runs code unasked."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from evals import fingerprints, harness, subjects, tasks
from refinery.errors import UserError
from refinery.lab import BASE, items
from refinery.records import Example, Score
from refinery.spec_models import EvaluateSpec, SelectSpec
from refinery.store import Store

pytest.importorskip("lm_eval")
sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny import tiny_model

FEW = EvaluateSpec(limit=12, batch_size=8)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store.duckdb")


@pytest.fixture
def oracle(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A model that knows the answers given to it, in place of the checkpoint's weights; keeps the prompts it saw."""
    from lm_eval.api.model import LM

    class Oracle(LM):
        answers: dict[str, str]
        seen: list[str]
        tokenizer_name = "oracle"

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            self.seen.extend(request.args[0] for request in requests)
            return [next((a for q, a in self.answers.items() if q in r.args[0]), "") for r in requests]

        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            return [(0.0 if r.args[1] in self.answers.values() else -9.0, False) for r in requests]

        def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
            raise NotImplementedError

        def apply_chat_template(self, chat: list[dict], add_generation_prompt: bool = True) -> str:
            return "".join(f"<{turn['role']}>{turn['content']}" for turn in chat)

    model = Oracle()
    model.answers, model.seen = {}, []
    monkeypatch.setattr(subjects.Weights, "lm", property(lambda self: model))
    return model


def run(store: Store, *benchmarks: str, settings: EvaluateSpec = FEW, **more: Any) -> list[Score]:
    return harness.evaluate("ckpt", str(tiny_model()), benchmarks, settings, store=store, **more)


def row(number: int, split: str = "test", system: str = "") -> Example:
    prompt = [{"role": "system", "content": system}] if system else []
    prompt.append({"role": "user", "content": f"question {number}?"})
    return Example(str(number), prompt, f"answer {number}", "", split=split, meta={"key": f"word{number}"})


# lm-eval on its own


@pytest.mark.parametrize("model", [tiny_model(), BASE], ids=["random", "lab"])
def test_lm_eval_alone_gives_the_stored_scores(store: Store, monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    """Text for text, not only in the mean: a random model is wrong everywhere, the lab's is right nearly everywhere.

    lm-eval has all tasks in one call here, so its batches are made up otherwise than ours.
    """
    from lm_eval import evaluator
    from lm_eval.tasks import TaskManager

    monkeypatch.setattr(evaluator, "add_env_info", lambda results: None)  # runs pip and the like for a minute
    names = ["lab_clinic", "lab_format", "lab_choice"]
    stored = harness.evaluate("ckpt", str(model), names, FEW, store=store)
    manager = TaskManager(include_path="evals/benchmarks/lab_tasks", include_defaults=False)
    alone = evaluator.simple_evaluate(
        model="hf",
        model_args=f"pretrained={model},dtype=float32",
        tasks=names,
        task_manager=manager,
        device="cpu",
        batch_size=8,
        limit=12,
        apply_chat_template=True,
        bootstrap_iters=0,
    )
    assert {s.benchmark: s.value for s in stored} == {name: alone["results"][name]["acc,none"] for name in names}
    for name in names[:2]:
        mine = {s.prompt: s.response for s in store.samples(benchmark=name)}
        assert mine == {s["arguments"][0][0]: s["resps"][0][0] for s in alone["samples"][name]}
        assert any(mine.values())
    values = {s.item: s.value for s in store.samples(benchmark="lab_choice")}
    assert values == {s["prompt_hash"][:24]: s["acc"] for s in alone["samples"]["lab_choice"]}


@pytest.mark.slow
def test_the_command_line_of_lm_eval_gives_the_stored_scores(store: Store, tmp_path: Path) -> None:
    names = ["lab_clinic", "lab_sums", "lab_choice"]
    stored = harness.evaluate("ckpt", str(BASE), names, EvaluateSpec(), store=store)
    command = f"lm_eval --include_path evals/benchmarks/lab_tasks --tasks {','.join(names)} --model hf --device cpu"
    command += f" --model_args pretrained={BASE},dtype=float32 --batch_size 64 --apply_chat_template"
    command += f" --output_path {tmp_path / 'out'}"
    subprocess.run([sys.executable, "-m", *command.split()], check=True, capture_output=True)
    (found,) = (tmp_path / "out").rglob("results_*.json")
    values = json.loads(found.read_text("utf-8"))["results"]
    assert {s.benchmark: s.value for s in stored} == {name: values[name]["acc,none"] for name in names}


def test_every_lab_benchmark_has_its_file_and_all_its_items() -> None:
    from evals.benchmarks import lab

    files = {path.stem for path in lab.TASKS.glob("lab_*.yaml")}
    assert files == set(lab.names())
    for name in ("lab_clinic", "lab_market_unseen", "lab_sums", "lab_choice"):
        (task,) = tasks._load(str(lab.task(name)), named=False).values()
        assert [doc["question"] for doc in task.eval_docs] == [item["question"] for item in items(name)]


def test_right_answers_score_one_and_wrong_ones_zero(store: Store, oracle: Any) -> None:
    oracle.answers |= {item["question"]: item["target"] for item in items("lab_clinic")}
    oracle.answers |= {item["question"]: item["target"] for item in items("lab_choice")}
    right, wrong, ranked = run(store, "lab_clinic", "lab_facts", "lab_choice")
    assert (right.value, wrong.value, ranked.value) == (1.0, 0.0, 1.0)
    assert right.low > 0.7 and right.n == 12


# Resuming and identity


def test_what_stands_is_not_run_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(store, "lab_clinic", "lab_choice")
    monkeypatch.setattr(harness, "_run", lambda *_: pytest.fail("asked again"))
    assert run(store, "lab_clinic", "lab_choice") == first
    with pytest.raises(pytest.fail.Exception):
        run(store, "lab_clinic", settings=FEW.model_copy(update={"batch_size": 4}))


def test_a_stopped_evaluation_keeps_the_benchmarks_it_finished(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    real, asked = harness._run, []

    def stopping(lm: Any, tasks: dict, *rest: Any) -> Any:
        asked.extend(tasks)
        if "lab_facts" in tasks and len(asked) < 3:
            raise KeyboardInterrupt
        return real(lm, tasks, *rest)

    monkeypatch.setattr(harness, "_run", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(store, "lab_choice", "lab_facts")
    run(store, "lab_choice", "lab_facts")
    assert asked == ["lab_choice", "lab_facts", "lab_facts"]


def test_a_stopped_benchmark_goes_on_after_its_last_answer(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.models.huggingface import HFLM

    real, batches = HFLM._model_generate, []

    def stopping(self: Any, context: Any, *args: Any, **options: Any) -> Any:
        batches.append(len(context))
        if len(batches) == 3:
            raise KeyboardInterrupt
        return real(self, context, *args, **options)

    monkeypatch.setattr(HFLM, "_model_generate", stopping)
    settings = FEW.model_copy(update={"batch_size": 4})
    with pytest.raises(KeyboardInterrupt):
        run(store, "lab_clinic", settings=settings)
    (notes,) = (store.path.parent / "evaluating").iterdir()
    notes.write_bytes(notes.read_bytes()[:-9])  # killed while writing
    seen: list[tuple[str, int, int]] = []
    run(store, "lab_clinic", settings=settings, progress=lambda *each: seen.append(each))
    assert batches == [4, 4, 4, 4, 1]
    assert seen[0] == ("lab_clinic", 8, 12) and seen[-1] == ("lab_clinic", 12, 12)
    assert not notes.exists()
    again = harness.evaluate("other", str(tiny_model()), ["lab_clinic"], settings, store=store)
    assert again[0].n == 12
    texts = [{s.item: s.response for s in store.samples(checkpoint=c)} for c in ("ckpt", "other")]
    assert texts[0] == texts[1]


def test_a_second_checkpoint_is_comparable_and_joins_item_by_item(store: Store) -> None:
    a = run(store, "lab_choice")[0]
    b = harness.evaluate("other", str(tiny_model()), ["lab_choice"], FEW, store=store)[0]
    assert a.fingerprint == b.fingerprint
    items_of = {c: [s.item for s in store.samples(checkpoint=c)] for c in ("ckpt", "other")}
    assert items_of["ckpt"] == items_of["other"] and len(set(items_of["ckpt"])) == 12


@pytest.mark.parametrize("change", [{"batch_size": 4}, {"limit": 11}, {"dtype": "bfloat16"}])
def test_the_fingerprint_changes_with_what_changes_scores(store: Store, oracle: Any, change: dict) -> None:
    before = run(store, "lab_clinic")[0]
    after = run(store, "lab_clinic", settings=FEW.model_copy(update=change))[0]
    assert before.fingerprint != after.fingerprint
    assert {k for k in before.settings if before.settings[k] != after.settings[k]} == set(change)


def test_the_task_digest_is_the_same_in_the_next_process() -> None:
    from evals.benchmarks import lab

    tasks._load.cache_clear()
    (one,) = tasks._load(str(lab.task("lab_sums")), named=False).values()
    tasks._load.cache_clear()
    (two,) = tasks._load(str(lab.task("lab_sums")), named=False).values()
    assert one is not two and fingerprints.task_digest(one) == fingerprints.task_digest(two)
    text = json.dumps(fingerprints.readable(one))
    assert " at 0x" not in text and str(Path.cwd()) not in text
    assert "def scored" in text


def test_it_says_nothing(store: Store, oracle: Any, capfd: pytest.CaptureFixture) -> None:
    run(store, "lab_clinic")
    assert capfd.readouterr() == ("", "")


# Held-out rows


def test_heldout_asks_the_chat_as_it_is_and_judges_by_the_rule(store: Store, oracle: Any) -> None:
    rows = [row(1, system="Be brief."), row(2), row(3, "train"), row(4, "validation")]
    oracle.answers |= {"question 1?": "It is word1, surely.", "question 2?": "No idea."}
    select = SelectSpec(check="contains", of="{{ key }}")
    (score,) = run(store, "heldout", heldout=rows, select=select)
    assert (score.value, score.n) == (0.5, 2)
    assert oracle.seen == ["<system>Be brief.<user>question 1?", "<user>question 2?"]
    assert {s.target: s.value for s in store.samples(benchmark="heldout")} == {"word1": 1.0, "word2": 0.0}


def test_validation_and_test_are_kept_apart(store: Store, oracle: Any) -> None:
    rows = [row(n, "validation") for n in range(5)] + [row(9)]
    oracle.answers |= {"question": "answer 1"}
    select = SelectSpec(check="exact", limit=3)
    validation, test = run(store, "heldout_validation", "heldout", heldout=rows, select=select)
    assert (validation.n, test.n) == (3, 1)
    assert validation.value == pytest.approx(1 / 3)


def test_other_rows_or_another_rule_are_another_fingerprint(store: Store, oracle: Any) -> None:
    exact, contains = SelectSpec(check="exact"), SelectSpec(check="contains")
    prints = {
        run(store, "heldout", heldout=[row(n) for n in numbers], select=rule)[0].fingerprint
        for numbers, rule in (((1, 2), exact), ((1, 3), exact), ((1, 2), contains))
    }
    assert len(prints) == 3


def test_a_rule_that_reads_otherwise_than_it_did_is_told_in_the_fingerprint(store: Store, oracle: Any) -> None:
    for rule in ("number", "numbers"):
        score = run(store, "heldout", heldout=[row(1)], select=SelectSpec(check=rule))[0]
        assert score.settings["task_version"] == "2"
    assert run(store, "heldout", heldout=[row(1)], select=SelectSpec())[0].settings["task_version"] == "1"


def test_no_held_out_rows_is_the_users_to_fix(store: Store) -> None:
    with pytest.raises(UserError, match="no test rows"):
        run(store, "heldout", heldout=[row(1, "train")])


# Task files and names


def task_file(folder: Path, **changes: Any) -> Path:
    data = folder / "items.jsonl"
    lines = [{"q": f"capital of {place}?", "a": place.upper()} for place in ("here", "there", "nowhere")]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    task = {
        "task": "mine",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "doc_to_text": "{{ q }}",
        "doc_to_target": "{{ a }}",
        "generation_kwargs": {"until": []},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    path = folder / "mine.yaml"
    path.write_text(json.dumps(task | changes), "utf-8")  # JSON is YAML
    return path


def test_a_users_task_file(store: Store, oracle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    oracle.answers |= {"capital of here?": "HERE", "capital of there?": "HERE"}
    path = task_file(tmp_path)
    (score,) = run(store, str(path))
    assert (score.benchmark, score.metric, score.n) == (str(path), "exact_match", 3)
    assert score.value == pytest.approx(1 / 3)
    assert score.settings["max_tokens"] == 256  # half the model's context


@pytest.mark.parametrize(
    "changes",
    [
        {"metric_list": [{"metric": "my_script", "aggregation": "mean", "higher_is_better": True}]},
        {"doc_to_text": "{{ q.__class__.__mro__ }}"},
        {"metric_list": [{"metric": "exact_match", "hf_evaluate": True}]},
        {"unsafe_code": True},
        {"dataset_path": "pandas"},
    ],
)
def test_a_task_file_runs_no_code_unasked(store: Store, oracle: Any, tmp_path: Path, changes: dict) -> None:
    with pytest.raises(UserError):
        run(store, str(task_file(tmp_path, **changes)))


def test_functions_run_only_where_allowed(store: Store, oracle: Any, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def upper(doc):\n    return doc['q'].upper()\n", "utf-8")
    path = task_file(tmp_path)
    path.write_text(path.read_text("utf-8").replace('"{{ q }}"', "!function own.upper"), "utf-8")
    with pytest.raises(UserError, match="!function runs code"):
        run(store, str(path))
    run(store, str(path), settings=FEW.model_copy(update={"allow_code": True}))
    assert "<user>CAPITAL OF HERE?" in oracle.seen


def test_templates_render_in_a_sandbox(tmp_path: Path) -> None:
    """Even where the check before did not see it: a name put together at run time."""
    from lm_eval import utils

    with harness._as_lm_eval_alone(), pytest.raises(Exception, match="unsafe"):
        utils.apply_template("{{ ''['_' ~ '_class_' ~ '_'] }}", {})


def test_an_unknown_name_is_answered_with_a_near_one(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_index", lambda: tasks._manager(include_defaults=False))
    with pytest.raises(UserError, match=r'no benchmark lab_clinik \(did you mean "lab_clinic"'):
        run(store, "lab_clinik")


def test_lm_evals_own_tasks_are_found_by_name() -> None:
    from evals.benchmarks import builtin

    assert builtin.exists("ifeval") and builtin.exists("mmlu_anatomy") and not builtin.exists("no_such_task")
    assert not builtin.exists("../ifeval")


def test_what_is_asked_for_again_counts_again(store: Store, oracle: Any) -> None:
    """Settings there and back: the newest is always what was asked for last, and standing scores are not written for
    nothing."""
    both = {limit: FEW.model_copy(update={"limit": limit}) for limit in (12, 6)}
    for limit in (12, 6, 12, 6):
        asked = run(store, "lab_clinic", "lab_sums", settings=both[limit])
        for benchmark in ("lab_clinic", "lab_sums"):
            assert store.scores("ckpt", benchmark)[-1].n == limit
    before = store.path.read_bytes()
    assert run(store, "lab_clinic", "lab_sums", settings=both[6]) == asked
    assert store.path.read_bytes() == before
