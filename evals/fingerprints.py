"""What must be equal for two scores to be comparable: everything that changes a score while the weights stay the same.

Its digest is a score's fingerprint; its readable form is kept with the score, so that a difference can be named.
"""

import contextlib
import importlib.metadata
import inspect
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from evals import results
from evals.subjects import Subject
from refinery.records import digest
from refinery.spec_models import EvaluateSpec

LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
"""The names under which a task may say how long an answer can be."""

SHAPING = ("repetition_penalty", "no_repeat_ngram_size", "num_beams", "length_penalty", "early_stopping", "min_length",
           "min_new_tokens", "bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "sequence_bias",
           "forced_bos_token_id", "forced_eos_token_id", "guidance_scale")  # fmt: skip
"""The generation settings saved with a checkpoint that change even a greedy answer."""

DECLARED = ("args", "max_context")
"""Of a server's entry under `models:`."""

ELSEWHERE = ("config_source", "data_files", "data_dir")
"""Paths in a task's configuration."""


def describe(tasks: Mapping[str, Any], subject: Subject, settings: EvaluateSpec) -> dict[str, Any]:
    """Setting to value. `subject` is the checkpoint as the harness knows it (evals/subjects.py)."""
    limits = [max_tokens(task) for task in tasks.values() if task.OUTPUT_TYPE == "generate_until"]
    first = next(iter(tasks.values()))
    primary = getattr(first, "primary", "") or next(iter(first._metric_fn_list))
    template = subject.chat_template if chats(tasks) else None
    return {
        "harness": f"lm-eval {importlib.metadata.version('lm-eval')}",
        "task": digest([task_digest(task) for task in tasks.values()]),
        "task_version": str(first.VERSION),
        "chat_template": template if template is None or subject.tokenizer is None else digest(template),
        "shots": first.get_config("num_fewshot"),
        "dtype": subject.dtype,
        "device": subject.device,
        "batch_size": subject.batch_size,
        "backend": subject.backend,
        "max_tokens": max(limits, default=None),
        "limit": settings.limit,
        "generation": shaping(subject.generation),
        "primary_metric": results.label(primary, first._filters[0].name),
    }


def shaping(generation: Mapping[str, Any]) -> dict[str, Any]:
    """Of the settings saved with weights, or declared for a server, those that shape what is said."""
    return {key: generation[key] for key in (*SHAPING, *DECLARED) if generation.get(key) is not None}


def chats(tasks: Mapping[str, Any]) -> bool:
    """Are prompts put into the model's chat template, where it has one?"""
    return all(getattr(task, "chat", True) for task in tasks.values())


def max_tokens(task: Any) -> int:
    """How long an answer to this task may be."""
    given = task.get_config("generation_kwargs")
    return int(next(given[name] for name in LIMITS if given.get(name)))


@lru_cache(maxsize=256)
def task_digest(task: Any) -> str:
    """Digest of a task's configuration and data."""
    return digest([readable(task), [dict(doc) for doc in task.eval_docs]])


def readable(task: Any) -> dict[str, Any]:
    """A task's configuration as it counts: functions as their source, no paths, no length of answers."""
    config = dict(vars(task.config))
    for key, apart in (("generation_kwargs", LIMITS), ("metadata", ELSEWHERE), ("dataset_kwargs", ELSEWHERE)):
        config[key] = {name: value for name, value in (config[key] or {}).items() if name not in apart}
    return _plain(config)


def _plain(value: Any) -> Any:
    """Functions as their source, so that a digest is the same in the next process."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    if inspect.isroutine(value):
        with contextlib.suppress(OSError, TypeError):
            return inspect.getsource(value)
    if hasattr(value, "__dict__") and not inspect.isclass(value):
        return [type(value).__name__, _plain(vars(value))]
    return getattr(value, "__qualname__", type(value).__name__)
