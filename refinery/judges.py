"""Judges of a fused answer: programs and models, each giving a number from 0 to 1 or None where it cannot tell.

None is never counted as 0: a judge that answered in prose says nothing about the text. Every score carries the label of
what gave it, "program:likelihood" or "model:<name>", so that a program is never read as a model's opinion.
"""

import asyncio
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from refinery.checks import Kind
from refinery.context import Context
from refinery.errors import RowError
from refinery.records import Example
from refinery.rowops import is_right
from refinery.spec_types import ModelName, OpParams, Template
from refinery.structured import parse_json
from refinery.templates import render

Program = Literal["answer_agreement", "likelihood", "answer_and_likelihood"]

PROMPT = """\
Grade one answer to a question against a reference answer that is known to be right.

Question:
{{ question }}

Reference answer:
{{ answer }}

Answer to grade:
{{ candidate }}

Consider, in this order: does it give every fact of the reference and nothing that contradicts it; does it cover the \
whole question; does it read fluently, as a direct answer that does not speak of references or drafts. A wrong final \
answer is worth 0, a faultless one 1.

Reply with a single number between 0 and 1, such as 0.85, and nothing else."""


class ModelJudge(OpParams):
    """A model of the spec's `models:` as a judge. For a fair view choose another family than the writer's."""

    model: ModelName
    prompt: Template = PROMPT
    temperature: float = Field(0.0, ge=0)
    max_tokens: int = Field(256, ge=1)


Judge = Program | ModelJudge


@dataclass(frozen=True, slots=True)
class Rule:
    """What programs need to know of the step: the check for agreement, the reference, whose likelihood counts."""

    kind: Kind
    reference: str
    model: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """One text, judged. `scores` by judge label; `mean` over those that are known, None where none is."""

    scores: dict[str, float | None]
    unknown: dict[str, str]
    """Judge label to the reason why it gave nothing: unparsable, or a row failure such as prompt_too_long."""

    @property
    def mean(self) -> float | None:
        known = [score for score in self.scores.values() if score is not None]
        return sum(known) / len(known) if known else None


def labels(judges: Sequence[Judge]) -> list[str]:
    """One label a judge; where one stands twice (two prompts for a model), the later ones get "#2", "#3"."""
    found: list[str] = []
    for judge in judges:
        label = f"model:{judge.model}" if isinstance(judge, ModelJudge) else f"program:{judge}"
        same = sum(other.split("#")[0] == label for other in found)
        found.append(f"{label}#{same + 1}" if same else label)
    return found


async def judge_all(judges: Sequence[Judge], example: Example, candidate: str, rule: Rule, ctx: Context) -> Verdict:
    """All judges on one text, at the same time. A transient failure is raised, so that the row is asked again; any
    other failure of one judge makes its score unknown."""
    results = await asyncio.gather(*(_judge(judge, example, candidate, rule, ctx) for judge in judges))
    named = dict(zip(labels(judges), results, strict=True))
    if failure := next((r for r in results if isinstance(r, RowError) and r.transient), None):
        raise failure
    return Verdict(
        scores={label: None if isinstance(result, RowError) else result for label, result in named.items()},
        unknown={label: result.reason for label, result in named.items() if isinstance(result, RowError)},
    )


async def _judge(judge: Judge, example: Example, candidate: str, rule: Rule, ctx: Context) -> float | RowError:
    try:
        if isinstance(judge, ModelJudge):
            return await _ask(judge, example, candidate, ctx)
        return await _compute(judge, example, candidate, rule, ctx)
    except RowError as error:
        return error


async def _ask(judge: ModelJudge, example: Example, candidate: str, ctx: Context) -> float:
    content = render(judge.prompt, {**example.fields(), "candidate": candidate})
    message = [{"role": "user", "content": content}]
    reply = await ctx.ask(judge.model, message, temperature=judge.temperature, max_tokens=judge.max_tokens)
    score = parse(reply.text) if reply.finish_reason == "stop" else None
    if score is None:
        raise RowError("unparsable", reply.text[:80])
    return score


async def _compute(judge: Program, example: Example, candidate: str, rule: Rule, ctx: Context) -> float:
    """answer_agreement is 0 or 1. likelihood is exp of the mean log-probability of the candidate's tokens as an answer
    to the question alone: the geometric mean of its token probabilities, high for what the model would say by itself.
    answer_and_likelihood is their product, so that a wrong answer scores 0 and right ones are graded."""
    if judge != "likelihood":
        right = await is_right(rule.kind, candidate, rule.reference)
        if right is None:
            raise RowError("unknown_verdict", f"{rule.kind} could not tell")
        if not right:
            return 0.0
    if judge == "answer_agreement":
        return 1.0
    likelihood = await ctx.loglikelihood(rule.model, example.prompt, candidate)
    if not likelihood.tokens:
        raise RowError("empty_response")
    return math.exp(min(likelihood.mean, 0.0))


_NUMBER = re.compile(r"(?:(?:score|grade)\s*[:=]\s*)?\**(0(?:\.[0-9]+)?|1(?:\.0+)?|\.[0-9]+)\.?", re.IGNORECASE)


def parse(text: str) -> float | None:
    """The number that is the whole reply, from 0 to 1, or None. Accepts a label ("Score: 0.8"), emphasis, a full stop
    and a reasoning block in front; refuses 8/10, 85%, 1.2, 0,8 and numbers in prose, where a guess would be needed."""
    match = _NUMBER.fullmatch(without_thinking(text).strip("*`").strip())
    return float(match[1]) if match else None


def parse_rubric(text: str, criteria: Iterable[str], scale: tuple[int, int]) -> dict[str, float | None]:
    """A score for each criterion from a reply with several, None for each that the reply does not plainly give.

    Read are a JSON object with the criteria as keys (alone, or fenced), or else lines of their own: "accuracy: 4",
    "- **Accuracy**: 4/5" with the scale's top below the stroke; other lines are left aside. A score off the scale, a
    word, a truth value, and a criterion that is scored twice and differently are None: nothing is guessed or clipped.
    """
    bare = without_thinking(text)
    try:
        found = _scores_in_json(bare)
    except ValueError:
        found = _scores_in_lines(bare, scale[1])
    return {name: _on_scale(found.get(name.strip().casefold(), []), scale) for name in criteria}


def without_thinking(text: str) -> str:
    """The reply less a reasoning block in front."""
    return re.sub(r"^\s*<think>.*?</think>", "", text, flags=re.DOTALL).strip()


_LINE = re.compile(r"(?:[-*•]|[0-9]+[.)])?\s*[*_`\"]*([^:=*_`\"]+)[*_`\"]*\s*[:=]\s*[*_`]*(.+?)[*_`.,;]*")
_VALUE = re.compile(r"([0-9]+(?:\.[0-9]+)?)[*_`]*(?:\s*/\s*([0-9]+))?")


def _scores_in_json(text: str) -> dict[str, list[float]]:
    value = parse_json(text)
    if not isinstance(value, dict):
        raise ValueError("not an object")
    numbers = {k: v for k, v in value.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    found: dict[str, list[float]] = {}
    for name, score in numbers.items():
        found.setdefault(name.strip().casefold(), []).append(float(score))
    return found


def _scores_in_lines(text: str, top: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for line in text.splitlines():
        match = _LINE.fullmatch(line.strip())
        score = _VALUE.fullmatch(match[2].strip()) if match else None
        if match and score and score[2] in (None, str(top)):
            found.setdefault(match[1].strip().casefold(), []).append(float(score[1]))
    return found


def _on_scale(scores: list[float], scale: tuple[int, int]) -> float | None:
    if len(set(scores)) != 1 or not scale[0] <= scores[0] <= scale[1]:
        return None
    return scores[0]
