"""What benchmark files have in common: three ways to say a task to evals/harness.py.

`builtin` is one of lm-eval's own, on the hub's rows or on local ones; `written` has its answers written, as a chat,
and scored by a function; `ranked` takes the likeliest of several choices. Each gives a task's configuration as lm-eval
has it, and four keys of ours: `include` (a file of lm-eval's own tasks, which the other keys change), `chat` (whether
the model's chat template is used, where it has one), `primary` (the metric, and filter, that counts) and `parses`
((item, answer) to whether the rule finds an answer in it at all, right or wrong; it changes no score).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evals.benchmarks._files import Rows
from evals.scorers.passk import pass_at_k, steps
from refinery.checks import value_of
from refinery.errors import UserError
from refinery.records import Message, digest
from refinery.spec_models import EvaluateSpec

Task = dict[str, Any]
Score = Callable[[Mapping[str, Any], str], dict[str, float]]
"""(item, answer) to metrics; the first one counts, and is 0 or 1."""

SAMPLED = {"do_sample": True, "temperature": 1.0, "top_p": 0.95}
"""Of several answers to one item, as SDFT samples them for pass@k (arXiv:2601.19897)."""


def builtin(
    file: str,
    name: str,
    settings: EvaluateSpec,
    rows: Mapping[str, Rows],
    *,
    chat: bool,
    primary: str = "",
    sampled: bool = False,
    **changes: Any,
) -> Task:
    """lm-eval's task in `file`, a path below its tasks folder. `rows` by split take the place of the hub's, where there
    are any. Where its rule takes several answers (`sampled`), `evaluate.samples` has them drawn."""
    task: Task = {"include": file, "task": name, "chat": chat, "primary": primary, **changes}
    if (shots := settings.shots.get(name)) is not None:
        task["num_fewshot"] = shots
    if (samples := settings.samples.get(name, 1)) > 1:
        if not sampled:
            raise UserError(f"evaluate.samples: {name} takes one answer an item")
        task |= {"repeats": samples, "generation_kwargs": Changed(lambda old: old | SAMPLED)}
    return task | local(rows) if rows else task


@dataclass(frozen=True)
class Changed:
    """In a task with `include`: the value that lm-eval's file has, changed."""

    by: Callable[[Any], Any]


def local(rows: Mapping[str, Rows]) -> Task:
    """The keys that make a task read these rows, by split."""
    content = {split: list(some) for split, some in rows.items()}
    return {
        "dataset_path": None,
        "dataset_name": None,
        "dataset_kwargs": {},
        "custom_dataset": lambda **_: {split: dataset(some) for split, some in content.items()},
        "metadata": {"rows": digest(content), "splits": sorted(content)},
    }


def dataset(rows: Rows) -> Any:
    from datasets import Dataset

    return Dataset.from_list(rows)


@dataclass
class Scored:
    """lm-eval's `process_results` for written answers: the metrics of one, or of several their mean and pass@k."""

    score: Score
    samples: int = 1

    def __call__(self, doc: Mapping[str, Any], results: Sequence[Any]) -> dict[str, float]:
        if self.samples == 1:
            return self.score(doc, results[0])
        each = [self.score(doc, text) for text in results[0]]
        primary = next(iter(each[0]))
        right = sum(one[primary] == 1 for one in each)
        found = {metric: sum(one[metric] for one in each) / len(each) for metric in each[0]}
        return found | {f"pass@{k}": pass_at_k(len(each), right, k) for k in steps(self.samples)}


def item(messages: Sequence[Message], reference: str, **more: Any) -> dict[str, Any]:
    """An item of `written`: its chat, the reference, and what else the score needs."""
    last = messages[-1]["content"]
    return {"messages": list(messages), "question": last, "reference": reference, **more}


def written(
    name: str, items: Rows, score: Score, metrics: Sequence[str], settings: EvaluateSpec, **changes: Any
) -> Task:
    """`items` as `item` makes them, each answered in greedy text, or `evaluate.samples` times by sampling."""
    if not items:
        raise UserError(f"benchmark {name}: its data hold no items")
    samples = settings.samples.get(name, 1)
    task: Task = {
        "task": name,
        "chat": True,
        "primary": metrics[0],
        "output_type": "generate_until",
        "test_split": "test",
        "doc_to_text": "question",
        "doc_to_target": "reference",
        "generation_kwargs": {"until": [], "do_sample": False},
        "process_results": Scored(score, samples),
        "num_fewshot": 0,
    }
    named = list(metrics)
    if samples > 1:
        task |= {"repeats": samples, "generation_kwargs": {"until": []} | SAMPLED}
        task["filter_list"] = [{"name": "none", "filter": [{"function": "custom", "filter_fn": every}]}]
        named += [f"pass@{k}" for k in steps(samples)]
    task["metric_list"] = [{"metric": each, "aggregation": "mean", "higher_is_better": True} for each in named]
    return _with_rows(task, items, changes)


FINDS = ("number", "boxed", "choice", "tool_call")
"""The rules of refinery/checks that look for something an answer may lack."""


def finds(kind: str) -> Callable[[Mapping[str, Any], str], bool] | None:
    """A task's `parses` where its answers are judged by this rule; None for a rule that takes any text."""
    return (lambda _, text: value_of(kind, text) is not None) if kind in FINDS else None


def every(answers: Any, _: Any) -> Any:
    """lm-eval's filter that keeps all answers to an item; its own keep the first."""
    return answers


def ranked(name: str, items: Rows, settings: EvaluateSpec, *, chat: bool = False, **changes: Any) -> Task:
    """`items` have `question`, `choices` and `gold`, the number of the right one from 0."""
    if not items:
        raise UserError(f"benchmark {name}: its data hold no items")
    if settings.samples.get(name, 1) > 1:
        raise UserError(f"evaluate.samples: {name} takes one answer an item")
    task: Task = {
        "task": name,
        "chat": chat,
        "primary": "acc",
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": "question",
        "doc_to_target": "gold",
        "doc_to_choice": "choices",
        "num_fewshot": 0,
        "metric_list": [
            {"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in ("acc", "acc_norm")
        ],
    }
    return _with_rows(task, items, changes)


def _with_rows(task: Task, items: Rows, changes: Mapping[str, Any]) -> Task:
    found = task | local({"test": items}) | dict(changes)
    return found | {"metadata": {"version": 1, "rows": digest(items), **changes.get("metadata", {})}}


def needs_data(name: str, dataset_name: str, origin: str) -> UserError:
    """For a benchmark that lm-eval has not got: where its files come from."""
    return UserError(
        f"benchmark {name} reads local files: put {origin} under evaluate.data, in the folder {dataset_name}"
    )
