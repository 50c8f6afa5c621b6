"""lm-eval's result folders: results_TIME.json and, where it ran with --log_samples, samples_TASK_TIME.jsonl."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evals import results
from evals.comparable import NO_SETTINGS, UNKNOWN
from evals.importing import Evaluation, beginning, json_of
from refinery.errors import UserError
from refinery.records import Score, digest

LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
HF_LENGTH = 256
"""What lm-eval's Hugging Face model writes at most where the task does not say."""
PATHS = ("data_files", "data_dir", "config_source", "pretrained", "tokenizer", "model")

ADDRESS = re.compile(r" at 0x[0-9a-f]+")
"""Of a function in memory, which stands in a configuration where lm-eval could not write its source."""


STAMP = re.compile(r"\d{4}-\d{2}-\d{2}T[\d.-]+$")
"""The time at the end of a result file's name, which the files of its samples have too."""


NO_SAMPLES = "no samples file, so no comparison can be paired: run lm_eval with --log_samples --output_path FOLDER"


def is_results(path: Path) -> bool:
    return path.suffix == ".json" and (path.name.startswith("results_") or beginning(path).startswith('{"results":{'))


def read(path: Path) -> list[Evaluation]:
    """UserError where it is no result file of lm-eval's, or was cut short."""
    found = json_of(path)
    if not isinstance(found, dict) or not {"results", "configs", "versions"} <= set(found):
        raise UserError(f"{path}: neither a result file of lm-eval nor a log of inspect_ai")
    stamped = STAMP.search(path.stem)
    stamp = stamped[0] if stamped else path.stem.removeprefix("results_")
    config = found.get("config") or {}
    model = str(found.get("model_name") or config.get("model_args") or config.get("model") or "unknown")
    about = {"tool": "lm-eval", "backend": config.get("model"), "model_args": config.get("model_args")}
    about |= {"revision": config.get("model_revision"), "sha": config.get("model_sha")}
    evaluations = []
    for benchmark, tasks in _benchmarks(found).items():
        samples = {task: list(_samples(path.with_name(f"samples_{task}_{stamp}.jsonl"))) for task in tasks}
        settings = _settings(found, tasks, samples)
        fingerprint = digest({key: value for key, value in settings.items() if key not in NO_SETTINGS})
        notes: list[str] = []
        if all(samples.values()):
            raw = {key: {t: found[key].get(t, {}) for t in tasks} for key in ("results", "higher_is_better")}
            scores, rows = results.rows({**raw, "samples": samples}, "", benchmark, fingerprint, settings)
        else:
            scores, rows = list(_scores_alone(found, benchmark, fingerprint, settings)), []
            notes.append(NO_SAMPLES)
        when = f"{float(found.get('date') or 0):020.3f}"
        evaluations.append(Evaluation(model, about, benchmark, when, str(path), scores, rows, notes))
    return evaluations


def _benchmarks(found: Mapping[str, Any]) -> dict[str, list[str]]:
    """Benchmark to its tasks: a group that was asked for by name is one benchmark, as it is with `refinery run`."""
    inside = {name: list(tasks) for name, tasks in (found.get("group_subtasks") or {}).items() if tasks}
    children = {task for tasks in inside.values() for task in tasks}

    def leaves(name: str) -> list[str]:
        return [leaf for child in inside[name] for leaf in leaves(child)] if name in inside else [name]

    tops = [name for name in dict.fromkeys([*inside, *found["configs"]]) if name not in children]
    return {name: kept for name in tops if (kept := [leaf for leaf in leaves(name) if leaf in found["configs"]])}


def _samples(path: Path) -> Iterator[dict[str, Any]]:
    """Rows as lm-eval has them in memory: its files hold tuples as objects and numbers as text."""
    import json

    if not path.exists():
        return
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise UserError(f"{path}:{number}: no JSON ({error})") from error
            row["arguments"] = [tuple(each.values()) for each in row["arguments"].values()]
            if len(row["arguments"]) > 1 and isinstance(row["filtered_resps"][0], list):
                row["filtered_resps"] = [(float(first), *rest) for first, *rest in row["filtered_resps"]]
                row["target"] = int(row["target"]) if str(row["target"]).isdigit() else row["target"]
            row["metrics"] = row.get("metrics") or []
            yield row


def _settings(
    found: Mapping[str, Any], tasks: Sequence[str], samples: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, Any]:
    """In the words of evals/fingerprints.py, what means the same there."""
    config, first = found.get("config") or {}, tasks[0]
    own = found["configs"][first]
    written = own.get("output_type") == "generate_until"
    given = _generation(own, samples.get(first) or [])
    template = found.get("chat_template")
    settings = {
        "imported": "lm-eval",
        "harness": f"lm-eval {found.get('lm_eval_version') or UNKNOWN}",
        "backend": config.get("model") or UNKNOWN,
        "task": UNKNOWN,
        "task_config": digest([_without_paths(found["configs"][task]) for task in tasks]),
        "task_version": str(found["versions"].get(first)),
        "chat_template": digest(template) if template else None if "chat_template" in found else UNKNOWN,
        "system_prompt": found.get("system_instruction"),
        "shots": (found.get("n-shot") or {}).get(first, UNKNOWN),
        "dtype": str(config.get("model_dtype") or UNKNOWN).removeprefix("torch."),
        "device": str(config.get("device") or UNKNOWN).partition(":")[0],
        "batch_size": _batch_size(config),
        "limit": _whole(config.get("limit")),
        "max_tokens": _length(given, config) if written else None,
        "generation": UNKNOWN if written else {},
        "primary_metric": _primary(own, samples.get(first) or [], found["results"].get(first, {})),
    }
    if written and (given.get("do_sample") or given.get("temperature")):
        settings["sampling"] = {key: value for key, value in given.items() if key not in (*LENGTHS, "until")}
    return settings


def _generation(config: Mapping[str, Any], samples: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """As it was asked, command line included, where samples tell it; else as the task has it."""
    asked = samples[0]["arguments"][0][1:2] if samples else ()
    return asked[0] if asked and isinstance(asked[0], Mapping) else config.get("generation_kwargs") or {}


def _length(given: Mapping[str, Any], config: Mapping[str, Any]) -> Any:
    named = next((given[name] for name in LENGTHS if given.get(name)), None)
    return named or (HF_LENGTH if config.get("model") == "hf" else UNKNOWN)


def _batch_size(config: Mapping[str, Any]) -> Any:
    given = config.get("batch_size")
    return UNKNOWN if given is None else int(given) if str(given).isdigit() else str(given)


def _whole(limit: Any) -> Any:
    return int(limit) if isinstance(limit, float) and limit >= 1 and limit.is_integer() else limit


def _without_paths(value: Any) -> Any:
    if isinstance(value, Mapping):
        kept = {k: v for k, v in value.items() if k not in PATHS and not (k == "metadata" or k in LENGTHS)}
        return {key: _without_paths(each) for key, each in kept.items()}
    if isinstance(value, str):
        return ADDRESS.sub("", value)
    return [_without_paths(each) for each in value] if isinstance(value, list) else value


def _primary(config: Mapping[str, Any], samples: Sequence[Mapping[str, Any]], cells: Mapping[str, Any]) -> str:
    """The task's first metric under its first filter, as `refinery run` has it."""
    listed = config.get("metric_list") or []
    metric = listed[0].get("metric") if listed else (samples[0]["metrics"] if samples else [None])[0]
    filters = config.get("filter_list") or []
    if isinstance(metric, str):
        return results.label(metric, filters[0].get("name", "none") if filters else "none")
    known = [key for key in cells if "," in key and "_stderr" not in key]
    return results.label(*known[0].split(",", 1)) if known else UNKNOWN  # type: ignore[call-arg]


def _scores_alone(
    found: Mapping[str, Any], benchmark: str, fingerprint: str, settings: Mapping[str, Any]
) -> Iterator[Score]:
    """What the result file says by itself: means, and standard errors that know nothing of clusters."""
    cells = (found.get("groups") or {}).get(benchmark) or found["results"].get(benchmark) or {}
    n = int(((found.get("n-samples") or {}).get(benchmark) or {}).get("effective") or cells.get("sample_len") or 0)
    rises = (found.get("higher_is_better") or {}).get(benchmark) or {}
    for key, value in cells.items():
        if "," in key and "_stderr" not in key and isinstance(value, (int, float)):
            metric, _, filtered_by = key.partition(",")
            error = cells.get(f"{metric}_stderr,{filtered_by}")
            half = 1.96 * error if isinstance(error, (int, float)) else math.nan
            label, rising = results.label(metric, filtered_by), rises.get(metric) is not False
            ends = float(value) - half, float(value) + half
            yield Score("", benchmark, label, float(value), *ends, n, fingerprint, rising, dict(settings))
