"""Keep a rewrite by its length: in a model's tokens, in words or characters, or as a share of the reference's."""

from typing import Any, Literal

from pydantic import Field, model_validator

from refinery.context import Context
from refinery.errors import RowError
from refinery.filtering import candidates_of, ordered, sift, within
from refinery.records import Example, Outcome
from refinery.rowops import Fallback, RowParams
from refinery.spec_types import ModelName, Template
from refinery.templates import render

VERSION = 1
VARIABLES: tuple[str, ...] = ()


class Params(RowParams):
    unit: Literal["words", "characters", "tokens"] = "words"
    """words are what white space separates; characters are code points; tokens are those of `model`."""
    model: ModelName | None = None
    """With unit: tokens, whose tokenizer counts. Its weights are not loaded."""
    min: int | None = Field(None, ge=0)
    """Shortest length that passes, in `unit`."""
    max: int | None = Field(None, ge=0)
    """Longest."""
    min_ratio: float | None = Field(None, ge=0)
    """Length over the reference's, in the same unit."""
    max_ratio: float | None = Field(None, ge=0)
    """Its upper bound."""
    against: Template = "{{ answer }}"
    """The reference for the ratio."""
    fallback: Fallback = "answer"

    @model_validator(mode="after")
    def _goes_together(self) -> "Params":
        if (self.unit == "tokens") != (self.model is not None):
            cure = 'unit: tokens needs "model"' if self.model is None else '"model" goes with unit: tokens'
            raise ValueError(f"{cure}, the one whose tokenizer counts")
        if all(bound is None for bound in (self.min, self.max, self.min_ratio, self.max_ratio)):
            raise ValueError("no bound is given: name at least one of min, max, min_ratio, max_ratio")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}: nothing would pass")
        ordered(self.min_ratio, self.max_ratio, "ratio")
        return self


async def apply(example: Example, params: Params, ctx: Context) -> Outcome:
    """Candidates within the bounds stay in their order; the first becomes the response.

    scores: `lengths` and, where a ratio is bounded, `ratios` of every candidate, `unit`, `reasons`, `winner`. Reasons:
    too_short, too_long, ratio_low, ratio_high; empty_reference where there is nothing to take a ratio of.
    """
    candidates = candidates_of(example)
    relative = params.min_ratio is not None or params.max_ratio is not None
    texts = [*candidates, render(params.against, example.fields())] if relative else list(candidates)
    lengths = await _lengths(texts, params, ctx)
    scores: dict[str, Any] = {"unit": params.unit, "lengths": lengths[: len(candidates)]}
    ratios: list[float | None] = [None] * len(candidates)
    if relative:
        if lengths[-1] == 0:
            raise RowError("empty_reference")
        ratios = [round(length / lengths[-1], 6) for length in lengths[:-1]]
        scores["ratios"] = ratios
    pairs = zip(lengths, ratios, strict=False)
    return sift(example, [_reason(length, ratio, params) for length, ratio in pairs], scores, params.fallback)


async def _lengths(texts: list[str], params: Params, ctx: Context) -> list[int]:
    if params.model is not None:
        return await ctx.count_tokens(params.model, texts)
    return [len(text) if params.unit == "characters" else len(text.split()) for text in texts]


def _reason(length: int, ratio: float | None, params: Params) -> str | None:
    if out := within(length, params.min, params.max):
        return "too_short" if out < 0 else "too_long"
    if out := within(ratio, params.min_ratio, params.max_ratio):
        return "ratio_low" if out < 0 else "ratio_high"
    return None
