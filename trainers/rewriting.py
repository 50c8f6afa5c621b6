"""What the methods that train a rewriter share: its prompts, and the rows as the frozen target sees them."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from refinery.checks import Check, compare, reference_value
from refinery.errors import RowError
from refinery.records import Example
from refinery.rowops import conversation
from refinery.templates import render
from trainers import data
from trainers.job import Run, TrainJob

if TYPE_CHECKING:
    from trainers.rewards.target import Target
    from trainers.rl import Judge

REWRITES = True
"""In a method's file: what it trains is a rewriter, under `rewriters:`, and not the spec's model."""


def prepare(job: TrainJob, tokenizer: Any) -> data.Prepared:
    """Rows whose prompts ask for a rewrite of their response, exactly as the rewrite operation asks."""
    params: Any = job.params
    asked, dropped = [], Counter[str]()
    for example in job.examples:
        try:
            if _reference(example, params) is None:
                raise RowError("unreadable_reference")
            turns = conversation(example, params.prompt, params.system, example.fields())
            asked.append(replace(example, prompt=turns))
        except RowError as error:
            dropped[error.reason] += 1
    found = data.prepare(asked, tokenizer, max_length=params.max_length)
    return replace(found, dropped=found.dropped + dropped)


def build(run: Run, judge: "Callable[[Run, Target], Judge]") -> Any:
    """The trainer of a rewriter; `judge` makes its reward from the run and the frozen target."""
    from trainers import rl
    from trainers.rewards.target import Target
    from trainers.teachers import check_head

    params: Any = run.job.params
    first = run.prepared.rows[0]
    check_head(run.model, first.prompt + first.answer)
    target = Target(run, run.arguments["per_device_train_batch_size"] * params.num_generations)
    trainer = rl.build(run, judge(run, target))
    target.attach(trainer)
    return trainer


def _reference(example: Example, params: Any) -> str | None:
    text = render(params.of, example.fields())
    try:
        return text if reference_value(params.check, text) is not None else None
    except TimeoutError:
        return None


@dataclass(frozen=True)
class Subject:
    """One row, as the target sees it."""

    example: Example
    question: list[int]
    """Its chat up to the assistant's words; nothing of the rewriting prompt."""
    original: list[int]
    """The demonstration that is rewritten."""
    reference: str


def subjects(run: Run, target: "Target") -> list[Subject]:
    """By a row's place."""
    examples = {example.id: example for example in run.job.examples}
    found = []
    for row in run.prepared.rows:
        example = examples[row.id]
        reference = render(run.job.params.of, example.fields())  # type: ignore[attr-defined]
        question, original = target.chat(example.prompt), target.words(example.response)
        found.append(Subject(example, question, original, reference))
    return found


def right(kind: str, text: str, whole: bool, reference: str) -> bool | None:
    """Whether a rewrite came to its end and gives the answer; None where the rule could not tell."""
    return compare(Check(kind), text, reference).agrees if whole else False
