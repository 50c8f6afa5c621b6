"""Keep a rewrite only where its answer agrees with the reference, by a rule on text (refinery/checks) or a model."""

import asyncio
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from refinery.checks import SLOW, Check, Finding, Kind, compare, formats, reference_value
from refinery.context import Context
from refinery.errors import RowError
from refinery.filtering import candidates_of
from refinery.records import Example, Outcome
from refinery.rowops import Fallback, RowParams, give_up, settle, unable
from refinery.spec_types import Later, ModelName, Template
from refinery.templates import render

VERSION = 2
VARIABLES: tuple[str, ...] = ("candidate", "reference")
"""In `prompt`: the text to judge, and what it must agree with."""

PROMPT = """\
Below are a question, a reference answer that is known to be right, and another answer. Do the two give the same \
answer to the question? Other words, another order and more explanation do not matter; a different result, a missing \
part or a contradiction does.

Question:
{{ question }}

Reference answer:
{{ reference }}

Other answer:
{{ candidate }}

Reply with YES or NO and nothing else."""

BELONGS = {
    "pattern": ("regex",),
    "json_schema": ("json_schema",),
    "choices": ("choice",),
    "tolerance": ("number", "numbers"),
    "min_recall": ("numbers", "entities"),
    "min_precision": ("numbers", "entities"),
    "model": ("judge",),
    "prompt": ("judge",),
    "max_tokens": ("judge",),
}
"""Parameter to the kinds that it goes with."""
NEEDED = {"regex": "pattern", "json_schema": "json_schema", "judge": "model"}


class Params(RowParams):
    kind: Literal[Kind, "regex", "json_schema", "judge"] = "last_word"
    """The rule: see refinery/checks. judge asks a model."""
    of: Template = "{{ answer }}"
    """The reference: a column that holds the bare answer, or the whole reference text."""
    fallback: Fallback = "answer"
    pattern: Annotated[str | None, Later] = None
    """regex: its group `answer`, else its first group, else the whole of its last match is compared."""
    json_schema: Annotated[dict[str, Any] | None, Later] = None
    """json_schema: the whole response must be JSON that follows it; the reference is not looked at."""
    choices: Annotated[str | None, Later] = Field(None, pattern=r"^[A-Z]{2,26}$")
    """choice: the letters there are, such as ABCD; ABCDE where left out."""
    tolerance: Annotated[float | None, Later] = Field(None, ge=0, lt=1)
    """number, numbers: the largest difference, as a share of the number that is looked for; 0 where left out."""
    min_recall: Annotated[float | None, Later] = Field(None, ge=0, le=1)
    """numbers, entities: share of what the reference holds that must be in the candidate; 1 where left out."""
    min_precision: Annotated[float | None, Later] = Field(None, ge=0, le=1)
    """numbers, entities: share of what the candidate holds that must be in the reference; 0 where left out."""
    model: Annotated[ModelName | None, Later] = None
    """judge: who is asked, once for each candidate. For a fair view choose another family than the writer's."""
    prompt: Annotated[Template | None, Later] = None
    """judge: must lead to YES or NO."""
    max_tokens: Annotated[int | None, Later] = Field(None, ge=1)
    """judge: 256 where left out; a model that thinks first needs more."""

    @model_validator(mode="after")
    def _goes_together(self) -> "Params":
        for name, kinds in BELONGS.items():
            if getattr(self, name) is not None and self.kind not in kinds:
                raise ValueError(f'"{name}" goes with kind: {" or ".join(kinds)}, and this is kind: {self.kind}')
        needed = NEEDED.get(self.kind)
        if needed and getattr(self, needed) is None:
            raise ValueError(f'kind: {self.kind} needs "{needed}"')
        mistake = formats.pattern_mistake(self.pattern) if self.pattern is not None else None
        mistake = mistake or (formats.schema_mistake(self.json_schema) if self.json_schema is not None else None)
        if mistake:
            raise ValueError(mistake)
        return self


def requests(params: Params) -> int:
    return int(params.kind == "judge")


def checks(params: Params) -> bool:
    """Whether a wrong answer does not pass the step."""
    return True


def notes(params: Params) -> list[str]:
    if params.kind == "judge":
        return [f"{params.model} is asked once for each candidate; the plan counts one candidate a row"]
    if params.kind == "contains":
        return ['contains also accepts "it is not Paris" where the reference is Paris']
    return []


async def apply(example: Example, params: Params, ctx: Context) -> Outcome:
    """Candidates that agree stay in their order (best cosine first behind a semantic_filter); the first one wins.

    scores: `agrees` (every candidate, in the order it came, None where that is unknown), `winner` (index, None where
    none agrees), `kind`; for numbers and entities `recall` and `precision` of every candidate; `unknown`, where there
    are such, candidate index to reason. Reasons: disagrees; unknown_verdict where none agrees and of at least one it is
    not known (a judge's reply that is neither YES nor NO, a comparison that took too long); unreadable_reference where
    the rule finds nothing to compare in the reference itself.
    """
    candidates = candidates_of(example)
    reference = render(params.of, example.fields())
    if params.kind == "judge":
        findings = await _ask_all(example, candidates, reference, params, ctx)
    elif params.kind in SLOW:
        findings = await asyncio.to_thread(_compare_all, params, candidates, reference)
    else:
        findings = _compare_all(params, candidates, reference)
    verdicts = [finding.agrees for finding in findings]
    right = [candidate for candidate, verdict in zip(candidates, verdicts, strict=True) if verdict]
    scores: dict[str, Any] = {
        "agrees": verdicts,
        "winner": verdicts.index(True) if right else None,
        "kind": params.kind,
    }
    scores |= {name: [finding.scores[name] for finding in findings] for name in findings[0].scores}
    unknown = {str(i): finding.unknown for i, finding in enumerate(findings) if finding.agrees is None}
    scores |= {"unknown": unknown} if unknown else {}
    if not right:
        if unknown:
            return unable(example, params.fallback, "unknown_verdict", scores)
        return give_up(example, params.fallback, "disagrees", scores)
    return settle(example, right[0], right, scores)


def _compare_all(params: Params, candidates: Sequence[str], reference: str) -> list[Finding]:
    check = Check.of_params(params.model_dump())
    assert check is not None
    try:
        readable = reference_value(check, reference) is not None or check.kind == "json_schema"
    except TimeoutError:
        readable = False
    if not readable:
        raise RowError("unreadable_reference", f"no {check.kind} in {reference[:80]!r}")
    return [compare(check, candidate, reference) for candidate in candidates]


async def _ask_all(
    example: Example, candidates: Sequence[str], reference: str, params: Params, ctx: Context
) -> list[Finding]:
    """All at the same time. A transient failure is raised, any other makes that candidate's verdict unknown."""
    if not reference.strip():
        raise RowError("unreadable_reference", "it is empty")
    found = await asyncio.gather(*(_ask(example, text, reference, params, ctx) for text in candidates))
    if failure := next((each for each in found if isinstance(each, RowError) and each.transient), None):
        raise failure
    return [Finding(None, unknown=each.reason) if isinstance(each, RowError) else each for each in found]


async def _ask(example: Example, candidate: str, reference: str, params: Params, ctx: Context) -> Finding | RowError:
    assert params.model is not None
    fields = {**example.fields(), "candidate": candidate, "reference": reference}
    message = [{"role": "user", "content": render(params.prompt or PROMPT, fields)}]
    try:
        reply = await ctx.ask(params.model, message, max_tokens=params.max_tokens or 256)
    except RowError as error:
        return error
    if reply.finish_reason == "length":
        return Finding(None, unknown="cut_off")
    verdict = parse(reply.text)
    return Finding(verdict, unknown="unparsable" if verdict is None else "")


def parse(text: str) -> bool | None:
    """True for YES, False for NO as the whole reply, None for anything else. Accepts any case, emphasis, a full stop, a
    label ("Verdict: YES") and a reasoning block in front."""
    bare = re.sub(r"^\s*<think>.*?</think>", "", text, flags=re.DOTALL).strip().strip("*`\"'").strip()
    match = re.fullmatch(r"(?:(?:answer|verdict)\s*:\s*)?\**(yes|no)\**[.!]?", bare, re.IGNORECASE)
    return match[1].lower() == "yes" if match else None
