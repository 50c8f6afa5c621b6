"""Scores on local files are those that lm-eval gives on its own, from its own task files, on the same rows.

lm-eval's side is a task file as its documentation says: `include` of its own, the data set "json", and data files that
have the hub's columns (`hub_rows`).
"""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from evals import harness, offline
from evals.benchmarks import _files
from refinery.lab import BASE
from refinery.spec_models import EvaluateSpec
from refinery.store import Store
from tests.evals.benchmark_files import hub_rows, make
from tests.tiny import make_tiny_model

lm_eval = pytest.importorskip("lm_eval")

TASKS: dict[str, tuple[str, bool, dict[str, str]]] = {
    "hellaswag": ("hellaswag/hellaswag.yaml", False, {"validation": "hellaswag/*val*"}),
    "winogrande": ("winogrande/default.yaml", False, {"validation": "winogrande/*val*"}),
    "truthfulqa_mc1": ("truthfulqa/truthfulqa_mc1.yaml", False, {"validation": "truthfulqa/*mc_task*"}),
    "truthfulqa_mc2": ("truthfulqa/truthfulqa_mc2.yaml", False, {"validation": "truthfulqa/*mc_task*"}),
    "arc_challenge": ("arc/arc_challenge.yaml", False, {"test": "arc/*hallenge*test*"}),
    "arc_easy": ("arc/arc_easy.yaml", False, {"test": "arc/*asy*test*"}),
    "medmcqa": ("medmcqa/medmcqa.yaml", False, {"validation": "medmcqa/*dev*"}),
    "ifeval": ("ifeval/ifeval.yaml", True, {"train": "ifeval/*input_data*"}),
    "gsm8k": ("gsm8k/gsm8k.yaml", True, {"test": "gsm8k/*test*", "train": "gsm8k/*train*"}),
    "math500": ("hendrycks_math/hendrycks_math500.yaml", True, {"test": "math/*test*"}),
    "humaneval": ("humaneval/humaneval.yaml", False, {"test": "humaneval/Human*"}),
    "mbpp": ("mbpp/mbpp.yaml", False, {"test": "mbpp/mbpp*"}),
}
"""Benchmark to lm-eval's file, whether the chat template is on, and the files of its splits."""
WRITTEN = ("ifeval", "gsm8k", "math500", "humaneval", "mbpp")
MMLU = {"test": "mmlu/*test*", "dev": "mmlu/*dev*"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model in the shape of Qwen2.5, with room for long prompts."""
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    folder = make_tiny_model(tmp_path_factory.mktemp("llama"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=4096, initializer_range=0.25, tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("qwen")
    tokenizer.model_max_length = 4096
    tokenizer.save_pretrained(path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Qwen2ForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(autouse=True)
def offline_and_quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    from lm_eval import evaluator

    monkeypatch.setattr(evaluator, "add_env_info", lambda results: None)  # runs pip and the like for a minute
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    with offline.nothing_fetched(True):
        yield


def rows_of(data: Path, pattern: str) -> list[dict[str, Any]]:
    (path,) = sorted(data.glob(pattern))
    return _files.read(path)


def task_file(folder: Path, name: str, include: str, splits: Mapping[str, list[dict[str, Any]]], **more: Any) -> None:
    """An lm-eval task file on the rows."""
    theirs = Path(lm_eval.__file__).parent / "tasks" / include
    files = {}
    for split, rows in splits.items():
        files[split] = str(folder / f"{name}-{split}.jsonl")
        Path(files[split]).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    text = [f"include: {theirs}", f"task: {name}", "dataset_path: json", "dataset_name: null"]
    text += [f"dataset_kwargs: {json.dumps({'data_files': files})}"]
    absent = {"training_split": "train", "validation_split": "validation", "test_split": "test"}
    used = {"ifeval": {"test_split": "train"}, "medmcqa": {"test_split": "validation"}}.get(name, {})
    for key, split in absent.items():
        if split not in splits and key not in used:
            text.append(f"{key}: null")
    text += [f"{key}: {json.dumps(value)}" for key, value in more.items()]
    (folder / f"{name}.yaml").write_text("\n".join(text) + "\n", "utf-8")


def alone(
    folder: Path, model: Path, names: list[str], chat: bool, limit: int | None, max_tokens: int
) -> dict[str, Any]:
    """lm-eval on its own."""
    from lm_eval import evaluator
    from lm_eval.tasks import TaskManager

    open_ended = [name for name in names if name in ("gsm8k", "math500", "mbpp")]
    return evaluator.simple_evaluate(
        model="hf",
        model_args=f"pretrained={model},dtype=float32",
        tasks=names,
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        device="cpu",
        batch_size=8,
        limit=limit,
        apply_chat_template=chat,
        bootstrap_iters=0,
        confirm_run_unsafe_code=True,
        gen_kwargs={"max_gen_toks": max_tokens} if open_ended else None,
    )


def compare(store: Store, data: Path, model: Path, name: str, folder: Path, limit: int | None = None) -> int:
    """Ours against theirs, every metric and every item; how many items there were."""
    include, chat, patterns = TASKS[name]
    splits = {split: hub_rows(name, split, rows_of(data, pattern)) for split, pattern in patterns.items()}
    prepared: dict[str, Any] = {}
    if name == "hellaswag" and "query" in splits["validation"][0]:
        prepared = {"process_docs": None}
        splits = {"validation": [row | {"label": str(row["gold"])} for row in splits["validation"]]}
    elif name.startswith("arc") and "query" in splits["test"][0]:
        prepared = {"doc_to_text": "{{query}}", "doc_to_choice": "{{choices}}", "doc_to_target": "{{gold}}"}
    task_file(folder, name, include, splits, **prepared)
    settings = EvaluateSpec(data=str(data), batch_size=8, limit=limit, max_tokens=64, run_code=True)
    scores = harness.evaluate("ckpt", str(model), [name], settings, store=store)
    theirs = alone(folder, model, [name], chat, limit, 64)
    return agree(store, name, {s.metric: s.value for s in scores}, theirs, name)


def agree(store: Store, name: str, ours: dict[str, float], theirs: dict[str, Any], task: str) -> int:
    reported = {
        key.removesuffix(",none"): value
        for key, value in theirs["results"][task].items()
        if "," in key and "stderr" not in key
    }
    assert {metric: ours[metric] for metric in reported} == pytest.approx(reported, abs=1e-15)  # items exactly, below
    for metric in reported:
        kind, _, filtered = metric.partition(",")
        samples = [sample for sample in theirs["samples"][task] if sample["filter"] == (filtered or "none")]
        mine = {s.item: s.value for s in store.samples(benchmark=name) if s.metric == metric}
        if mine:
            times = Counter(sample["prompt_hash"] for sample in samples)
            assert mine == {
                sample["prompt_hash"][:24]
                + (f"-{sample['doc_id']}" if times[sample["prompt_hash"]] > 1 else ""): sample[kind]
                for sample in samples
            }
    return len({sample["doc_id"] for sample in theirs["samples"][task]})


@pytest.mark.parametrize("name", TASKS)
def test_a_random_qwen_scores_as_in_lm_eval_alone(name: str, data: Path, qwen: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store.duckdb")
    limit = {"ifeval": 4, "humaneval": 2}.get(name)
    assert compare(store, data, qwen, name, tmp_path, limit) >= (limit or 4)
    if name in WRITTEN:
        texts = [sample.response for sample in store.samples(benchmark=name)]
        assert any(texts)


@pytest.mark.parametrize("name", [name for name in TASKS if name not in ("ifeval", "humaneval", "mbpp")])
def test_the_lab_scores_as_in_lm_eval_alone(name: str, data: Path, tmp_path: Path) -> None:
    compare(Store(tmp_path / "store.duckdb"), data, BASE, name, tmp_path)


@pytest.mark.parametrize("shots", [None, 5])
def test_mmlu_is_the_mean_over_all_subjects(shots: int | None, data: Path, qwen: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store.duckdb")
    splits = {split: rows_of(data, pattern) for split, pattern in MMLU.items()}
    subjects = sorted({row["subject"] for row in splits["test"]})
    for subject in subjects:
        own = {split: [row for row in rows if row["subject"] == subject] for split, rows in splits.items()}
        more = {"num_fewshot": shots} if shots else {}
        task_file(tmp_path, f"mmlu_{subject}", f"mmlu/default/mmlu_{subject}.yaml", own, **more)
    asked = {"mmlu": shots} if shots else {}
    settings = EvaluateSpec(data=str(data), batch_size=8, shots=asked)
    (score,) = harness.evaluate("ckpt", str(qwen), ["mmlu"], settings, store=store)
    theirs = alone(tmp_path, qwen, [f"mmlu_{subject}" for subject in subjects], False, None, 64)
    values = {s["prompt_hash"][:24]: s["acc"] for some in theirs["samples"].values() for s in some}
    assert {s.item.split("/")[1].split("-")[0]: s.value for s in store.samples(benchmark="mmlu")} == values
    assert score.n == len(splits["test"]) and score.value == pytest.approx(
        sum(values.values()) / len(values), abs=1e-12
    )
    assert score.settings["shots"] == (shots or 0)


def test_prompts_have_the_template_only_where_they_should(data: Path, qwen: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store.duckdb")
    settings = EvaluateSpec(data=str(data), batch_size=8, limit=2, max_tokens=8, run_code=True)
    for name, (_, chat, _) in TASKS.items():
        (score, *_) = harness.evaluate("ckpt", str(qwen), [name], settings, store=store)
        assert (score.settings["chat_template"] is not None) == chat, name
        prompts = [s.prompt for s in store.samples(benchmark=name) if s.prompt]
        assert prompts and all(("<|user|>" in prompt) == chat for prompt in prompts), name


REAL = os.environ.get("REFINERY_TEST_DATA")


@pytest.mark.slow
@pytest.mark.skipif(not REAL, reason="REFINERY_TEST_DATA is not set")
@pytest.mark.parametrize("name", TASKS)
def test_on_real_files(name: str, qwen: Path, tmp_path: Path) -> None:
    if not (Path(str(REAL)) / ("math" if name == "math500" else name.split("_")[0])).is_dir():
        pytest.skip(f"no {name} among the files")
    limit = {"ifeval": 8, "humaneval": 4, "mbpp": 16}.get(name, 40)
    assert compare(Store(tmp_path / "store.duckdb"), Path(str(REAL)), qwen, name, tmp_path, limit) == limit
