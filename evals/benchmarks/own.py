"""Your own files as benchmarks: `evaluate.own` says where the rows are, what is asked, and how an answer counts.

    evaluate:
      own:
        capitals: {path: capitals.jsonl, prompt: "{{ q }}", answer: "{{ a }}", check: contains}
        quiz: {path: quiz.jsonl, prompt: "{{ question }}\\nAnswer:", choices: options, answer: "{{ correct }}"}
      domain: [capitals, quiz]

With `check` the model answers the chat in greedy text and the rule compares (`acc`); `check: judge` has
`evaluate.judge` grade it (`strict`, `lenient`). With `choices` the likeliest choice is taken (`acc`, and `acc_norm` by
length), without the chat template unless `chat_template: true`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from evals.benchmarks._judged import Judge, Judged, chosen, judged
from evals.benchmarks._tasks import Task, finds, item, ranked, written
from evals.scorers import grading
from refinery import templates
from refinery.checks import READINGS, agrees
from refinery.errors import UserError
from refinery.records import Example, Message
from refinery.sources import read_source
from refinery.spec_models import EvaluateSpec, OwnBenchmark, SourceSpec


def names() -> Sequence[str]:
    return ()


def task(name: str, *, settings: EvaluateSpec, judge: Judge | None = None, **_: Any) -> Task:
    own = settings.own[name]
    source = SourceSpec(path=own.path, prompt=own.prompt, answer=own.answer, system=own.system, limit=own.limit)
    rows = [outcome.example for outcome in read_source(source) if outcome.example is not None]
    if own.choices is not None:
        chat = bool(own.chat_template)
        ranks = [_choices(name, own, row, number, chat) for number, row in enumerate(rows, 1)]
        return ranked(name, ranks, settings, chat=chat)
    items = [item(row.prompt, row.answer, asked=row.question, **_cluster(own, row)) for row in rows]
    if own.check == "judge":
        from evals.benchmarks.knowledge import read

        return judged(name, items, Judged(chosen(name, judge), _question, read), ("strict", "lenient"), settings)
    found = written(
        name, [each | {"check": own.check} for each in items], score, ("acc",), settings, parses=finds(own.check)
    )
    found["metadata"]["version"] = READINGS.get(own.check or "", 1)
    found["chat"] = own.chat_template is not False
    if own.max_tokens:
        found["generation_kwargs"]["max_gen_toks"] = own.max_tokens
    return found


def score(doc: Mapping[str, Any], text: str) -> dict[str, float]:
    return {"acc": float(agrees(doc["check"], text, doc["reference"]))}


def _question(doc: Mapping[str, Any], text: str) -> list[Message]:
    return grading.question(doc["asked"], doc["reference"], text)


def _choices(name: str, own: OwnBenchmark, row: Example, number: int, chat: bool) -> dict[str, Any]:
    """An item of `ranked`. The answer is a choice as it stands, its letter from A, or its number from 0."""
    fields = row.fields()
    if isinstance(own.choices, str):
        choices = fields.get(own.choices)
    else:
        choices = [templates.render(each, fields) for each in own.choices or ()]
    if not isinstance(choices, list) or len(choices) < 2:
        raise UserError(f"evaluate.own.{name}: row {number} has no list of two or more choices")
    choices = [str(each) for each in choices]
    wanted = row.answer.strip()
    letters = [chr(ord("A") + place) for place in range(len(choices))]
    numbers = [str(place) for place in range(len(choices))]
    gold = next((known.index(wanted) for known in (choices, letters, numbers) if wanted in known), None)
    if gold is None:
        raise UserError(f"evaluate.own.{name}: the answer of row {number}, {wanted!r}, is none of its choices")
    found = {"question": "\n\n".join(turn["content"] for turn in row.prompt), "choices": choices, "gold": gold}
    found |= _cluster(own, row)
    return found | {"messages": row.prompt} if chat else found


def _cluster(own: OwnBenchmark, row: Example) -> dict[str, str]:
    if own.cluster is None:
        return {}
    if own.cluster not in row.fields():
        raise UserError(f"{own.path}: there is no column {own.cluster!r} to cluster by")
    return {"cluster": str(row.fields()[own.cluster])}
