"""One answer out of two: the facts of the reference, the manner of the model's own rewrite (RAFT Eq 4).

    y^ = Fusion(x, y, y_bar)   where the earlier filters passed;   y^ = y where they did not

Several rounds are sampled one after another and judged; the round with the best mean score is kept, and a round whose
mean reaches `stop_at` ends the search. Rows that fell back earlier keep y: the graph passes them through unasked.
"""

from typing import Any

from pydantic import Field

from refinery.checks import Kind
from refinery.context import Context
from refinery.errors import RowError
from refinery.judges import Judge, ModelJudge, Rule, Verdict, judge_all
from refinery.ops import rewrite
from refinery.records import Example, Message, Outcome
from refinery.rowops import WriterParams, conversation, give_up, settle, usable
from refinery.spec_types import ModelName, Template
from refinery.templates import render

VERSION = 1
VARIABLES = ("rewrite", "candidate")
"""`rewrite` is the response that is to be fused; `candidate`, in a judge's prompt, the text to judge."""

PROMPT = """\
Below are a question and two answers to it. Merge them into one.

Question:
{{ question }}

First answer (its content is right):
{{ answer }}

Second answer (its style is right):
{{ rewrite }}

Take every fact, number and conclusion from the first answer; where the two disagree, the first one holds. Take \
wording, tone and layout from the second. Write only the merged answer, as a direct reply to the question that does \
not speak of these answers."""

BANNED = (*rewrite.BANNED, "first answer", "second answer", "merged answer", "both answers", "two answers")


class Params(WriterParams):
    model: ModelName = "self"
    prompt: Template = PROMPT
    banned: tuple[str, ...] = BANNED
    rounds: int = Field(3, ge=1, le=64)
    judges: tuple[Judge, ...] = Field(("answer_and_likelihood",), min_length=1)
    """Programs by name, models as {model: name, prompt: template}. The paper uses several models."""
    judge_model: ModelName | None = None
    """Whose likelihood the programs use; the fusing model's where not given."""
    stop_at: float = Field(0.8, ge=0, le=1)
    """Mean judge score at which no further round is sampled."""
    min_score: float | None = Field(None, ge=0, le=1)
    """Below it the response stays as it was, unfused, with the reason below_min_score."""
    check: Kind = "last_word"
    of: Template = "{{ answer }}"
    """With `check`: what counts as agreement for the programs."""


async def apply(example: Example, params: Params, ctx: Context) -> Outcome:
    """The best-judged fusion becomes the response.

    scores: `rounds` (for each: its failure's reason, or every judge's score, the unknown ones' reasons and the mean),
    `chosen` (the round), `mean` (its score), `stop_at`, `min_score`. Reasons: below_min_score (kept as it was),
    no_judge_score where no judge could tell on any round, and the first round's failure where no round gave a text.
    """
    fields = {**example.fields(), "rewrite": example.response}
    messages = conversation(example, params.prompt, params.system, fields)
    rule = Rule(params.check, render(params.of, fields), params.judge_model or params.model)
    log: list[dict[str, Any]] = []
    texts: list[str] = []
    errors: list[RowError] = []
    for number in range(params.rounds):
        try:
            text = await _fusion(example, params, ctx, messages, number)
        except RowError as error:
            if error.transient:
                raise
            errors.append(error)
            texts.append("")
            log.append({"failed": error.reason, "mean": None})
            continue
        verdict = await judge_all(params.judges, example, text, rule, ctx)
        texts.append(text)
        log.append(_entry(verdict))
        if verdict.mean is not None and verdict.mean >= params.stop_at:
            break
    return _choose(example, params, texts, log, errors)


async def _fusion(example: Example, params: Params, ctx: Context, messages: list[Message], number: int) -> str:
    reply = await ctx.ask(
        params.model,
        messages,
        sample=number,
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=params.top_k,
        max_tokens=params.max_tokens,
    )
    return usable(reply, params.banned, example)


def _entry(verdict: Verdict) -> dict[str, Any]:
    entry: dict[str, Any] = {"judges": verdict.scores, "mean": verdict.mean}
    return {**entry, "unknown": verdict.unknown} if verdict.unknown else entry


def _choose(
    example: Example, params: Params, texts: list[str], log: list[dict[str, Any]], errors: list[RowError]
) -> Outcome:
    """The earliest of the rounds with the best mean."""
    if len(errors) == len(texts):
        raise errors[0]
    judged = [number for number, entry in enumerate(log) if entry["mean"] is not None]
    scores: dict[str, Any] = {"rounds": log, "chosen": None, "mean": None, "stop_at": params.stop_at}
    if not judged:
        return give_up(example, params.on_error, "no_judge_score", scores)
    best = max(judged, key=lambda number: log[number]["mean"])
    scores |= {"chosen": best, "mean": log[best]["mean"], "min_score": params.min_score}
    if params.min_score is not None and scores["mean"] < params.min_score:
        return settle(example, example.response, example.candidates, {**scores, "chosen": None}, "below_min_score")
    return settle(example, texts[best], (), scores)


def requests(params: Params) -> int:
    """Requests for each row, at most: a round asks for one text, each model judge for one grade, and programs with
    likelihood for one score."""
    asking = sum(isinstance(judge, ModelJudge) or judge != "answer_agreement" for judge in params.judges)
    return params.rounds * (1 + asking)


def scored_by(params: Params) -> list[str]:
    """Models that must be able to score text: checked before anything runs."""
    scoring = any(judge in ("likelihood", "answer_and_likelihood") for judge in params.judges)
    return [params.judge_model or params.model] if scoring else []


def notes(params: Params) -> list[str]:
    """What a person should know before running the step."""
    models = {judge.model for judge in params.judges if isinstance(judge, ModelJudge)}
    if not models:
        return ["judged by programs alone; the paper's fusion has several model judges"]
    if len(models) == 1:
        return [f"one model judge ({models.pop()}); the paper's fusion has several"]
    return []
