"""What a benchmark's name or file means: the lm-eval tasks behind it, ready to be run.

A task is one of lm-eval's own, one of ours (evals/benchmarks), or a file of the user's, which runs no code unasked.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from evals import fingerprints, offline
from evals.benchmarks._tasks import Changed
from refinery import catalog, taskfiles
from refinery.errors import UserError, did_you_mean
from refinery.records import Example
from refinery.spec_models import EvaluateSpec, SelectSpec


def tasks_of(
    benchmark: str, settings: EvaluateSpec, heldout: Sequence[Example] | None, select: SelectSpec, judge: Any
) -> dict[str, Any]:
    """The lm-eval tasks of one benchmark: one, or several where it is a group such as mmlu."""
    if benchmark.endswith((".yaml", ".yml")):
        return _load_file(benchmark, settings.allow_code)
    module = "own" if benchmark in settings.own else catalog.benchmarks().get(benchmark)
    source = benchmark if module is None else catalog.module(catalog.BENCHMARKS, module).task(
        benchmark, settings=settings, examples=heldout, select=select, judge=judge
    )  # fmt: skip
    if isinstance(source, dict | list):
        configs = source if isinstance(source, list) else [source]
        tasks = {config["task"]: _configured(config) for config in configs}
    else:
        tasks = _load(str(source), named=isinstance(source, str))
    if any(getattr(task, "UNSAFE_CODE", False) for task in tasks.values()):
        _may_run_code(benchmark, settings)
    return tasks


def _may_run_code(benchmark: str, settings: EvaluateSpec) -> None:
    """Only HumanEval's and MBPP's families are known to run their programs through `code_eval` alone."""
    known = benchmark.startswith(("humaneval", "mbpp"))
    if not settings.run_code or not (known or settings.run_code == "unsandboxed"):
        mode = "true" if known else "unsandboxed"
        raise UserError(f"benchmark {benchmark} runs code that the model writes: evaluate.run_code: {mode} lets it")


def _load_file(path: str, allow_code: bool) -> dict[str, Any]:
    if wrong := taskfiles.mistakes(Path(path), allow_code):
        raise UserError(wrong[0])
    if not allow_code:
        _refuse_metric_scripts(Path(path))
    return _load(path, named=False)


@lru_cache(maxsize=64)
def _load(source: str, named: bool) -> dict[str, Any]:
    """Tasks by their own name (`named`, from all that lm-eval knows) or from a file; kept for the next checkpoint."""
    manager = _index() if named else _manager(include_defaults=False)
    try:
        with offline.loading():
            tasks = manager.load([source])["tasks"]
    except KeyError:
        known = [*catalog.benchmarks(), *_index().all_tasks]
        raise UserError(f"there is no benchmark {source}{did_you_mean(source, known)}") from None
    except (OSError, ImportError) as error:
        raise UserError(f"benchmark {source}: {str(error).strip().splitlines()[0]}") from error
    for task in tasks.values():
        _prepare(task)
    return tasks


def _prepare(task: Any) -> None:
    """What lm-eval's own entry point does to a task before it runs it."""
    if task.get_config("num_fewshot") is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=1234)
    task.limits_itself = any((task.get_config("generation_kwargs") or {}).get(name) for name in fingerprints.LIMITS)


@lru_cache(maxsize=1)
def _index() -> Any:
    """lm-eval's own tasks; reading their 13,000 files takes some ten seconds, so only on demand."""
    return _manager(include_defaults=True)


def _manager(include_defaults: bool) -> Any:
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise UserError(f'evaluation needs {error.name}: pip install "refinery[eval]"') from error
    return TaskManager(include_defaults=include_defaults)


def _refuse_metric_scripts(path: Path) -> None:
    """A metric that lm-eval does not know is looked for as a script, on the hub or beside us."""
    from lm_eval.api import metrics, registry
    from lm_eval.tasks._yaml_loader import load_yaml

    del metrics  # imported because that fills the registry
    for entry in load_yaml(path, resolve_func=False).get("metric_list") or []:
        if entry.get("metric") not in registry.metric_registry:
            raise UserError(
                f"{path}: lm-eval has no metric {entry.get('metric')!r} of its own, and a script needs allow_code"
            )


def _configured(config: dict[str, Any]) -> Any:
    """A task of ours (evals/benchmarks/_tasks.py). Items with a column `messages` are whole chats."""
    from lm_eval.api.task import ConfigurableTask

    class ChatTask(ConfigurableTask):
        def fewshot_context(self, doc: dict, *args: Any, chat_template: Callable | None = None, **options: Any) -> Any:
            if "messages" not in doc:
                return super().fewshot_context(doc, *args, chat_template=chat_template, **options)
            if chat_template is None:
                return "\n\n".join(turn["content"] for turn in doc["messages"]) + "\n\n"
            return chat_template(doc["messages"])

    config = dict(config)
    chat, primary, parses = config.pop("chat", True), config.pop("primary", ""), config.pop("parses", None)
    try:
        with offline.loading():
            config = _as_lm_eval_has_it(config) if "include" in config else config
            config["metric_list"] = sorted(config["metric_list"], key=lambda each: each["metric"] != primary)
            task = ChatTask(config=config)
    except (OSError, ImportError) as error:
        raise UserError(f"benchmark {config['task']}: {str(error).strip().splitlines()[0]}") from error
    task.chat, task.primary, task.parses = chat, primary, parses
    _prepare(task)
    return task


def _as_lm_eval_has_it(config: dict[str, Any]) -> dict[str, Any]:
    """What the file under `include`, one of lm-eval's own tasks, says, with the other keys put over it."""
    from lm_eval import tasks
    from lm_eval.tasks._yaml_loader import load_yaml

    theirs = load_yaml(Path(tasks.__file__).parent / config["include"])
    ours = {
        key: value.by(theirs.get(key)) if isinstance(value, Changed) else value
        for key, value in config.items()
        if key != "include"
    }
    merged = theirs | ours | {"metadata": {**theirs.get("metadata", {}), **ours.get("metadata", {})}}
    splits = merged["metadata"].get("splits")
    for key in ("training_split", "validation_split", "test_split", "fewshot_split") if splits else ():
        merged[key] = merged.get(key) if merged.get(key) in splits else None
    examples = merged.get("training_split") or merged.get("fewshot_split") or merged.get("fewshot_config")
    if splits and merged.get("num_fewshot") and not examples:  # else they would come from the items that are asked
        raise UserError(f"benchmark {config['task']}: {merged['num_fewshot']} shots need a file of train rows besides")
    return merged
