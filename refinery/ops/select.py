"""Keep the best of several candidates: the closest, the likeliest, the best judged, the most different, the shortest.

likelihood is GRAPE's choice (arXiv:2502.04194): the candidate that the model itself would most likely give to the
question alone. diversity is farthest-point choice: after the first candidate, each time the one that is least like any
that was chosen. A choice never refuses a row: put filters before it.
"""

import asyncio
import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from refinery.context import Context
from refinery.errors import RowError
from refinery.filtering import candidates_of
from refinery.judges import ModelJudge, Rule, judge_all
from refinery.ops.semantic_filter import cosine
from refinery.records import Example, Outcome
from refinery.rowops import RowParams, settle
from refinery.spec_types import EncoderName, ModelName, Template
from refinery.templates import render

VERSION = 1
VARIABLES: tuple[str, ...] = ("candidate",)
"""`candidate`, in a judge's prompt: the text to judge."""

By = Literal["similarity", "likelihood", "judge", "diversity", "length"]
BELONGS = {
    "encoder": ("similarity", "diversity"),
    "against": ("similarity", "length"),
    "model": ("likelihood",),
    "judges": ("judge",),
    "prefer": ("length",),
}
"""Parameter to the values of `by` that it goes with."""


class Params(RowParams):
    by: By = "similarity"
    """What makes a candidate the best."""
    keep: int = Field(1, ge=1)
    """How many candidates stay, at most, best first."""
    encoder: EncoderName = "all-MiniLM-L6-v2"
    """similarity, diversity."""
    against: Template = "{{ answer }}"
    """similarity, length: the text that candidates are compared with."""
    model: ModelName | None = None
    """likelihood: whose. Needs a model that scores text."""
    judges: Annotated[tuple[ModelJudge, ...], Field(min_length=1)] | None = None
    """judge: {model: name, prompt: template}, each giving a number from 0 to 1; the mean of those known decides."""
    prefer: Literal["shortest", "longest", "nearest"] = "shortest"
    """length, in words; nearest is nearest to the reference's."""

    @model_validator(mode="after")
    def _goes_together(self) -> "Params":
        for name, kinds in BELONGS.items():
            if name in self.model_fields_set and getattr(self, name) is not None and self.by not in kinds:
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f'"{name}" goes with by: {" or ".join(kinds)}, and this is by: {self.by}')
        needed = {"likelihood": "model", "judge": "judges"}.get(self.by)
        if needed and getattr(self, needed) is None:
            raise ValueError(f'by: {self.by} needs "{needed}"')
        return self


def requests(params: Params) -> int:
    return {"likelihood": 1, "judge": len(params.judges or ())}.get(params.by, 0)


def notes(params: Params) -> list[str]:
    if params.by in ("likelihood", "judge"):
        return [f"by: {params.by} asks once for each candidate; the plan counts one candidate a row"]
    return []


def scored_by(params: Params) -> list[str]:
    return [params.model] if params.by == "likelihood" and params.model else []


async def apply(example: Example, params: Params, ctx: Context) -> Outcome:
    """The best `keep` candidates stay, best first; the best becomes the response. Of equals the earlier one wins.

    scores: `by`, `scores` (every candidate's, in the order it came: cosine, mean log-probability per token in nats,
    judge's mean, distance 1 - cosine to the nearest one chosen before, words, or their distance to the reference's),
    `chosen` (indices, best first), and `unknown` (candidate index to reason) where there are such: they come last. A
    score is None where it is not known, and in diversity for the first candidate and those not chosen. Reasons: ok;
    no_score where none is known, unless there is only one candidate; empty_reference where there is nothing to compare
    with.
    """
    candidates = candidates_of(example)
    unknown: dict[str, str] = {}
    if params.by == "diversity":
        scores, chosen = await _spread(candidates, params, ctx)
    else:
        scores, unknown = await _scores(example, candidates, params, ctx)
        known = [i for i, score in enumerate(scores) if score is not None]
        if not known and len(candidates) > 1:
            raise RowError("no_score", ", ".join(dict.fromkeys(unknown.values())))
        rest = [i for i in range(len(candidates)) if scores[i] is None]
        sign = -1 if params.by != "length" or params.prefer == "longest" else 1
        chosen = [*sorted(known, key=lambda i: sign * _rank(scores[i])), *rest][: params.keep]
    log: dict[str, Any] = {"by": params.by, "scores": scores, "chosen": chosen}
    log |= {"unknown": unknown} if unknown else {}
    kept = [candidates[i] for i in chosen]
    return settle(example, kept[0], kept if example.candidates else (), log)


def _rank(score: float | None) -> float:
    assert score is not None
    return score


async def _scores(
    example: Example, candidates: Sequence[str], params: Params, ctx: Context
) -> tuple[list[float | None], dict[str, str]]:
    """(each candidate's score, reasons of the unknown ones)."""
    match params.by:
        case "likelihood" | "judge":
            score = _likelihood if params.by == "likelihood" else _judged
            found = await asyncio.gather(*(_known(score(example, text, params, ctx)) for text in candidates))
            if late := next((each for each in found if isinstance(each, RowError) and each.transient), None):
                raise late
            unknown = {str(i): each.reason for i, each in enumerate(found) if isinstance(each, RowError)}
            return [None if isinstance(each, RowError) else each for each in found], unknown
        case "length":
            wanted = len(render(params.against, example.fields()).split())
            words = [len(text.split()) for text in candidates]
            return [abs(n - wanted) if params.prefer == "nearest" else n for n in words], {}
    reference = render(params.against, example.fields())
    if not reference.strip():
        raise RowError("empty_reference")
    vectors = np.asarray(await ctx.embed(params.encoder, [reference, *candidates]), dtype=np.float64)
    return [cosine(vectors[0], vector) for vector in vectors[1:]], {}


async def _known(score: Any) -> float | RowError:
    try:
        return await score
    except RowError as error:
        return error


async def _likelihood(example: Example, candidate: str, params: Params, ctx: Context) -> float:
    assert params.model is not None
    mean = (await ctx.loglikelihood(params.model, example.prompt, candidate)).mean
    if math.isnan(mean):
        raise RowError("empty_candidate")
    return round(mean, 6)


async def _judged(example: Example, candidate: str, params: Params, ctx: Context) -> float:
    rule = Rule("exact", example.answer, "")  # for judges that are programs, of which there are none here
    verdict = await judge_all(params.judges or (), example, candidate, rule, ctx)
    if verdict.mean is None:
        raise RowError(next(iter(verdict.unknown.values())))
    return round(verdict.mean, 6)


async def _spread(candidates: Sequence[str], params: Params, ctx: Context) -> tuple[list[float | None], list[int]]:
    """Greedy max-min choice, beginning with the first candidate, which was the best until then."""
    vectors = np.asarray(await ctx.embed(params.encoder, list(candidates)), dtype=np.float64)
    scores: list[float | None] = [None] * len(candidates)
    chosen = [0]
    nearest = [1 - cosine(vectors[0], vector) for vector in vectors]
    while len(chosen) < min(params.keep, len(candidates)):
        left = [i for i in range(len(candidates)) if i not in chosen]
        best = max(left, key=lambda i: nearest[i])
        scores[best] = round(nearest[best], 6)
        chosen.append(best)
        nearest = [min(old, 1 - cosine(vectors[best], v)) for old, v in zip(nearest, vectors, strict=True)]
    return scores, chosen
