"""The model's own answer where it is right, one closer to the reference where it is not, the reference last.

Stages are tried in order, and the first one with an accepted text gives the response:

    self        the model answers without the reference
    guided      it answers again with the reference before it, to digest it and tell it in its own way
    paraphrase  it says the reference in other words

A row on which no stage is accepted takes the fallback, which is the reference. Presets are the published orders (their
prompts are ours):

    s3ft                      self, paraphrase; 1 sample      S3FT (arXiv:2502.08130)
    mind_the_gap              self, guided; 4 samples         Mind the Gap (arXiv:2509.15157), which checks; its number
                                                              of samples is not public
    selective_self_rehearsal  self; 1 sample                  Selective Self-Rehearsal (arXiv:2409.04787)

The first and the last of these papers let a model judge, which `judge` does here; without one a text is accepted where
`check` finds its answer right, which costs nothing and cannot be talked round.
"""

import asyncio
from typing import Any, Literal

from pydantic import Field, model_validator

from refinery.checks import Kind
from refinery.context import Context
from refinery.errors import RowError
from refinery.judges import ModelJudge, Rule, judge_all
from refinery.ops import rewrite
from refinery.records import Example, Outcome
from refinery.rowops import (
    Fallback,
    WriterParams,
    answer_key,
    conversation,
    give_up,
    is_right,
    settle,
    unable,
    with_preset,
    write_all,
)
from refinery.spec_types import Template

VERSION = 1
VARIABLES = ("candidate",)
"""In the judge's prompt: the text to judge."""

Stage = Literal["self", "guided", "paraphrase"]

GUIDED = """\
Below are a question and an answer to it that is known to be right.

Question:
{{ question }}

Known answer:
{{ answer }}

Read the known answer until you see why it holds. Then answer the question afresh, the way you would explain it \
yourself, and come to the same conclusion. Write as if you had not been shown it."""

PRESETS: dict[str, dict[str, Any]] = {
    "s3ft": {"stages": ("self", "paraphrase"), "samples": 1},
    "mind_the_gap": {"stages": ("self", "guided"), "samples": 4},
    "selective_self_rehearsal": {"stages": ("self",), "samples": 1},
}


class Params(WriterParams):
    preset: Literal["s3ft", "mind_the_gap", "selective_self_rehearsal"] = "s3ft"
    """A published order; what is written beside it wins."""
    stages: tuple[Stage, ...] = Field(("self", "paraphrase"), min_length=1)
    """In the order in which they are tried."""
    samples: int = Field(1, ge=1, le=64)
    """Texts drawn in each stage that is reached, with sample indices 0 to samples - 1."""
    prompt: Template = "{{ question }}"
    """Of the stage self."""
    guided_prompt: Template = GUIDED
    """Of the stage guided."""
    paraphrase_prompt: Template = rewrite.PARAPHRASE
    """Of the stage paraphrase."""
    banned: tuple[str, ...] = rewrite.BANNED
    """Not in the stage self, which is shown no reference."""
    check: Kind = "last_word"
    of: Template = "{{ answer }}"
    """What an answer must agree with: a column that holds the bare answer, or the whole reference text."""
    judge: ModelJudge | None = None
    """Accepts instead of `check`: a text passes with a grade of at least `min_score`."""
    min_score: float = Field(0.5, ge=0, le=1)
    """The judge's grade from which on a text is accepted."""
    fallback: Fallback = "answer"

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, data: Any) -> Any:
        return with_preset(data, PRESETS, "s3ft")

    @model_validator(mode="after")
    def _once(self) -> "Params":
        if len(set(self.stages)) < len(self.stages):
            raise ValueError("a stage is there twice")
        return self


async def apply(example: Example, params: Params, ctx: Context) -> Outcome:
    """The first accepted text of the first stage that has one becomes the response, its accepted ones the candidates.

    scores: `stage` (the one that won, None where none did), `winner` (number of its sample), and `stages`, for each one
    reached: `stage`, `accepted` (of each sample: True, False, or None where the text was unusable or the judge could
    not tell), `grades` where a judge gave them, and `unknown` (sample to reason). The outcome's reason is the stage;
    none_accepted where nothing was; the first failure's where there was no text to accept, or no_judge_score where no
    text could be judged; and unreadable_reference.
    """
    fields = example.fields()
    key = await answer_key(params.check, params.of, fields) if params.judge is None else ""
    log: list[dict[str, Any]] = []
    for stage in params.stages:
        prompt = {"self": params.prompt, "guided": params.guided_prompt, "paraphrase": params.paraphrase_prompt}[stage]
        messages = conversation(example, prompt, params.system, fields)
        banned = () if stage == "self" else params.banned
        texts = await write_all(example, params, ctx, messages, range(params.samples), banned=banned)
        entry = {"stage": stage, **await _accepted(example, texts, key, params, ctx)}
        log.append(entry)
        right = [number for number, verdict in enumerate(entry["accepted"]) if verdict]
        if right:
            scores = {"stage": stage, "winner": right[0], "stages": log}
            found = [str(texts[number]) for number in right]
            return settle(example, found[0], found, scores, stage)
    return _nothing(example, params, log)


async def _accepted(
    example: Example, texts: list[str | RowError], key: str, params: Params, ctx: Context
) -> dict[str, Any]:
    """What the check or the judge says of each text."""
    failed = {str(number): text.reason for number, text in enumerate(texts) if isinstance(text, RowError)}
    if params.judge is None:
        right = [await is_right(params.check, text, key) if isinstance(text, str) else None for text in texts]
        failed |= {str(n): "unknown_verdict" for n, each in enumerate(right) if each is None and str(n) not in failed}
        return {"accepted": right, **({"unknown": failed} if failed else {})}
    grades = await asyncio.gather(*(_grade(example, text, params.judge, ctx) for text in texts))
    unknown = {**failed, **{str(n): why for n, (_, why) in enumerate(grades) if why}}
    accepted = [None if grade is None else grade >= params.min_score for grade, _ in grades]
    entry = {"accepted": accepted, "grades": [grade for grade, _ in grades]}
    return {**entry, "unknown": unknown} if unknown else entry


async def _grade(example: Example, text: str | RowError, judge: ModelJudge, ctx: Context) -> tuple[float | None, str]:
    """(the judge's grade, reason why there is none or "")."""
    if isinstance(text, RowError):
        return None, ""
    verdict = await judge_all((judge,), example, text, Rule("exact", "", judge.model), ctx)
    return verdict.mean, next(iter(verdict.unknown.values()), "")


def _nothing(example: Example, params: Params, log: list[dict[str, Any]]) -> Outcome:
    scores = {"stage": None, "winner": None, "stages": log}
    if any(verdict is False for entry in log for verdict in entry["accepted"]):
        return give_up(example, params.fallback, "none_accepted", scores)
    reason = next(iter(log[0].get("unknown", {}).values()), "none_accepted")
    return unable(example, params.on_error, "no_judge_score" if reason == "unparsable" else reason, scores)


def requests(params: Params) -> int:
    """Requests for each row, at most; a stage that is accepted spares the later ones."""
    return len(params.stages) * params.samples * (1 if params.judge is None else 2)


def notes(params: Params) -> list[str]:
    """What a person should know before running the step."""
    found = [f"tries {', then '.join(params.stages)}, then the reference"]
    if params.samples > 1 and params.temperature == 0:
        found.append(f"temperature 0 gives the same text in all {params.samples} samples")
    if params.judge is not None and params.judge.model == params.model:
        found.append("the writer judges its own texts; a judge of another family is fairer")
    return found
