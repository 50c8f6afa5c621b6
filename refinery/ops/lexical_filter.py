"""Keep a rewrite by its wording: phrases it must or must not hold, nearness to the reference, repetition, refusal.

Self-distillation's acceptance rules (SDFT 2024, arXiv:2402.13669) are banned phrases and banned openings;
the other measures are those of the ngram diagnostics, so that a threshold can be read off their histograms.
"""

import asyncio
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

from pydantic import Field, model_validator

from refinery.checks import formats
from refinery.context import Context
from refinery.diagnostics import ngram
from refinery.errors import RowError
from refinery.filtering import candidates_of, ordered, sift, within
from refinery.records import Example, Outcome
from refinery.rowops import Fallback, RowParams
from refinery.spec_types import Template
from refinery.templates import render

VERSION = 1
VARIABLES: tuple[str, ...] = ()

OPENING = 160
"""Characters at the start of a text in which a refusal is looked for."""
REFUSALS = (
    r"\b(?:i|we)(?:'m| am|'re| are)(?: really| very)? sorry\b(?=.{0,40}\b(?:can't|cannot|can not|unable|not able))",
    r"^\W*(?:i'm )?sorry,? (?:but )?(?:i|we) (?:can't|cannot|can not|am|'m|won't|don't)",
    r"\b(?:i|we) (?:can't|cannot|can not|won't|will not|am not able to|are not able to|am unable to|are unable to|must "
    r"decline to) (?:\w+ly )?(?:help|assist|provide|comply|fulfil|fulfill|answer|generate|create|write|engage|offer|"
    r"support|do that|do this|complete|discuss|give)",
    r"\bi'm (?:unable|not able) to\b",
    r"\bas an ai\b|\bas a (?:large )?language model\b",
)
"""Openings of a model that does not do what it was asked, in lower case with straight apostrophes; English."""


class Params(RowParams):
    banned: tuple[str, ...] = ()
    """Phrases, as whole words in any case and spacing."""
    banned_starts: tuple[str, ...] = ()
    """Phrases that a text may not begin with, in any case."""
    banned_patterns: tuple[str, ...] = ()
    """Regular expressions that may match nowhere; (?i) for any case."""
    required: tuple[str, ...] = ()
    """Phrases that a text must all hold."""
    required_patterns: tuple[str, ...] = ()
    """Regular expressions that must all match somewhere."""
    unless_given: bool = True
    """A banned phrase, start or pattern that the question or the reference holds too is their subject and passes, and
    so does a refusal where the reference refuses. With false, what is banned is banned."""
    refusals: bool = False
    """true refuses texts that open with "I'm sorry, but I can't" and the like."""
    against: Template = "{{ answer }}"
    """What ROUGE-L and copying are measured against."""
    min_rouge_l: float | None = Field(None, ge=0, le=1)
    """ROUGE-L, as for max_rouge_l: below it the text has little of the reference's wording."""
    max_rouge_l: float | None = Field(None, ge=0, le=1)
    """F1 of the longest common subsequence of words; 1 says word for word the same."""
    max_copied: float | None = Field(None, ge=0, le=1)
    """Share of the text's four-word sequences that stand in the reference too."""
    max_repetition: float | None = Field(None, ge=0, le=1)
    """rep-4: one less the share of different four-word sequences (unlikelihood training, arXiv:1908.04319)."""
    fallback: Fallback = "answer"

    @model_validator(mode="after")
    def _asks_something(self) -> "Params":
        rules = ("banned", "banned_starts", "banned_patterns", "required", "required_patterns", "refusals")
        bounds = ("min_rouge_l", "max_rouge_l", "max_copied", "max_repetition")
        if not any(getattr(self, name) for name in rules) and all(getattr(self, name) is None for name in bounds):
            raise ValueError(f"no rule is given: name at least one of {', '.join((*rules, *bounds))}")
        ordered(self.min_rouge_l, self.max_rouge_l, "rouge_l")
        for name in ("banned", "banned_starts", "required"):
            if any(not phrase.split() for phrase in getattr(self, name)):
                raise ValueError(f"{name} holds an empty phrase")
        for pattern in (*self.banned_patterns, *self.required_patterns):
            if mistake := formats.pattern_mistake(pattern):
                raise ValueError(mistake)
        return self


async def apply(example: Example, params: Params, ctx: Context) -> Outcome:
    """Candidates that keep every rule stay in their order; the first becomes the response.

    scores: `reasons` (for every candidate None, or the first rule it breaks), `found` (the phrase or pattern that it
    breaks, else None), `winner`, and where a bound is given `rouge_l`, `copied_4` and `rep_4` of every candidate: None
    where a text is too short to have four words, which passes. Reasons, in this order: banned_phrase, banned_start,
    banned_pattern, refusal, missing_phrase, missing_pattern, rouge_low, rouge_high, copied, repetitive. A pattern that
    takes more than a second on a text fails the row as pattern_timed_out.
    """
    candidates = candidates_of(example)
    reference = render(params.against, example.fields())
    scores = _measured(candidates, reference, params)
    work = partial(_broken, example, params)
    try:
        if params.banned_patterns or params.required_patterns:
            broken = await asyncio.to_thread(lambda: [work(text) for text in candidates])
        else:
            broken = [work(text) for text in candidates]
    except TimeoutError:
        raise RowError("pattern_timed_out") from None
    reasons = [why or _out_of_bounds(i, scores, params) for i, (why, _) in enumerate(broken)]
    return sift(example, reasons, {**scores, "found": [found for _, found in broken]}, params.fallback)


def _measured(candidates: Sequence[str], reference: str, params: Params) -> dict[str, Any]:
    texts, wanted = [ngram.words(text) for text in candidates], ngram.words(reference)
    scores: dict[str, Any] = {}
    if params.min_rouge_l is not None or params.max_rouge_l is not None:
        scores["rouge_l"] = [_known(ngram.rouge_l(wanted, text)) for text in texts]
    if params.max_copied is not None:
        scores["copied_4"] = [_known(ngram.copied(wanted, text, 4)) for text in texts]
    if params.max_repetition is not None:
        scores["rep_4"] = [repetition(text) for text in texts]
    return scores


def _known(value: float) -> float | None:
    return None if value != value else round(value, 6)


def repetition(words: Sequence[str]) -> float | None:
    """rep-4 of a text: 1 - (different 4-grams) / (4-grams); None where it has fewer than four words."""
    grams = list(zip(*(words[i:] for i in range(4)), strict=False))
    return round(1 - len(set(grams)) / len(grams), 6) if grams else None


def _out_of_bounds(i: int, scores: dict[str, Any], params: Params) -> str | None:
    nearness = within(scores.get("rouge_l", {i: None})[i], params.min_rouge_l, params.max_rouge_l)
    if nearness:
        return "rouge_low" if nearness < 0 else "rouge_high"
    if within(scores.get("copied_4", {i: None})[i], None, params.max_copied):
        return "copied"
    return "repetitive" if within(scores.get("rep_4", {i: None})[i], None, params.max_repetition) else None


def _broken(example: Example, params: Params, text: str) -> tuple[str | None, str | None]:
    """(the first rule on phrases that `text` breaks, by which phrase or pattern)."""
    given = [example.question, example.answer] if params.unless_given else []
    for phrase in params.banned:
        if _holds(phrase, text) and not any(_holds(phrase, other) for other in given):
            return "banned_phrase", phrase
    for phrase in params.banned_starts:
        if _starts(phrase, text) and not any(_starts(phrase, other) for other in given):
            return "banned_start", phrase
    for pattern in params.banned_patterns:
        if _matches(pattern, text) and not any(_matches(pattern, other) for other in given):
            return "banned_pattern", pattern
    if params.refusals and refuses(text) and not (params.unless_given and refuses(example.answer)):
        return "refusal", None
    for phrase in params.required:
        if not _holds(phrase, text):
            return "missing_phrase", phrase
    for pattern in params.required_patterns:
        if not _matches(pattern, text):
            return "missing_pattern", pattern
    return None, None


def _holds(phrase: str, text: str) -> bool:
    pattern = r"(?<!\w)" + r"\s+".join(map(re.escape, phrase.split())) + r"(?!\w)"
    return re.search(pattern, text, re.IGNORECASE) is not None


def _starts(phrase: str, text: str) -> bool:
    return " ".join(text.casefold().split()).startswith(" ".join(phrase.casefold().split()))


def _matches(pattern: str, text: str) -> bool:
    return formats.compiled(pattern).search(text, timeout=formats.LIMIT, concurrent=True) is not None


def refuses(text: str) -> bool:
    """Does the text open with a refusal?"""
    opening = " ".join(text.replace("’", "'").lower().split())[:OPENING]
    return any(re.search(pattern, opening) for pattern in REFUSALS)
