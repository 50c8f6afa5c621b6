"""Score checkpoints with lm-eval.

Each benchmark's scores and samples are stored as it finishes, and one that the store holds already under the same
fingerprint is not run again; of one that was stopped, only the answers still missing are asked for. A fingerprint
covers what changes a score while the weights stay the same: the task with its data, chat template, shots, precision,
batch size, backend, length limits and lm-eval itself. lm-eval run alone with the same settings gives the same scores.
What a benchmark is stands in evals/tasks.py, what a checkpoint is in evals/subjects.py and evals/served.py.
"""

import contextlib
import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from evals import answers, fingerprints, offline, results
from evals.memory import Memory
from evals.subjects import Subject, Weights, opened
from evals.tasks import tasks_of
from refinery.errors import UserError
from refinery.records import Example, Score, digest
from refinery.spec_models import EvaluateSpec, SelectSpec
from refinery.store import Store

BY_LIKELIHOOD = ("multiple_choice", "loglikelihood", "loglikelihood_rolling")


def evaluate(
    checkpoint: str,
    subject: Subject | str,
    benchmarks: Sequence[str],
    settings: EvaluateSpec | None = None,
    *,
    store: Store,
    heldout: Sequence[Example] | None = None,
    select: SelectSpec | None = None,
    judge: Any | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Score]:
    """Every metric of one checkpoint on each benchmark, from the store where it stands there.

    `checkpoint` names the weights in the store; `subject` is what is asked, or the folder or hub id of weights that are
    run in this process. `heldout` are the source's rows and `select` how answers to them are judged, for the benchmarks
    heldout and heldout_validation; `judge` grades where a model does (evals/judging.py). `progress` is told a
    benchmark, how many of its requests have an answer, and how many there are. UserError where a benchmark does not
    exist, its data cannot be had, it would run code that the settings do not allow, or it needs likelihoods that the
    subject cannot give.
    """
    settings, select = settings or EvaluateSpec(), select or SelectSpec()
    model: Subject = Weights(subject, settings) if isinstance(subject, str) else subject
    standing = store.scores(checkpoint=checkpoint)
    asked = _Asked(settings, heldout, select, judge)
    scores = []
    with opened(model), results.Writer(store) as writer:
        asked.refuse(benchmarks, model)
        for benchmark in benchmarks:
            with _as_lm_eval_alone(), offline.nothing_fetched(settings.run_code):
                tasks = asked.tasks(benchmark)
                _limit_answers(tasks, model, settings)
                described = fingerprints.describe(tasks, model, settings)
                fingerprint = digest(described)
                found = [s for s in standing if s.benchmark == benchmark and s.fingerprint == fingerprint]
                if not found:
                    notes = store.path.parent / "evaluating" / f"{digest([checkpoint, benchmark, fingerprint])}.jsonl"
                    with Memory(model.lm, notes, partial(progress, benchmark) if progress else None) as lm:
                        raw = _run(lm, tasks, model, settings)
                    described["prompts_cut"] = _prompts_cut(tasks, model)
                    described |= (next(iter(tasks.values())).config.metadata or {}).get("told", {})
                    found, samples = results.rows(raw, checkpoint, benchmark, fingerprint, described)
                    told = answers.told(raw, tasks, lm.was_cut, found[0], described["primary_metric"])
                    writer.add([*found, *told], samples, notes)
                elif next(s for s in reversed(standing) if s.benchmark == benchmark).fingerprint != fingerprint:
                    store.add_scores(found)  # of several evaluations the one asked for last counts
            scores += found
    return scores


def check(
    benchmarks: Sequence[str],
    subject: Subject,
    settings: EvaluateSpec,
    heldout: Sequence[Example] | None = None,
    select: SelectSpec | None = None,
    judge: Any | None = None,
) -> None:
    """UserError where `evaluate` would refuse to ask the subject for likelihoods. Loads no weights and asks nothing."""
    _Asked(settings, heldout, select or SelectSpec(), judge).refuse(benchmarks, subject)


class _Asked:
    """What makes tasks of benchmarks' names, besides the names."""

    def __init__(self, settings: EvaluateSpec, heldout: Sequence[Example] | None, select: SelectSpec, judge: Any):
        self._settings, self._rest = settings, (heldout, select, judge)

    def tasks(self, benchmark: str) -> dict[str, Any]:
        return tasks_of(benchmark, self._settings, *self._rest)

    def refuse(self, benchmarks: Sequence[str], subject: Subject) -> None:
        """UserError that names all benchmarks for which the subject lacks likelihoods."""
        if subject.scores_text:
            return
        with _as_lm_eval_alone(), offline.nothing_fetched(self._settings.run_code):
            wanting = [name for name in benchmarks if _by_likelihood(self.tasks(name))]
        if wanting:
            raise UserError(
                f"{subject.place}: it gives no likelihoods of a prompt, which {', '.join(wanting)} need: leave them "
                "out, or say how it gives them with likelihood: prompt_logprobs (vLLM) or echo"
            )


def _by_likelihood(tasks: Mapping[str, Any]) -> bool:
    return any(task.OUTPUT_TYPE in BY_LIKELIHOOD for task in tasks.values())


def _limit_answers(tasks: dict[str, Any], subject: Subject, settings: EvaluateSpec) -> None:
    """Where a task leaves the length of its answers open: the settings' limit, and prompts keep half the context."""
    for task in tasks.values():
        if task.OUTPUT_TYPE == "generate_until" and not task.limits_itself:
            longest = min(settings.max_tokens, subject.context // 2) if subject.context else settings.max_tokens
            task.set_config(key="generation_kwargs", value={"max_gen_toks": longest}, update=True)


def _run(lm: Any, tasks: dict[str, Any], subject: Subject, settings: EvaluateSpec) -> dict[str, Any]:
    from lm_eval.evaluator import evaluate as lm_evaluate

    longest = max((fingerprints.max_tokens(t) for t in tasks.values() if t.OUTPUT_TYPE == "generate_until"), default=0)
    if subject.context and longest >= subject.context:
        raise UserError(f"{next(iter(tasks))}: answers of {longest} tokens do not fit a context of {subject.context}")
    return lm_evaluate(
        lm,
        {"tasks": tasks},
        limit=settings.limit,
        bootstrap_iters=0,  # intervals are ours
        apply_chat_template=subject.chat_template is not None and fingerprints.chats(tasks),
        fewshot_as_multiturn=True,
        confirm_run_unsafe_code=bool(settings.run_code),
    )


def _prompts_cut(tasks: dict[str, Any], subject: Subject) -> int | None:
    """Prompts too long for the context, of which the beginning is silently dropped; None where it is not known."""
    if subject.tokenizer is None or not subject.context:
        return None
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
