"""Score checkpoints with lm-eval. The only file that imports it.

Each benchmark's scores and samples are stored as it finishes, and one that the store holds already under the same
fingerprint is not run again; of one that was stopped, only the answers still missing are asked for. A fingerprint
covers what changes a score while the weights stay the same: the task with its data, chat template, shots, precision,
batch size, length limits and lm-eval itself. lm-eval run alone with the same settings gives the same scores.
"""

import contextlib
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from evals import fingerprints, offline, results
from evals.benchmarks._tasks import Changed
from evals.memory import Memory
from refinery import catalog, taskfiles
from refinery.errors import UserError, did_you_mean
from refinery.records import Example, Score, digest
from refinery.spec_models import EvaluateSpec, SelectSpec
from refinery.store import Store


def evaluate(
    checkpoint: str,
    model_path: str,
    benchmarks: Sequence[str],
    settings: EvaluateSpec | None = None,
    *,
    store: Store,
    base: str | None = None,
    heldout: Sequence[Example] | None = None,
    select: SelectSpec | None = None,
    judge: Any | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Score]:
    """Every metric of one checkpoint on each benchmark, from the store where it stands there.

    `checkpoint` names the weights in the store, `model_path` is where they are; of a LoRA adapter that was trained
    elsewhere `base` says what it adapts, since the path that peft wrote down need not be here. `heldout` are the
    source's rows and `select` how answers to them are judged, for the benchmarks heldout and heldout_validation;
    `judge` grades where a model does (evals/judging.py). `progress` is told a benchmark, how many of its requests have
    an answer, and how many there are. UserError where a benchmark does not exist, its data cannot be had, or it would
    run code that the settings do not allow.
    """
    settings, select = settings or EvaluateSpec(), select or SelectSpec()
    standing = store.scores(checkpoint=checkpoint)
    subject = _Subject(model_path, settings, base)
    scores = []
    with results.Writer(store) as writer:
        for benchmark in benchmarks:
            with _as_lm_eval_alone(), offline.nothing_fetched(settings.run_code):
                tasks = _tasks(benchmark, settings, heldout, select, judge)
                _limit_answers(tasks, subject, settings)
                described = fingerprints.describe(tasks, subject, settings)
                fingerprint = digest(described)
                found = [s for s in standing if s.benchmark == benchmark and s.fingerprint == fingerprint]
                if not found:
                    notes = store.path.parent / "evaluating" / f"{digest([checkpoint, benchmark, fingerprint])}.jsonl"
                    with Memory(subject.lm, notes, partial(progress, benchmark) if progress else None) as lm:
                        raw = _run(lm, tasks, subject, settings)
                    described["prompts_cut"] = _prompts_cut(tasks, subject)
                    described |= (next(iter(tasks.values())).config.metadata or {}).get("told", {})
                    found, samples = results.rows(raw, checkpoint, benchmark, fingerprint, described)
                    writer.add(found, samples, notes)
            scores += found
    return scores


def open_weights(model_path: str, settings: EvaluateSpec, base: str | None = None) -> tuple[Any, Any]:
    """(model in evaluation mode, tokenizer) as they are evaluated."""
    return _Subject(model_path, settings, base).weights()


def precision(model_path: str, settings: EvaluateSpec) -> dict[str, str]:
    """How `open_weights` counts: dtype and device."""
    subject = _Subject(model_path, settings)
    return {"dtype": subject.dtype, "device": subject.device}


class _Subject:
    """The checkpoint: its tokenizer at once, its weights when a benchmark first asks for them."""

    def __init__(self, model_path: str, settings: EvaluateSpec, base: str | None = None):
        try:
            import torch
            from transformers import AutoTokenizer, GenerationConfig
        except ImportError as error:
            raise UserError(f'evaluation needs {error.name}: pip install "refinery[eval]"') from error
        from refinery.models.transformers import resolve

        self.path, self.settings, self.adapter = resolve(model_path), settings, None
        if base is not None and Path(self.path, "adapter_config.json").is_file():
            self.path, self.adapter = resolve(base), self.path
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        auto = "bfloat16" if self.device == "cuda" else "float32"
        self.dtype = auto if settings.dtype == "auto" else settings.dtype
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(self.path)
        except (OSError, ValueError) as error:
            raise UserError(f"model {model_path}: {str(error).strip().splitlines()[0]}") from error
        try:
            self.generation = GenerationConfig.from_pretrained(self.path).to_diff_dict()
        except OSError:
            self.generation = {}

    def weights(self) -> tuple[Any, Any]:
        from refinery.models.transformers import load

        return load(self.path, dtype=self.dtype, device=self.device, adapter=self.adapter)

    @cached_property
    def lm(self) -> Any:
        from lm_eval.models.huggingface import HFLM

        model, tokenizer = self.weights()
        _end_at_the_chat_end(model, tokenizer)
        return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=self.settings.batch_size)

    @cached_property
    def context(self) -> int:
        """Tokens that prompt and answer have together."""
        from lm_eval.models.utils import resolve_max_length
        from transformers import AutoConfig

        return resolve_max_length(AutoConfig.from_pretrained(self.path), self.tokenizer)


def _end_at_the_chat_end(model: Any, tokenizer: Any) -> None:
    """A checkpoint saved without its generation settings would go on past the end of its turn."""
    ends = model.generation_config.eos_token_id
    known = set(ends if isinstance(ends, list) else [ends]) - {None}
    if tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in known:
        model.generation_config.eos_token_id = sorted(known | {tokenizer.eos_token_id})


def _tasks(
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
    chat, primary = config.pop("chat", True), config.pop("primary", "")
    try:
        with offline.loading():
            config = _as_lm_eval_has_it(config) if "include" in config else config
            config["metric_list"] = sorted(config["metric_list"], key=lambda each: each["metric"] != primary)
            task = ChatTask(config=config)
    except (OSError, ImportError) as error:
        raise UserError(f"benchmark {config['task']}: {str(error).strip().splitlines()[0]}") from error
    task.chat, task.primary = chat, primary
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


def _limit_answers(tasks: dict[str, Any], subject: _Subject, settings: EvaluateSpec) -> None:
    """Where a task leaves the length of its answers open: the settings' limit, and prompts keep half the context."""
    for task in tasks.values():
        if task.OUTPUT_TYPE == "generate_until" and not task.limits_itself:
            longest = min(settings.max_tokens, subject.context // 2)
            task.set_config(key="generation_kwargs", value={"max_gen_toks": longest}, update=True)


def _run(lm: Any, tasks: dict[str, Any], subject: _Subject, settings: EvaluateSpec) -> dict[str, Any]:
    from lm_eval.evaluator import evaluate as lm_evaluate

    longest = max((fingerprints.max_tokens(t) for t in tasks.values() if t.OUTPUT_TYPE == "generate_until"), default=0)
    if longest >= subject.context:
        raise UserError(f"{next(iter(tasks))}: answers of {longest} tokens do not fit a context of {subject.context}")
    return lm_evaluate(
        lm,
        {"tasks": tasks},
        limit=settings.limit,
        bootstrap_iters=0,  # intervals are ours
        apply_chat_template=subject.tokenizer.chat_template is not None and fingerprints.chats(tasks),
        fewshot_as_multiturn=True,
        confirm_run_unsafe_code=bool(settings.run_code),
    )


def _prompts_cut(tasks: dict[str, Any], subject: _Subject) -> int:
    """Prompts too long for the context, of which lm-eval silently drops the beginning."""
    cut = 0
    for task in tasks.values():
        if task.OUTPUT_TYPE == "generate_until":
            room = subject.context - fingerprints.max_tokens(task)
            prompts = [instance.args[0] for instance in task.instances]
            cut += sum(len(ids) > room for ids in subject.tokenizer(prompts)["input_ids"])
    return cut


@contextlib.contextmanager
def _as_lm_eval_alone() -> Iterator[None]:
    """The random seeds of `lm_eval`'s command line, silence, and templates rendered in a sandbox.

    A task file's templates are Jinja, which lm-eval renders without one, so that any could run code.
    """
    import torch
    from jinja2.sandbox import SandboxedEnvironment

    try:
        from lm_eval import utils
        from lm_eval.api import model, task
        from lm_eval.models import huggingface
    except ImportError as error:
        raise UserError(f'evaluation needs {error.name}: pip install "refinery[eval]"') from error
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    places = (model, task, huggingface)
    before = [place.tqdm for place in places], utils.env, random.getstate(), np.random.get_state()
    sandbox = SandboxedEnvironment(undefined=utils.env.undefined, keep_trailing_newline=True)
    sandbox.filters |= utils.env.filters
    utils.env = sandbox
    for place, bar in zip(places, before[0], strict=True):
        place.tqdm = lambda *args, bar=bar, **options: bar(*args, **options | {"disable": True})
    random.seed(0)
    np.random.seed(1234)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(1234)
            yield
    finally:
        for place, bar in zip(places, before[0], strict=True):
            place.tqdm = bar
        utils.env = before[1]
        random.setstate(before[2])
        np.random.set_state(before[3])
