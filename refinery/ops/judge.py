"""Models grade the response by a rubric; what grades too low can go.

Each judge gives each criterion a number on the scale. A reply that does not plainly give one leaves it unknown: it is
neither a low score nor a guess. A text's grade on a criterion is the mean over the judges that know, its `mean` that
over the criteria, unknown while any criterion is. For a fair view choose judges of another family than the writer's.
"""

import asyncio
from dataclasses import replace
from typing import Any

from pydantic import Field, model_validator

from refinery.context import Context
from refinery.errors import RowError
from refinery.judges import parse_rubric
from refinery.records import Example, Outcome
from refinery.rowops import Fallback, RowParams, give_up, settle, unable
from refinery.spec_types import ModelName, Template
from refinery.templates import render

VERSION = 1
VARIABLES = ("candidate", "rubric", "low", "high")
"""`candidate` is the text to grade, `rubric` the criteria with what they mean, `low` and `high` the scale's ends."""

RUBRIC = {
    "correctness": "it says nothing that is wrong, and its conclusion is that of the reference",
    "completeness": "it gives everything that the reference gives and covers the whole question",
    "clarity": "it reads fluently, as a direct answer that does not speak of references or drafts",
}

PROMPT = """\
Grade an answer to a question. A reference answer, known to be right, is there to compare with.

Question:
{{ question }}

Reference answer:
{{ answer }}

Answer to grade:
{{ candidate }}

Give each of these criteria a score from {{ low }} (not at all) to {{ high }} (wholly):
{% for name, meaning in rubric.items() %}
- {{ name }}: {{ meaning }}
{% endfor %}

Reply with a JSON object that has these criteria as its keys and the scores, as numbers, as its values; nothing else."""


class Params(RowParams):
    judges: tuple[ModelName, ...] = Field(("self",), min_length=1)
    rubric: dict[str, str] = Field(RUBRIC, min_length=1)
    """Criterion to what it asks."""
    scale: tuple[int, int] = (1, 5)
    """Its two ends; what is graded off it is unknown."""
    prompt: Template = PROMPT
    system: Template | None = None
    temperature: float = Field(0.0, ge=0)
    max_tokens: int = Field(256, ge=1)
    constrained: bool = False
    """Tells the server to hold the judge to JSON with a whole number for each criterion, where it can."""
    most: int = Field(8, ge=1, le=64)
    """The first so many candidates of a row are graded, and further ones are left out."""
    min_score: float | None = None
    """On the scale. Texts whose mean is lower, or unknown, go; without it the step grades and lets nothing go."""
    fallback: Fallback = "answer"

    @model_validator(mode="after")
    def _consistent(self) -> "Params":
        if self.scale[0] >= self.scale[1]:
            raise ValueError(f"the scale runs from its lower end to its upper one, not from {_ends(self.scale)}")
        if self.min_score is not None and not self.scale[0] <= self.min_score <= self.scale[1]:
            raise ValueError(f"min_score {self.min_score:g} is off the scale from {_ends(self.scale)}")
        for what, names in (("judge", self.judges), ("criterion", [name.strip().casefold() for name in self.rubric])):
            if twice := next((name for name in names if list(names).count(name) > 1), None):
                raise ValueError(f'the {what} "{twice}" is there twice')
        return self


def _ends(scale: tuple[int, int]) -> str:
    return f"{scale[0]} to {scale[1]}"


async def apply(example: Example, params: Params, ctx: Context) -> Outcome:
    """Graded candidates stay best first, unknown ones behind, and the first becomes the response.

    scores: `mean` and `criteria` (the best text's), `winner` (its index), `scale`, `min_score`; and `texts`, for each
    in the order it came: `mean`, `criteria` (mean over judges), `judges` (every score of every judge), `unknown` (judge
    to reason: unparsable where it left a criterion open, cut_off, or a failure such as prompt_too_long). Reasons:
    below_min_score; and no_judge_score where no text's mean is known, which keeps the row unless there is a `min_score`
    to pass.
    """
    texts = (example.candidates or (example.response,))[: params.most]
    graded = await asyncio.gather(*(_grade(example, text, params, ctx) for text in texts))
    means = [entry["mean"] for entry in graded]
    order = sorted(range(len(texts)), key=lambda i: (means[i] is None, -(means[i] or 0.0)))
    best = order[0]
    scores: dict[str, Any] = {"mean": means[best], "winner": None if means[best] is None else best}
    scores |= {"criteria": graded[best]["criteria"], "scale": list(params.scale), "min_score": params.min_score}
    scores["texts"] = graded
    if params.min_score is None:
        kept, reason = order, "ok" if means[best] is not None else "no_judge_score"
    else:
        kept = [i for i in order if means[i] is not None and means[i] >= params.min_score]
        reason = "ok"
    if not kept:
        scores["winner"] = None
        if means[best] is None:
            return unable(example, params.on_error, "no_judge_score", scores)
        return give_up(example, params.fallback, "below_min_score", scores)
    candidates = [texts[i] for i in kept] if example.candidates else []
    return replace(settle(example, texts[kept[0]], candidates, scores, reason), failed=means[best] is None)


async def _grade(example: Example, text: str, params: Params, ctx: Context) -> dict[str, Any]:
    """Every judge on one text. A transient failure is raised, so that the row is asked again."""
    low, high = params.scale
    fields = {**example.fields(), "candidate": text, "rubric": params.rubric, "low": low, "high": high}
    messages = [{"role": "user", "content": render(params.prompt, fields)}]
    if params.system is not None:
        messages.insert(0, {"role": "system", "content": render(params.system, fields)})
    found = await asyncio.gather(*(_ask(judge, messages, params, ctx) for judge in params.judges))
    judges = {f"model:{judge}": given for judge, (given, _) in zip(params.judges, found, strict=True)}
    unknown = {f"model:{judge}": why for judge, (_, why) in zip(params.judges, found, strict=True) if why}
    criteria = {name: _mean([given[name] for given in judges.values()]) for name in params.rubric}
    whole = None if None in criteria.values() else _mean(list(criteria.values()))
    entry = {"mean": whole, "criteria": criteria, "judges": judges}
    return {**entry, "unknown": unknown} if unknown else entry


async def _ask(judge: str, messages: list, params: Params, ctx: Context) -> tuple[dict[str, float | None], str]:
    """(score of each criterion, reason why one is unknown or "")."""
    nothing: dict[str, float | None] = dict.fromkeys(params.rubric)
    try:
        reply = await ctx.ask(
            judge,
            messages,
            temperature=params.temperature,
            max_tokens=params.max_tokens,
            schema=_schema(params) if params.constrained else None,
        )
    except RowError as error:
        if error.transient:
            raise
        return nothing, error.reason
    if reply.finish_reason != "stop":
        return nothing, "cut_off"
    given = parse_rubric(reply.text, params.rubric, params.scale)
    return given, "unparsable" if None in given.values() else ""


def _schema(params: Params) -> dict[str, Any]:
    whole = {"type": "integer", "minimum": params.scale[0], "maximum": params.scale[1]}
    if params.scale[1] - params.scale[0] <= 20:  # decoders hold a model to a list more surely than to bounds
        whole = {"enum": list(range(params.scale[0], params.scale[1] + 1))}
    properties = dict.fromkeys(params.rubric, whole)
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def checks(params: Params) -> bool:
    """Whether a wrong answer does not pass the step."""
    return params.min_score is not None


def requests(params: Params) -> int:
    """Requests for each row, at most: every judge on every candidate that is looked at."""
    return params.most * len(params.judges)


def notes(params: Params) -> list[str]:
    """What a person should know before running the step."""
    found = [f"one request for each judge and candidate, of which there may be {params.most} a row"]
    return found + (["one judge; several show how far they agree"] if len(params.judges) == 1 else [])
