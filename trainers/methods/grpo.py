"""Reinforcement learning of the model itself: group relative policy optimisation (arXiv:2402.03300) on its answers.

    r = w_answer · [the rollout gives the row's answer] + w_format · [it has the format] - w_overlong · overlong

The answer is compared by a rule of refinery/checks; where the rule cannot tell (it ran out of time) the reward is
unknown, and the rollout counts in no mean. Rows whose reference holds nothing to compare are left out and counted.
What is optimised stands in trainers/rl.py. Next to SFT on the same rows this is the on-policy end of the comparison
(arXiv:2510.18874): no answer of anyone else is ever imitated.
"""

from collections import Counter
from dataclasses import replace
from typing import Any

from pydantic import Field, field_validator

from refinery.checks import Check, compare, formats, reference_value
from refinery.checks import Kind as CheckKind
from refinery.errors import RowError
from refinery.records import Example
from refinery.spec_types import Template
from refinery.templates import render
from trainers import data
from trainers.job import Run, TrainJob
from trainers.rl_params import RlParams
from trainers.rl_plan import plan

__all__ = ["Params", "build", "plan", "prepare"]

VERSION = 1


class Params(RlParams):
    check: CheckKind = "contains"
    """The rule that compares a rollout with the reference."""
    of: Template = "{{ answer }}"
    """The reference: a column that holds the bare answer, or the whole reference text."""
    answer_weight: float = 1.0
    """w_answer."""
    format: str | None = None
    """A regular expression that a rollout must match somewhere for w_format; begin with \\A and end with \\Z for all of
    it."""
    format_weight: float = 0.5
    """w_format, where a format is given."""
    overlong_tokens: int | None = Field(None, ge=1)
    """The last tokens before `max_completion_length` over which DAPO's penalty of length (arXiv:2503.14476, Eq 13)
    rises from 0 to 1; none where it is left out."""
    overlong_weight: float = Field(1.0, ge=0)
    """w_overlong."""

    @field_validator("format")
    @classmethod
    def _is_a_pattern(cls, value: str | None) -> str | None:
        if value is not None and (mistake := formats.pattern_mistake(value)):
            raise ValueError(mistake)
        return value


def prepare(job: TrainJob, tokenizer: Any) -> data.Prepared:
    """Rows with an answer to be checked against; they need no response."""
    params: Any = job.params
    readable = [example for example in job.examples if _reference(example, params) is not None]
    found = data.prepare(readable, tokenizer, max_length=params.max_length, answered=False)
    lost = len(job.examples) - len(readable)
    return replace(found, dropped=found.dropped + Counter(unreadable_reference=lost)) if lost else found


def _reference(example: Example, params: Any) -> str | None:
    """What the answer is compared with; None where there is nothing to compare."""
    try:
        text = render(params.of, example.fields())
        return text if reference_value(params.check, text) is not None else None
    except (RowError, TimeoutError):
        return None


def build(run: Run) -> Any:
    """The transformers.Trainer of this method, ready to train."""
    from trainers import rl
    from trainers.rewards.texts import overlong

    params: Any = run.job.params
    examples = {example.id: example for example in run.job.examples}
    references = [_reference(examples[row.id], params) for row in run.prepared.rows]
    check = Check(params.check)

    def judge(groups: list[rl.Group]) -> rl.Judgement:
        made = rl.Judgement([], {"answer": [], "format": [], "overlong": []})
        limit = run.notes["rollout_limit"]
        for group in groups:
            reference = references[group.place]
            assert reference is not None
            rewards: list[float | None] = []
            for text, ids in zip(group.texts, group.ids, strict=True):
                right, shaped = compare(check, text, reference).agrees, _has_format(text, params.format)
                room = min(params.overlong_tokens or 0, limit)
                cost = overlong(len(ids), limit, room) if room else 0.0
                found = {
                    "answer": right,
                    "format": shaped if params.format else None,
                    "overlong": cost if room else None,
                }
                for name, value in found.items():
                    made.told[name] += [] if value is None else [float(value)]
                known = right is not None and shaped is not None
                gained = params.answer_weight * bool(right) + params.format_weight * bool(shaped)
                rewards.append(gained - params.overlong_weight * cost if known else None)
            made.rewards.append(rewards)
        return made

    return rl.build(run, judge)


def _has_format(text: str, pattern: str | None) -> bool | None:
    """None where that took too long."""
    if pattern is None:
        return False
    try:
        return formats.last_match(pattern, text) is not None
    except TimeoutError:
        return None
