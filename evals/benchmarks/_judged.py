"""Benchmarks whose written answers a model judges: the model that `evaluate.judge` names, asked through the store.

All answers of a benchmark are judged at once when they are all written. What the judge does not plainly say is unknown:
the item is left out of the metrics and counted under `ungraded`, and a comparison is of the items graded on all sides.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from evals.benchmarks._files import Rows
from evals.benchmarks._tasks import Task, written
from refinery.errors import UserError
from refinery.records import Message
from refinery.spec_models import EvaluateSpec


class Judge(Protocol):
    """evals/judging.py; a reply is None where the model failed on it or was cut off."""

    identity: str

    def __call__(self, asked: Sequence[Sequence[Message]]) -> Sequence[str | None]: ...


@dataclass(slots=True)
class Judged:
    """lm-eval's filter and its `process_results` at once: `asks` (item, answer) what is put to the judge, `reads` a
    reply as metrics from 0 to 1, or as None. Without a __dict__, so that a task's digest (evals/fingerprints.py) does
    not look into the judge; `judged` puts what counts into the task's metadata."""

    judge: Judge
    asks: Callable[[Mapping[str, Any], str], list[Message]]
    reads: Callable[[str], dict[str, float] | None]

    def graded(self, answers: Sequence[Sequence[str]], docs: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
        """The metrics of every answer, or None, in the answers' shape."""
        asked = [self.asks(doc, text) for doc, texts in zip(docs, answers, strict=True) for text in texts]
        replies = iter(self.judge(asked))
        read = [[next(replies) for _ in texts] for texts in answers]
        return [[None if reply is None else self.reads(reply) for reply in each] for each in read]

    def __call__(self, _: Mapping[str, Any], results: Sequence[Any]) -> dict[str, float]:
        every = results[0]
        known = [each for each in every if each is not None]
        found = {metric: sum(each[metric] for each in known) / len(known) for metric in known[0]} if known else {}
        return found | {"ungraded": 1 - len(known) / len(every)}


def judged(name: str, items: Rows, rules: Judged, metrics: Sequence[str], settings: EvaluateSpec, **more: Any) -> Task:
    """A task of written answers with `metrics`, the first of which counts, and `ungraded`."""
    found = written(name, items, _never, [*metrics, "ungraded"], settings)
    found |= {
        "process_results": rules,
        "filter_list": [{"name": "none", "filter": [{"function": "custom", "filter_fn": rules.graded}]}],
        "metadata": {**found["metadata"], "judge": rules.judge.identity, "asked": rules.asks(items[0], ""), **more},
    }
    for metric in found["metric_list"]:
        metric["higher_is_better"] = metric["metric"] != "ungraded"
    found["metric_list"] = [each for each in found["metric_list"] if not each["metric"].startswith("pass@")]
    return found


def chosen(name: str, judge: Judge | None) -> Judge:
    if judge is None:
        raise UserError(f"benchmark {name} is graded by a model: name one of models under evaluate.judge")
    return judge


def _never(doc: Mapping[str, Any], text: str) -> dict[str, float]:
    raise AssertionError("a judge grades this")
